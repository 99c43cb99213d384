"""NSF-HiFiGAN: log mel and f0 to waveform, and the enhancer built on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from svcnb import SvcError
from svcnb.checkpoint import load_weights, read_checkpoint
from svcnb.models.generators import GeneratorSettings, HarmonicSource, NsfGenerator
from svcnb.models.layers import Noise, fold_weight_norm
from svcnb.spectral import SincResample, VocoderMel


class VocoderError(SvcError):
    """The vocoder's folder is incomplete or does not fit."""


@dataclass(frozen=True)
class VocoderSettings:
    """The keys of the vocoder's config.json that matter; lengths in samples, frequencies in Hz."""

    sampling_rate: int
    num_mels: int
    n_fft: int
    win_size: int
    hop_size: int
    fmin: float
    fmax: float
    generator: GeneratorSettings

    @classmethod
    def from_config(cls, config: dict) -> VocoderSettings:
        """Pick the known keys; a missing one is named in a VocoderError."""
        own = [key for key in cls.__dataclass_fields__ if key != "generator"]
        shape = [key for key in GeneratorSettings.__dataclass_fields__ if key not in ("snake", "plain_ends")]
        missing = [key for key in own + shape if key not in config]
        if missing:
            raise VocoderError(f"the vocoder's config lacks {', '.join(missing)}: use the config.json of its download")
        generator = GeneratorSettings(**{key: config[key] for key in shape})
        if generator.hop_samples != config["hop_size"]:
            found = f"upsample_rates give {generator.hop_samples} samples per frame, hop_size is {config['hop_size']}"
            raise VocoderError(f"{found}: use the config.json of the vocoder's download")
        return cls(**{key: config[key] for key in own}, generator=generator)


class Vocoder(nn.Module):
    """Log mel of `self.mel` and f0 to waveform.

    Source: openvpi's NSF-HiFiGAN as used by so-vits-svc 4.1 (the generator's layout without a speaker, and a source
    that adds up phases per frame).
    """

    def __init__(self, settings: VocoderSettings) -> None:
        super().__init__()
        self.settings = settings
        self.mel = VocoderMel(
            sample_rate_hz=settings.sampling_rate,
            n_fft=settings.n_fft,
            hop_samples=settings.hop_size,
            win_samples=settings.win_size,
            n_mels=settings.num_mels,
            fmin_hz=settings.fmin,
            fmax_hz=settings.fmax,
        )
        source = HarmonicSource(settings.sampling_rate, accumulate="frame")
        self.generator = NsfGenerator(settings.num_mels, settings.generator, source=source)

    def forward(self, mel: Tensor, f0: Tensor, *, noise: Noise | None = None) -> Tensor:
        """mel [B, M, N] (natural log), f0 [B, N] in Hz, 0 = unvoiced -> waveform [B, 1, N * hop]."""
        return self.generator(mel, f0, noise=noise)

    @torch.no_grad()
    def enhance(self, samples: Tensor, f0_hz: Tensor, *, adaptive_key: int = 0, noise: Noise | None = None) -> Tensor:
        """Sing `samples` again through the vocoder, which cleans up the timbre of a weak model.

        Args:
            samples: [T] at the vocoder's rate.
            f0_hz: [N], one value per hop.
            adaptive_key: semitones; above 0 the voice is moved down into the range the vocoder knows, and back after.
            noise: random numbers of the source.

        Returns:
            [T'], T' about one frame shorter than T at most.

        Source: so-vits-svc 4.1, modules/enhancer.
        """
        rate_hz, hop = self.settings.sampling_rate, self.settings.hop_size
        moved_hz = 100 * round(rate_hz * 2 ** (adaptive_key / 12) / 100)
        factor = rate_hz / moved_hz
        if moved_hz != rate_hz:
            samples = SincResample(rate_hz, moved_hz, lowpass_filter_width=128).to(samples.device)(samples)
        mel = self.mel(samples.unsqueeze(0))  # [1, M, N'], stretched by 1 / factor
        stored = f0_hz.double().cpu().numpy()
        times = np.arange(mel.shape[-1]) * factor  # in frames of f0_hz; np.interp holds the edges
        f0 = torch.from_numpy(np.interp(times, np.arange(len(stored)), stored) * factor)
        sung = self(mel, f0.to(mel)[None], noise=noise)[0, 0]
        if moved_hz != rate_hz:
            sung = SincResample(moved_hz, rate_hz, lowpass_filter_width=128).to(sung.device)(sung)
        return sung


def load_vocoder(folder: str | Path, *, device: str | torch.device = "cpu") -> Vocoder:
    """The vocoder from a folder with `model` ({'generator': weights}) and `config.json`, ready for inference.

    Raises:
        VocoderError: a file is missing or is another kind of file.
        CheckpointError: the weights do not fit the config.
    """
    folder = Path(folder)
    for name in ("model", "config.json"):
        if not (folder / name).is_file():
            raise VocoderError(f"{folder / name}: no such file. The vocoder's folder holds 'model' and 'config.json'.")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stored = read_checkpoint(folder / "model")
    if "generator" not in stored:
        raise VocoderError(f"{folder / 'model'} has the keys {sorted(map(str, stored))[:8]}, expected 'generator'.")
    vocoder = Vocoder(VocoderSettings.from_config(config))
    load_weights(vocoder.generator, stored["generator"])
    fold_weight_norm(vocoder.generator)
    return vocoder.eval().to(device)
