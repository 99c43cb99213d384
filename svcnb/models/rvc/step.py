"""RVC's networks and one step of their training."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from svcnb.data.batches import Batch
from svcnb.models.rvc.config import Config
from svcnb.models.rvc.network import PERIODS, RvcPass, RvcSynthesizer, coarse_f0
from svcnb.nn.discriminators import MultiPeriodDiscriminator
from svcnb.nn.layers import Noise, slice_segments
from svcnb.training.distributed import Share
from svcnb.training.losses import (
    GeneratorPass,
    Transforms,
    adversarial_terms,
    compared,
    discriminator_term,
    prior_terms,
    shared_total,
    variational_terms,
)
from svcnb.training.state import TrainState


@dataclass
class Networks:
    """Generator, and the discriminator where the config trains with one."""

    generator: RvcSynthesizer
    discriminator: MultiPeriodDiscriminator | None


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

    @classmethod
    def of(cls, batch: Batch, *, with_f0: bool) -> RvcBatch:
        """What RVC hears of a batch of features."""
        made = cls(batch.content.transpose(1, 2), batch.audio, batch.speaker[:, 0], batch.lengths)
        if not with_f0:
            return made
        f0_hz = batch.f0_hz * batch.voiced  # the source falls silent between the notes
        coarse = torch.from_numpy(coarse_f0(f0_hz.cpu().numpy())).to(f0_hz.device)
        return replace(made, coarse=coarse, f0_hz=f0_hz)


class StepParts(Transforms):
    """What a training step needs beside the networks: the transforms of this config."""

    def __init__(self, config: Config, *, noise: Noise | None = None) -> None:
        super().__init__(config.data, with_perceptual_loss=config.train.c_hear > 0)
        self.config, self.noise = config, noise


def build(config: Config) -> Networks:
    """Networks of a config, initialised but without weights."""
    discriminator = None
    if config.train.c_adversarial > 0:
        discriminator = MultiPeriodDiscriminator(config.model.use_spectral_norm, PERIODS[config.version])
    return Networks(RvcSynthesizer(config.settings()), discriminator)


def run_generator(generator: nn.Module, batch: RvcBatch, parts: StepParts) -> GeneratorPass:
    """Generator forward, and the same segment of the target as audio and as mel (from the whole clip)."""
    spec = parts.stft(batch.audio) if batch.spec is None else batch.spec
    out = generator(
        batch.content, batch.coarse, batch.f0_hz, spec, batch.speaker, batch.lengths, noise=parts.noise
    )
    return compared(out, batch.audio, spec, parts, parts.config.segment_frames)


def train_step(state: TrainState, batch: Batch | RvcBatch) -> dict[str, Tensor]:
    """Update the discriminator, then the generator.

    Returns:
        unweighted losses by name, and `total`, the weighted sum the generator was updated with.

    Source: RVC 20240604, train.py (order, losses, weights).
    """
    parts: StepParts = state.extras["parts"]
    train = parts.config.train
    if isinstance(batch, Batch):
        batch = RvcBatch.of(batch, with_f0=parts.config.f0)
    share = Share.of(batch.lengths, state.processes)
    result = run_generator(state.generator, batch, parts)
    told: dict[str, Tensor] = {}
    if state.discriminator is not None:
        told["disc"] = discriminator_term(state.discriminator, result) * share.clips
        state.descend(state.optimizer_d, told["disc"])
    terms = variational_terms(result, train, share)
    if train.c_prior:
        terms |= prior_terms(_decode_prior(state, batch, result.out, parts), result, parts, train, share)
    if state.discriminator is not None:
        terms |= adversarial_terms(state.discriminator, result)
    total, terms = shared_total(terms, train, share)
    state.descend(state.optimizer_g, total)
    return share.whole({"total": total, **terms, **told})


def _decode_prior(state: TrainState, batch: RvcBatch, out: RvcPass, parts: StepParts) -> Tensor:
    """What conversion will hear: the prior's mean through the reversed flow and the decoder."""
    net = state.accelerator.unwrap_model(state.generator)
    with state.accelerator.autocast():
        g = net.embed_speaker(batch.speaker)
        z = slice_segments(
            net.flow(out.m_p * out.mask, out.mask, g, reverse=True), out.slice_start, net.segment_frames
        )
        f0_hz = batch.f0_hz
        if f0_hz is not None:
            f0_hz = slice_segments(f0_hz.unsqueeze(1), out.slice_start, net.segment_frames).squeeze(1)
        return net.dec(z, f0_hz, g, noise=parts.noise or Noise())
