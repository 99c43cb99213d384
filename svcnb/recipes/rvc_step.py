"""RVC's networks and one step of their training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from svcnb import losses
from svcnb.models.discriminators import MultiPeriodDiscriminator
from svcnb.models.layers import Noise, slice_segments
from svcnb.models.rvc import PERIODS, RvcPass, RvcSynthesizer
from svcnb.recipes.rvc_config import Config, TrainSection
from svcnb.spectral import MelSpectrogram, Stft
from svcnb.training import TrainState


@dataclass
class RvcNetworks:
    """Generator and discriminator."""

    generator: RvcSynthesizer
    discriminator: MultiPeriodDiscriminator


@dataclass
class RvcBatch:
    """Clips on the frame grid, zero-padded to the longest.

    content [B, N, D]; audio [B, 1, N * hop]; speaker and lengths (frames) long [B]; coarse long [B, N] and f0_hz [B, N]
    (0 = unvoiced), None without pitch guidance; spec [B, F, N] where it was computed beforehand.
    """

    content: Tensor
    audio: Tensor
    speaker: Tensor
    lengths: Tensor
    coarse: Tensor | None = None
    f0_hz: Tensor | None = None
    spec: Tensor | None = None

    def to(self, device: torch.device | str) -> RvcBatch:
        moved = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return replace(self, **moved)


class StepParts(nn.Module):
    """What a training step needs beside the networks: the transforms of this config."""

    def __init__(self, config: Config, *, noise: Noise | None = None) -> None:
        super().__init__()
        data = config.data
        self.config, self.noise = config, noise
        self.stft = Stft(n_fft=data.filter_length, hop_samples=data.hop_length, win_samples=data.win_length)
        self.mel = MelSpectrogram(
            sample_rate_hz=data.sampling_rate, n_fft=data.filter_length, hop_samples=data.hop_length,
            win_samples=data.win_length, n_mels=data.n_mel_channels, fmin_hz=data.mel_fmin, fmax_hz=data.mel_fmax,
        )  # fmt: skip


@dataclass
class GeneratorPass:
    """One forward pass of the generator and the slices of the target it is compared with."""

    out: RvcPass
    target_audio: Tensor  # [B, 1, segment samples]
    target_mel: Tensor  # [B, M, segment frames]
    fake_mel: Tensor


def build(config: Config) -> RvcNetworks:
    """Networks of a config, initialised but without weights."""
    periods = PERIODS[config.version]
    discriminator = MultiPeriodDiscriminator(config.model.use_spectral_norm, periods)
    return RvcNetworks(RvcSynthesizer(config.settings()), discriminator)


def optimizer_maker(train: TrainSection) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    """AdamW with the config's rates."""
    return partial(torch.optim.AdamW, lr=train.learning_rate, betas=train.betas, eps=train.eps, fused=True)


def run_generator(generator: nn.Module, batch: RvcBatch, parts: StepParts) -> GeneratorPass:
    """Generator forward, and the same segment of the target as audio and as mel (from the whole clip)."""
    spec = parts.stft(batch.audio) if batch.spec is None else batch.spec
    out = generator(batch.content, batch.coarse, batch.f0_hz, spec, batch.speaker, batch.lengths, noise=parts.noise)
    frames, hop = parts.config.segment_frames, parts.config.data.hop_length
    return GeneratorPass(
        out=out,
        target_audio=slice_segments(batch.audio, out.slice_start * hop, frames * hop),
        target_mel=slice_segments(parts.mel.project(spec), out.slice_start, frames),
        fake_mel=parts.mel(out.audio.float()),
    )


def generator_terms(result: GeneratorPass) -> dict[str, Tensor]:
    """The generator's losses that need no discriminator, unweighted."""
    out = result.out
    return {
        "mel": losses.mel_loss(result.target_mel, result.fake_mel),
        "kl": losses.kl_loss(out.z_p, out.logs_q, out.m_p, out.logs_p, out.mask),
    }


def loss_weight(name: str, train: TrainSection) -> float:
    """Weight of a loss term in the generator's total."""
    return {"mel": train.c_mel, "kl": train.c_kl}.get(name, 1.0)


def train_step(state: TrainState, batch: RvcBatch) -> dict[str, Tensor]:
    """Update the discriminator, then the generator.

    Returns:
        unweighted losses by name, and `total`, the weighted sum the generator was updated with.

    Source: RVC 20240604, train.py (order, losses, weights).
    """
    parts: StepParts = state.extras["parts"]
    result = run_generator(state.generator, batch, parts)
    disc = losses.losses_of_discriminator(state.discriminator, result.target_audio, result.out.audio)
    state.descend(state.optimizer_d, disc)
    terms = generator_terms(result)
    terms |= losses.losses_against_discriminator(state.discriminator, result.target_audio, result.out.audio)
    total = torch.stack([loss_weight(name, parts.config.train) * loss for name, loss in terms.items()]).sum()
    state.descend(state.optimizer_g, total)
    return {"total": total, **terms, "disc": disc}
