"""Variations of a training clip: another loudness, another key. A voice with little data learns more from it.

Each is one function of an item and a random generator, as `VoiceDataset.augment` wants it; the generator is drawn
from (seed, epoch, clip), so that a resumed training hears what an unbroken one would have heard.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from svcnb.audio.loudness import volume_envelope
from svcnb.data.dataset import Item, crop

CHANCE = 0.5  # part of the clips that each variation changes
QUIETEST_EXPONENT = -1.0  # 10^-1 of the amplitude: -20 dB
# Cepstrum below this time is the envelope (formants), above it lie the harmonics of voices up to about 500 Hz.
ENVELOPE_S = 0.002
MAX_GAIN_DB = 24.0


@dataclass(frozen=True)
class Augmentation:
    """What to vary.

    Attributes:
        sample_rate_hz, hop_samples: the frame grid of the items.
        max_frames: no item gets longer, however it is stretched.
        key_shift_semitones: clips move by up to this, up or down; 0 leaves the key.
        loudness: vary the loudness of items that know their volume.
    """

    sample_rate_hz: int
    hop_samples: int
    max_frames: int
    key_shift_semitones: float = 0.0
    loudness: bool = False

    @property
    def is_on(self) -> bool:
        return self.loudness or self.key_shift_semitones > 0

    def __call__(self, item: Item, rng: np.random.Generator) -> Item:
        if self.key_shift_semitones and rng.random() < CHANCE:
            semitones = float(rng.uniform(-self.key_shift_semitones, self.key_shift_semitones))
            item = shift_key(item, semitones, sample_rate_hz=self.sample_rate_hz, hop_samples=self.hop_samples)
            if item.n_frames > self.max_frames:
                item = crop(item, 0, self.max_frames, hop_samples=self.hop_samples)
        if self.loudness and item.volume is not None and rng.random() < CHANCE:
            item = change_loudness(item, rng)
        return item


def change_loudness(item: Item, rng: np.random.Generator) -> Item:
    """Audio and volume times 10^s, s drawn evenly from -1 up to where the peak reaches full scale (at most 1).

    Source: so-vits-svc 4.1, train.vol_aug.
    """
    peak = float(item.audio.abs().max()) + 1e-5
    loudest = min(1.0, -np.log10(peak))
    factor = float(10.0 ** rng.uniform(QUIETEST_EXPONENT, loudest))
    return replace(item, audio=item.audio * factor, volume=None if item.volume is None else item.volume * factor)


def shift_key(item: Item, semitones: float, *, sample_rate_hz: int, hop_samples: int) -> Item:
    """The clip in another key, a little slower or faster, with the formants where they were.

    The recording is resampled, which moves every frequency and the tempo by 2^(semitones/12) exactly: harmonics
    stay as clean as they were and f0 is known without measuring it again. Content, f0 and volume follow in time.
    What must not move is the shape of the mouth, or the network learns a child's timbre for high keys: each
    frame is filtered so that its spectral envelope (smoothed cepstrum) is that of the original again.
    Keeping the tempo as well would need a phase vocoder, whose smearing the network would learn.

    Downwards nothing is left near half the sample rate: the upper 1 - 2^(semitones/12) of the band stays dull.

    Off unless asked for. Measured on 137 s of one reader after 300 steps of two clips: shifts of up to 3 semitones
    made f0 a little more exact (3 semitones up: 3.4 % of the frames off by 50 cents, instead of 5.5 %), but the voice
    less like the reader in every key (similarity lower by 0.02 to 0.1).

    Returns:
        round-about N / 2^(semitones/12) frames.
    """
    import soxr

    ratio = 2.0 ** (semitones / 12)
    moved = soxr.resample(item.audio.numpy(), sample_rate_hz * ratio, sample_rate_hz)  # [T / ratio]
    audio = _restore_envelope(torch.from_numpy(moved), ratio, sample_rate_hz)
    n_frames = min(len(audio) // hop_samples, int(item.n_frames / ratio))
    frames = (np.arange(n_frames) + 0.5) * ratio - 0.5  # where each new frame lay in the old ones
    nearest = torch.from_numpy(np.clip(np.rint(frames), 0, item.n_frames - 1).astype(np.int64))
    f0_hz = np.exp(np.interp(frames, np.arange(item.n_frames), np.log(np.maximum(item.f0_hz.numpy(), 1e-3))))
    audio = audio[: n_frames * hop_samples].contiguous()
    return replace(
        item,
        content=item.content[:, nearest],
        f0_hz=torch.where(item.f0_hz[nearest] > 0, torch.from_numpy(f0_hz * ratio).float(), 0.0),
        voiced=item.voiced[nearest],
        audio=audio,
        volume=None if item.volume is None else volume_envelope(audio, hop_samples),
    )


def _restore_envelope(audio: Tensor, ratio: float, sample_rate_hz: int) -> Tensor:
    """Filter audio [T], whose spectrum was stretched by `ratio`, so that its envelope is unstretched."""
    n_fft = 2 ** round(np.log2(sample_rate_hz * 0.04))  # 40 ms: two periods of a low voice
    window = torch.hann_window(n_fft)
    spectrum = torch.stft(audio, n_fft, n_fft // 4, window=window, return_complex=True)  # [F, N]
    log_magnitude = spectrum.abs().clamp_min(1e-5).log()
    cepstrum = torch.fft.irfft(log_magnitude, n=n_fft, dim=0)
    n_kept = round(ENVELOPE_S * sample_rate_hz)
    cepstrum[n_kept : n_fft - n_kept + 1] = 0
    envelope = torch.fft.rfft(cepstrum, dim=0).real  # [F, N], natural log
    bins = torch.arange(len(envelope)) * ratio  # the original's envelope at a bin is now found at this one
    lower = bins.floor().long().clamp(max=len(envelope) - 1)
    upper = (lower + 1).clamp(max=len(envelope) - 1)
    part = (bins - lower).clamp(0, 1).unsqueeze(1)
    original = envelope[lower] * (1 - part) + envelope[upper] * part
    limit = MAX_GAIN_DB / 20 * np.log(10)
    gain = (original - envelope).clamp(-limit, limit).exp()
    return torch.istft(spectrum * gain, n_fft, n_fft // 4, window=window, length=len(audio))
