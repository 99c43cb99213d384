"""A vocoder's networks and one step of their training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from svcnb.models.vocoder.config import Config
from svcnb.models.vocoder.data import SegmentBatch
from svcnb.models.vocoder.network import build_generator, mel_of
from svcnb.nn.discriminators import MultiPeriodDiscriminator
from svcnb.nn.layers import Noise
from svcnb.training import losses
from svcnb.training.settings import TrainSettings
from svcnb.training.state import TrainState, assemble, make_accelerator

N_COARSER_SCALES = 2  # HiFi-GAN's discriminators hear the waveform at three scales


class StepParts(nn.Module):
    """What a training step needs beside the networks: the mel that goes in, and the one that is compared."""

    def __init__(self, config: Config, *, noise: Noise | None = None) -> None:
        super().__init__()
        self.config, self.noise = config, noise
        sizes = config.sizes()
        self.mel, self.loss_mel = mel_of(sizes), mel_of(replace(sizes, fmax=config.fmax_for_loss))


@dataclass
class Networks:
    """Generator, and the discriminator where the config trains with one."""

    generator: nn.Module
    discriminator: MultiPeriodDiscriminator | None


def build(config: Config) -> Networks:
    """Networks of a config, initialised but without weights."""
    discriminator = None
    if config.c_adversarial > 0:
        periods = config.discriminator_periods
        discriminator = MultiPeriodDiscriminator(periods=periods, n_coarser_scales=N_COARSER_SCALES)
    return Networks(build_generator(config.sizes()), discriminator)


def fresh_state(config: Config, settings: TrainSettings) -> TrainState:
    """Networks with the seed's weights, and their optimisers."""
    accelerator = make_accelerator(settings)
    torch.manual_seed(settings.seed)
    networks = build(config)
    betas = (config.adam_b1, config.adam_b2)
    return assemble(
        networks.generator,
        networks.discriminator,
        make_optimizer=partial(torch.optim.AdamW, lr=config.learning_rate, betas=betas, fused=True),
        lr_decay=config.lr_decay,
        accelerator=accelerator,
        extras={"parts": StepParts(config).to(accelerator.device)},
    )


def train_step(state: TrainState, batch: SegmentBatch) -> dict[str, Tensor]:
    """Update the discriminator where there is one, then the generator.

    Returns:
        unweighted losses by name, and `total`, the weighted sum the generator was updated with.

    Source: HiFi-GAN (Kong et al. 2020): order, losses, weights; the multi-resolution STFT loss is Parallel WaveGAN's.
    """
    parts: StepParts = state.extras["parts"]
    config = parts.config
    fake = state.generator(parts.mel(batch.input_audio), batch.f0_hz, noise=parts.noise).float()
    told: dict[str, Tensor] = {}
    if state.discriminator is not None:
        told["disc"] = losses.losses_of_discriminator(state.discriminator, batch.audio, fake)
        state.descend(state.optimizer_d, told["disc"])
    terms = {"mel": losses.mel_loss(parts.loss_mel(batch.audio), parts.loss_mel(fake))}
    if config.c_stft:
        terms["stft"] = losses.stft_loss(fake, batch.audio)
    if state.discriminator is not None:
        terms |= losses.losses_against_discriminator(state.discriminator, batch.audio, fake)
    weights = {
        "mel": config.c_mel,
        "stft": config.c_stft,
        "fm": config.c_adversarial,
        "gen": config.c_adversarial,
    }
    total = torch.stack([weights[name] * loss for name, loss in terms.items()]).sum()
    state.descend(state.optimizer_g, total)
    return {"total": total, **terms, **told}
