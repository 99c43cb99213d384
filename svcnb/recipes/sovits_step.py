"""so-vits-svc's networks and one step of their training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from svcnb import losses
from svcnb.dataset import Batch
from svcnb.models.discriminators import MultiPeriodDiscriminator
from svcnb.models.layers import Noise, slice_segments
from svcnb.models.sovits import SynthesizerTrn, TrainOutput
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
        self.stft = Stft(n_fft=data.filter_length, hop_samples=data.hop_length, win_samples=data.win_length)
        self.mel = MelSpectrogram(
            sample_rate_hz=data.sampling_rate, n_fft=data.filter_length, hop_samples=data.hop_length,
            win_samples=data.win_length, n_mels=data.n_mel_channels, fmin_hz=data.mel_fmin, fmax_hz=data.mel_fmax,
        )  # fmt: skip


@dataclass
class GeneratorPass:
    """One forward pass of the generator and the slices of the target it is compared with."""

    out: TrainOutput
    target_audio: Tensor  # [B, 1, segment samples]
    target_mel: Tensor  # [B, M, segment frames]
    fake_mel: Tensor


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
    )


def train_step(state: TrainState, batch: Batch) -> dict[str, Tensor]:
    """Update the discriminator, then the generator.

    Returns:
        unweighted losses by name, and `total`, the weighted sum the generator was updated with.

    Source: so-vits-svc 4.1 train.py (order, losses, weights). The generator's gradients are the
    original's; the discriminator's, which its step throws away, are not computed.
    """
    parts: StepParts = state.extras["parts"]
    train = parts.config.train
    result = run_generator(state.generator, batch, parts)
    adversarial = state.discriminator is not None and state.step >= train.adversarial_after_steps
    terms: dict[str, Tensor] = {}
    if adversarial:
        terms["disc"] = _update_discriminator(state, result)
    terms |= _spectral_terms(result.out.audio, result, train.c_stft)
    terms["kl"] = losses.kl_loss(
        result.out.z_p, result.out.logs_q, result.out.m_p, result.out.logs_p, result.out.mask
    )
    if result.out.pred_lf0 is not None:
        terms["lf0"] = losses.lf0_loss(result.out.pred_lf0, result.out.lf0)
    if train.c_prior:
        audio = _decode_prior(state, batch, result.out, parts)
        prior = GeneratorPass(result.out, result.target_audio, result.target_mel, parts.mel(audio.float()))
        terms |= {f"prior_{name}": loss for name, loss in _spectral_terms(audio, prior, train.c_stft).items()}
    if adversarial:
        terms |= _adversarial_terms(state.discriminator, result)
    total = sum(_weight(name, train) * loss for name, loss in terms.items() if name != "disc")
    state.optimizer_g.zero_grad(set_to_none=True)
    state.accelerator.backward(total)
    state.optimizer_g.step()
    return {"total": total.detach(), **{name: loss.detach() for name, loss in terms.items()}}


def _weight(name: str, train: TrainSection) -> float:
    spectral = {"mel": train.c_mel, "stft": train.c_stft}
    if name.startswith("prior_"):
        return train.c_prior * spectral[name.removeprefix("prior_")]
    weights = {"kl": train.c_kl, "lf0": 1.0, "gen": train.c_adversarial, "fm": train.c_adversarial}
    return (spectral | weights)[name]


def _spectral_terms(audio: Tensor, result: GeneratorPass, c_stft: float) -> dict[str, Tensor]:
    terms = {"mel": losses.mel_loss(result.target_mel, result.fake_mel)}
    if c_stft:
        terms["stft"] = losses.stft_loss(audio, result.target_audio)
    return terms


def _decode_prior(state: TrainState, batch: Batch, out: TrainOutput, parts: StepParts) -> Tensor:
    """What conversion will hear: the prior's mean through the reversed flow and the decoder."""
    net = state.accelerator.unwrap_model(state.generator)
    with state.accelerator.autocast():
        g = net.embed_speaker(batch.speaker)
        z = net.flow(out.m_p * out.mask, out.mask, g, reverse=True)
        z = slice_segments(z, out.slice_start, net.segment_frames)
        f0_hz = slice_segments(batch.f0_hz.unsqueeze(1), out.slice_start, net.segment_frames).squeeze(1)
        return net.dec(z, f0_hz, g, noise=parts.noise or Noise())


def _update_discriminator(state: TrainState, result: GeneratorPass) -> Tensor:
    real_scores, _ = state.discriminator(result.target_audio)
    fake_scores, _ = state.discriminator(result.out.audio.detach())
    loss = losses.discriminator_loss(real_scores, fake_scores)
    state.optimizer_d.zero_grad(set_to_none=True)
    state.accelerator.backward(loss)
    state.optimizer_d.step()
    return loss


def _adversarial_terms(discriminator: nn.Module, result: GeneratorPass) -> dict[str, Tensor]:
    discriminator.requires_grad_(False)
    with torch.no_grad():
        _, real_maps = discriminator(result.target_audio)
    fake_scores, fake_maps = discriminator(result.out.audio)
    discriminator.requires_grad_(True)
    return {
        "fm": losses.feature_loss(real_maps, fake_maps),
        "gen": losses.adversarial_loss(fake_scores),
    }
