"""A voice's diffusion model in a conversion: refines the generator's output, or replaces the generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from svcnb import SvcError
from svcnb.audio.audio import fit_length, resample_samples
from svcnb.audio.loudness import volume_envelope
from svcnb.conversion.settings import ConversionSettings
from svcnb.device import freed_memory_kept
from svcnb.models.diffusion.config import Config
from svcnb.models.diffusion.network import Unit2Mel
from svcnb.models.diffusion.sampler import SamplerSettings, sample
from svcnb.models.vocoder.network import Vocoder
from svcnb.nn.layers import Noise


@dataclass(frozen=True)
class Grid:
    """Sample rate and hop of a voice; those of the vocoder may differ."""

    rate_hz: int
    hop_samples: int


@dataclass(frozen=True)
class Conditions:
    """Input features: content [1, D, N], f0 and volume [1, N], speaker id [1, 1] or weights [N, S]."""

    content: Tensor
    f0_hz: Tensor
    volume: Tensor
    speaker: Tensor
    noise: Noise


class Diffuser:
    """A diffusion model with its vocoder: content, f0 and loudness of N frames to audio at the voice's rate.

    Args:
        network: with its weights.
        speakers: the voice's names and ids; the model may have other ids.
    """

    def __init__(
        self, network: Unit2Mel, config: Config, vocoder: Vocoder, *, grid: Grid, speakers: dict[str, int]
    ) -> None:
        self.network = network.eval()
        self.config = config
        self.vocoder = vocoder
        self.grid = grid
        self.columns = _columns(config, speakers).to(network.unit_embed.weight.device)

    def mel(self, samples: np.ndarray) -> Tensor:
        """Log mel [1, N, M] of float32 [T] at the voice's rate, T = N * hop."""
        resampled = torch.from_numpy(self._to_vocoder(samples)).to(self.network.unit_embed.weight.device)
        return self.vocoder.mel(resampled[None]).transpose(1, 2)

    def volume(self, samples: np.ndarray) -> Tensor:
        """Loudness [1, N] of float32 [T] at the voice's rate."""
        return volume_envelope(torch.from_numpy(self._to_vocoder(samples)), self.config.data.block_size)[None]

    def _to_vocoder(self, samples: np.ndarray) -> np.ndarray:
        n_frames = len(samples) // self.grid.hop_samples
        return fit_length(
            resample_samples(samples, self.grid.rate_hz, self.config.data.sampling_rate),
            n_frames * self.config.data.block_size,
        )

    @torch.inference_mode()
    def __call__(
        self, conditions: Conditions, *, settings: ConversionSettings, start_mel: Tensor | None = None
    ) -> np.ndarray:
        """float32 [N * hop] at the voice's rate; shallow diffusion starts from `start_mel` [1, N, M]."""
        device = self.network.unit_embed.weight.device
        f0_hz, noise = conditions.f0_hz, conditions.noise
        inputs = (conditions.content.transpose(1, 2), f0_hz[..., None], conditions.volume[..., None])
        with freed_memory_kept():
            inputs = [values.float().to(device) for values in inputs]
            condition = self.network.condition(*inputs, self._speaker(conditions.speaker))
            sampler = SamplerSettings(
                self.config.infer.method, self.config.infer.speedup, from_below=settings.like_original
            )
            steps = {} if start_mel is None else {"start_mel": start_mel, "k_step": settings.k_step}
            mel = sample(self.network, condition, sampler, noise=noise, **steps)
            scaled = (mel * self.config.mel_ratio).transpose(1, 2)
            audio = self.vocoder(scaled, f0_hz.float().to(device), noise=noise)[0, 0].float().cpu().numpy()
        samples = resample_samples(audio, self.config.data.sampling_rate, self.grid.rate_hz)
        return fit_length(samples, f0_hz.shape[1] * self.grid.hop_samples)

    def _speaker(self, speaker: Tensor) -> Tensor:
        """Voice's speaker, id [1, 1] or weights [N, S], as the model's id [1, 1] or weights [1, N, S']."""
        if self.config.model.n_spk == 1:
            return torch.zeros(1, 1, dtype=torch.long, device=self.columns.device)
        if speaker.is_floating_point():
            return (speaker.to(self.columns) @ self.columns[: speaker.shape[1]])[None]
        if not 0 <= int(speaker) < len(self.columns) or not self.columns[int(speaker)].any():
            raise SvcError(
                f"the diffusion model has no speaker with the number {int(speaker)}, only "
                f"{', '.join(self.config.spk)}: name one of them (-s)"
            )
        return self.columns[speaker.to(self.columns.device)].argmax(-1)


def _columns(config: Config, speakers: dict[str, int]) -> Tensor:
    """One row per speaker of the voice, one column per speaker of the model: 1 where they are the same."""
    n_speakers = config.model.n_spk
    numbers = config.spk or speakers
    columns = torch.zeros(max(speakers.values()) + 1, n_speakers)
    if n_speakers == 1:
        return columns
    if absent := sorted(name for name in speakers if not 0 <= numbers.get(name, -1) < n_speakers):
        raise SvcError(
            f"the diffusion model has no speaker {', '.join(absent)}, only {', '.join(numbers)}: "
            "give the model of this voice (-dm, -dc)"
        )
    for name, row in speakers.items():
        columns[row, numbers[name]] = 1.0
    return columns
