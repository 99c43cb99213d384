"""Training data of a diffusion model: random crops of clips with their mels, half of them in another key.

Mel spectra are computed from the stored recordings whenever a crop is drawn. So no file on disk depends on
the vocoder or on the augmentation, and every epoch has every clip in a new key and loudness.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from svcnb.audio.audio import fit_length, resample_samples
from svcnb.audio.loudness import volume_envelope
from svcnb.audio.spectral import VocoderMel
from svcnb.conversion.self_conversion import SelfConvertedClips
from svcnb.data.batches import BucketBatches, VoiceLoader
from svcnb.data.dataset import Item, VoiceDataset
from svcnb.data.feature_store import FeatureStore
from svcnb.models.diffusion.config import Config
from svcnb.models.diffusion.network import SHIFT_SCALE

CHANCE = 0.5  # probability of another key and loudness, per crop
QUIETEST_EXPONENT = -1.0  # 10^-1 of the amplitude: -20 dB
MARGIN_FRAMES = 4  # extra audio on both sides of a crop: the reach of a mel window, key shift included
WHOLE_CLIP_FRAMES = 10**9


@dataclass
class Crop:
    """Part of a clip: N frames, and the audio of `MARGIN_FRAMES` more on both sides."""

    content: Tensor  # [D, N]
    f0_hz: Tensor  # [N], gaps interpolated, in the key of the crop
    volume: Tensor  # [N]
    audio: Tensor  # [(N + 2 * margin) * hop] at the vocoder's rate, -1..1
    start_audio: Tensor  # likewise; noise is added to its mel: the recording, or a self-converted clip
    speaker: int
    shift_semitones: float = 0.0  # of the mel spectrum, by VocoderMel's key shift

    @property
    def n_frames(self) -> int:
        return len(self.f0_hz)


@dataclass
class DiffusionBatch:
    """Crops padded with zeros to the longest."""

    content: Tensor  # [B, N, D]
    f0_hz: Tensor  # [B, N, 1]
    volume: Tensor  # [B, N, 1]
    audio: Tensor  # [B, (N + 2 * margin) * hop]
    start_audio: Tensor  # likewise
    speaker: Tensor  # [B, 1] long
    shift_semitones: Tensor  # [B, 1, 1]
    lengths: Tensor  # [B] long, frames

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device | str) -> DiffusionBatch:
        return DiffusionBatch(*(getattr(self, field.name).to(device) for field in fields(self)))

    def pin_memory(self) -> DiffusionBatch:
        return DiffusionBatch(*(getattr(self, field.name).pin_memory() for field in fields(self)))

    def mels(self, transform: VocoderMel) -> tuple[Tensor, Tensor]:
        """Target log mel, and the log mel that noise is added to, [B, N, M] each, with each crop's key shift;
        exact also at the ends of crops. The same tensor twice if they are equal."""
        mel = self._mel_of(self.audio, transform)
        return mel, self._mel_of(self.start_audio, transform) if self.is_refining.any() else mel

    @property
    def is_refining(self) -> Tensor:
        """bool [B]: crops whose noise is added to a self-converted clip instead of the target."""
        return (self.audio != self.start_audio).any(1)

    def _mel_of(self, audio: Tensor, transform: VocoderMel) -> Tensor:
        shifts = self.shift_semitones[:, 0, 0].tolist()
        parts = [
            transform(row[None], key_shift_semitones=shift) for row, shift in zip(audio, shifts, strict=True)
        ]
        return torch.cat(parts)[:, :, MARGIN_FRAMES:-MARGIN_FRAMES].transpose(1, 2)


class DiffusionClips(Dataset):
    """Random crops of a store's clips, indexed by (epoch, index); long clips give more crops than short ones.

    All random choices depend only on (seed, epoch, index).

    Args:
        takes: self-converted clips, to which noise is added in part of the crops; None: to recordings only.
    """

    def __init__(
        self,
        store: FeatureStore,
        names: Sequence[str],
        config: Config,
        *,
        augment: bool,
        seed: int = 1234,
        in_memory: bool = True,
        takes: SelfConvertedClips | None = None,
    ) -> None:
        self.takes = takes
        self.n_frames = max(1, int(config.data.duration * config.data.sampling_rate / config.data.block_size))
        self.rate_hz, self.hop_samples = config.data.sampling_rate, config.data.block_size
        self.stored_hz, self.stored_hop = store.settings.sample_rate_hz, store.settings.hop_samples
        self.augment = augment and config.model.use_pitch_aug
        self.seed = seed
        self.in_memory = in_memory
        self._kept_takes: dict[str, list[np.ndarray]] = {}
        repeated = [
            name for name in names for _ in range(max(1, round(store.record(name).n_frames / self.n_frames)))
        ]
        self._lengths = [min(store.record(name).n_frames, self.n_frames) for name in repeated]
        self._whole = VoiceDataset(
            store,
            repeated,
            config.spk,
            max_frames=WHOLE_CLIP_FRAMES,
            in_memory=in_memory,
            unit_interpolate_mode=config.data.unit_interpolate_mode,
        )

    def __len__(self) -> int:
        return len(self._lengths)

    def lengths(self) -> list[int]:
        """Frames of each crop."""
        return self._lengths

    def __getitem__(self, key: tuple[int, int]) -> Crop:
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        clip = self._whole[index]
        start = int(rng.integers(max(0, clip.n_frames - self.n_frames) + 1))
        take = self.takes.draw(clip.name, rng) if self.takes else None
        crop = self._cut(clip, start, min(clip.n_frames, self.n_frames), take=take)
        if self.augment and rng.random() < CHANCE:
            crop = shift_crop(crop, rng)
        return crop

    def _cut(self, clip: Item, start: int, n_frames: int, *, take: int | None) -> Crop:
        source = clip.audio
        if take is not None:
            source = torch.from_numpy(fit_length(self._takes_of(clip.name)[take], len(clip.audio)))
        # In conversion, a voice without loudness input gives the loudness of its own output.
        volume = volume_envelope(source, self.stored_hop) if clip.volume is None else clip.volume
        span = slice(start, start + n_frames)
        audio = self._crop_audio(clip.audio.numpy(), start, n_frames)
        start_audio = audio if take is None else self._crop_audio(source.numpy(), start, n_frames)
        return Crop(clip.content[:, span], clip.f0_hz[span], volume[span], audio, start_audio, clip.speaker)

    def _crop_audio(self, samples: np.ndarray, start: int, n_frames: int) -> Tensor:
        """Frames start .. start + n_frames of a clip with their margins, at the vocoder's rate."""
        margin = MARGIN_FRAMES * self.stored_hop
        padded = np.pad(samples, (margin, margin), mode="reflect")  # as in the mel of the whole clip
        with_margins = padded[start * self.stored_hop : (start + n_frames) * self.stored_hop + 2 * margin]
        audio = resample_samples(with_margins, self.stored_hz, self.rate_hz)
        return torch.from_numpy(fit_length(audio, (n_frames + 2 * MARGIN_FRAMES) * self.hop_samples))

    def _takes_of(self, name: str) -> list[np.ndarray]:
        if name not in self._kept_takes:
            takes = self.takes.read(name)
            if not self.in_memory:
                return takes
            self._kept_takes[name] = takes
        return self._kept_takes[name]


def shift_crop(crop: Crop, rng: np.random.Generator) -> Crop:
    """Shift a crop's key by up to 5 semitones and change its loudness, up to full scale.

    Source: so-vits-svc 4.1, aug_mel, aug_vol and the shifted f0.
    """
    peak = float(crop.audio.abs().max()) + 1e-5
    gain = float(10.0 ** rng.uniform(QUIETEST_EXPONENT, min(1.0, -math.log10(peak))))
    semitones = float(rng.uniform(-SHIFT_SCALE, SHIFT_SCALE))
    return replace(
        crop,
        audio=crop.audio * gain,
        start_audio=crop.start_audio * gain,
        volume=crop.volume * gain,
        f0_hz=crop.f0_hz * 2 ** (semitones / 12),
        shift_semitones=semitones,
    )


def collate_crops(crops: Sequence[Crop]) -> DiffusionBatch:
    """Pad crops to the longest of them."""
    longest = max(crop.n_frames for crop in crops)
    n_samples = max(len(crop.audio) for crop in crops)

    def padded(rows: list[Tensor], length: int) -> Tensor:
        return torch.stack([F.pad(row, (0, length - row.shape[-1])) for row in rows])

    return DiffusionBatch(
        content=padded([crop.content for crop in crops], longest).transpose(1, 2),
        f0_hz=padded([crop.f0_hz for crop in crops], longest)[..., None],
        volume=padded([crop.volume for crop in crops], longest)[..., None],
        audio=padded([crop.audio for crop in crops], n_samples),
        start_audio=padded([crop.start_audio for crop in crops], n_samples),
        speaker=torch.tensor([[crop.speaker] for crop in crops]),
        shift_semitones=torch.tensor([[[crop.shift_semitones]] for crop in crops]),
        lengths=torch.tensor([crop.n_frames for crop in crops]),
    )


def crop_loader(clips: DiffusionClips, batch_size: int, *, n_workers: int = 0) -> VoiceLoader:
    """Batches of crops, reshuffled every epoch; the batch size is at most the number of crops."""
    batches = BucketBatches(clips.lengths(), min(batch_size, len(clips)), seed=clips.seed)
    n_workers = 0 if clips.in_memory else n_workers
    return VoiceLoader(clips, batches, collate_items=collate_crops, n_workers=n_workers)
