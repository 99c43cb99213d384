"""so-vits-svc's networks and one step of their training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from svcnb import losses
from svcnb.dataset import Batch, pad
from svcnb.models.discriminators import MultiPeriodDiscriminator
from svcnb.models.layers import Noise, slice_segments
from svcnb.models.sovits import SynthesizerTrn, TrainOutput
from svcnb.processes import Share
from svcnb.recipes.sovits_config import Config, TrainSection
from svcnb.spectral import MelSpectrogram, Stft
from svcnb.training import TrainState


@dataclass
class Networks:
    """Generator, and the discriminator where the config trains with one."""

    generator: SynthesizerTrn
    discriminator: MultiPeriodDiscriminator | None


class StepParts(nn.Module):
    """What a training step needs beside the networks: the transforms of this config."""

    def __init__(self, config: Config, *, noise: Noise | None = None) -> None:
        super().__init__()
        data = config.data
        self.config = config
        self.noise = noise
        self.band = min(1.0, 2 * (config.train.loss_max_hz or data.sampling_rate) / data.sampling_rate)
        self.stft = Stft(n_fft=data.filter_length, hop_samples=data.hop_length, win_samples=data.win_length)
        self.mel = MelSpectrogram(
            sample_rate_hz=data.sampling_rate, n_fft=data.filter_length, hop_samples=data.hop_length,
            win_samples=data.win_length, n_mels=data.n_mel_channels, fmin_hz=data.mel_fmin,
            fmax_hz=config.train.loss_max_hz or data.mel_fmax,
        )  # fmt: skip


@dataclass
class GeneratorPass:
    """One forward pass of the generator and the slices of the target it is compared with."""

    out: TrainOutput
    target_audio: Tensor  # [B, 1, segment samples]
    target_mel: Tensor  # [B, M, segment frames]
    fake_mel: Tensor
    band: float = 1.0  # part of the spectrum that the losses look at


def build(config: Config) -> Networks:
    """Networks of a config, initialised but without weights."""
    generator = SynthesizerTrn(
        config.data.filter_length // 2 + 1,
        config.segment_frames,
        sampling_rate=config.data.sampling_rate,
        **config.model.model_dump(),
    )
    discriminator = None
    if config.train.c_adversarial > 0:
        discriminator = MultiPeriodDiscriminator(config.model.use_spectral_norm)
    return Networks(generator, discriminator)


def optimizer_maker(train: TrainSection) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    """AdamW with the config's rates; all of a tensor's arithmetic in one pass through memory ("fused")."""
    return partial(torch.optim.AdamW, lr=train.learning_rate, betas=train.betas, eps=train.eps, fused=True)


def run_generator(generator: nn.Module, batch: Batch, parts: StepParts) -> GeneratorPass:
    """Generator forward, and the same segment of the target as audio and as mel (from the whole clip)."""
    spec = parts.stft(batch.audio) if batch.spec is None else batch.spec
    out = generator(
        batch.content, batch.f0_hz, batch.voiced, spec, batch.speaker, batch.lengths, batch.volume, noise=parts.noise
    )
    frames, hop = parts.config.segment_frames, parts.config.data.hop_length
    return GeneratorPass(
        out=out,
        target_audio=slice_segments(batch.audio, out.slice_start * hop, frames * hop),
        target_mel=slice_segments(parts.mel.project(spec), out.slice_start, frames),
        fake_mel=parts.mel(out.audio.float()),
        band=parts.band,
    )


def train_step(state: TrainState, batch: Batch) -> dict[str, Tensor]:
    """Update the discriminator, then the generator.

    Returns:
        unweighted losses by name, and `total`, the weighted sum the generator was updated with; of the whole
        batch, also where several processes share it.

    Source: so-vits-svc 4.1 train.py (order, losses, weights). The generator's gradients are the
    original's; the discriminator's, which its step throws away, are not computed.
    """
    parts: StepParts = state.extras["parts"]
    train = parts.config.train
    # Alike on all processes: how the last frames of a clip come out depends on what follows.
    batch = pad(batch, state.processes.largest(batch.f0_hz.shape[1]))
    share = Share.of(batch.lengths, state.processes)
    result = run_generator(state.generator, batch, parts)
    adversarial = state.discriminator is not None and state.step >= train.adversarial_after_steps
    told: dict[str, Tensor] = {}
    if adversarial:
        told["disc"] = discriminator_term(state.discriminator, result) * share.clips
        state.descend(state.optimizer_d, told["disc"])
    terms = generator_terms(result, train, share)
    if train.c_prior:
        audio = _decode_prior(state, batch, result.out, parts)
        heard = _spectral_terms(audio, parts.mel(audio.float()), result, train, share)
        terms |= {f"prior_{name}": loss for name, loss in heard.items()}
    if adversarial:
        terms |= adversarial_terms(state.discriminator, result)
    terms = {name: loss * (share.frames if name == "kl" else share.clips) for name, loss in terms.items()}
    total = torch.stack([loss_weight(name, train) * loss for name, loss in terms.items()]).sum()
    state.descend(state.optimizer_g, total)
    return share.whole({"total": total, **terms, **told})


def loss_weight(name: str, train: TrainSection) -> float:
    """Weight of a loss term in the generator's total."""
    spectral = {"mel": train.c_mel, "stft": train.c_stft}
    if name.startswith("prior_"):
        return train.c_prior * spectral[name.removeprefix("prior_")]
    weights = {"kl": train.c_kl, "lf0": 1.0, "gen": train.c_adversarial, "fm": train.c_adversarial}
    return (spectral | weights)[name]


def generator_terms(result: GeneratorPass, train: TrainSection, share: Share | None = None) -> dict[str, Tensor]:
    """The generator's losses that need no discriminator, over this process's clips."""
    out = result.out
    terms = _spectral_terms(out.audio, result.fake_mel, result, train, share)
    terms["kl"] = losses.kl_loss(out.z_p, out.logs_q, out.m_p, out.logs_p, out.mask)
    if out.pred_lf0 is not None:
        terms["lf0"] = losses.lf0_loss(out.pred_lf0, out.lf0)
    return terms


def _spectral_terms(
    audio: Tensor, mel: Tensor, target: GeneratorPass, train: TrainSection, share: Share | None
) -> dict[str, Tensor]:
    terms = {"mel": losses.mel_loss(target.target_mel, mel)}
    if train.c_stft:
        mean_of_all = share.mean_of_all if share else None
        terms["stft"] = losses.stft_loss(audio, target.target_audio, mean_of_all=mean_of_all, band=target.band)
    return terms


def discriminator_term(discriminator: nn.Module, result: GeneratorPass) -> Tensor:
    """What the discriminator learns from; no gradient into the generator."""
    return losses.losses_of_discriminator(discriminator, result.target_audio, result.out.audio)


def adversarial_terms(discriminator: nn.Module, result: GeneratorPass) -> dict[str, Tensor]:
    """Feature matching and adversarial loss; no gradient into the discriminator."""
    return losses.losses_against_discriminator(discriminator, result.target_audio, result.out.audio)


def _decode_prior(state: TrainState, batch: Batch, out: TrainOutput, parts: StepParts) -> Tensor:
    """What conversion will hear: the prior's mean through the reversed flow and the decoder."""
    net = state.accelerator.unwrap_model(state.generator)
    with state.accelerator.autocast():
        g = net.embed_speaker(batch.speaker)
        z = net.flow(out.m_p * out.mask, out.mask, g, reverse=True)
        z = slice_segments(z, out.slice_start, net.segment_frames)
        f0_hz = net.source_f0(batch.f0_hz, batch.voiced)
        f0_hz = slice_segments(f0_hz.unsqueeze(1), out.slice_start, net.segment_frames).squeeze(1)
        return net.dec(z, f0_hz, g, noise=parts.noise or Noise())
