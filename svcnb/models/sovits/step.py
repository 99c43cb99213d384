"""so-vits-svc's networks and one step of their training."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from svcnb.data.batches import Batch, pad
from svcnb.files.checkpoint import load_weights
from svcnb.models.sovits.checkpoint import (
    WeightInterpolation,
    read_sovits_checkpoint,
    save_sovits_checkpoint,
    set_parameters,
    start_from,
)
from svcnb.models.sovits.config import Config, TrainSection
from svcnb.models.sovits.network import SynthesizerTrn, TrainOutput
from svcnb.nn.discriminators import MultiPeriodDiscriminator
from svcnb.nn.layers import Noise, slice_segments
from svcnb.training import losses
from svcnb.training.distributed import Share
from svcnb.training.losses import (
    GeneratorPass,
    PerceptualLoss,
    Transforms,
    adversarial_terms,
    compared,
    discriminator_term,
    optimizer_maker,
    prior_terms,
    shared_total,
    variational_terms,
)
from svcnb.training.settings import TrainSettings
from svcnb.training.state import TrainState, assemble, make_accelerator


@dataclass
class Networks:
    """Generator, and the discriminator where the config trains with one."""

    generator: SynthesizerTrn
    discriminator: MultiPeriodDiscriminator | None


class StepParts(Transforms):
    """What a training step needs beside the networks: the transforms of this config."""

    def __init__(
        self, config: Config, *, noise: Noise | None = None, listener: PerceptualLoss | None = None
    ) -> None:
        train = config.train
        super().__init__(
            config.data,
            max_hz=train.loss_max_hz,
            with_perceptual_loss=train.c_hear > 0,
            perceptual_loss=listener,
        )
        self.config = config
        self.noise = noise


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
        batch.content,
        batch.f0_hz,
        batch.voiced,
        spec,
        batch.speaker,
        batch.lengths,
        batch.volume,
        noise=parts.noise,
    )
    return compared(out, batch.audio, spec, parts, parts.config.segment_frames)


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
        terms |= prior_terms(_decode_prior(state, batch, result.out, parts), result, parts, train, share)
    if adversarial:
        terms |= adversarial_terms(state.discriminator, result)
    total, terms = shared_total(terms, train, share)
    state.descend(state.optimizer_g, total)
    return share.whole({"total": total, **terms, **told})


def generator_terms(
    result: GeneratorPass, train: TrainSection, share: Share | None = None
) -> dict[str, Tensor]:
    """The generator's losses that need no discriminator, over this process's clips."""
    out, terms = result.out, variational_terms(result, train, share)
    if out.pred_lf0 is not None:
        terms["lf0"] = losses.lf0_loss(out.pred_lf0, out.lf0)
    return terms


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


def fresh_state(
    config: Config,
    settings: TrainSettings,
    *,
    base: Path | str | None = None,
    listener: PerceptualLoss | None = None,
) -> TrainState:
    """Networks of a config with the seed's weights, or with those of a base model (see `start_from`, `WeightInterpolation`)."""
    accelerator = make_accelerator(settings)
    torch.manual_seed(settings.seed)
    networks = build(config)
    if base is not None:
        start_from(Path(base), networks.generator, networks.discriminator)
    state = assemble(
        networks.generator,
        networks.discriminator,
        make_optimizer=optimizer_maker(config.train),
        lr_decay=config.train.lr_decay,
        accelerator=accelerator,
        extras={"parts": StepParts(config, listener=listener).to(accelerator.device)},
    )
    if base is not None and config.train.base_share > 0:
        state.extras["interpolation"] = WeightInterpolation(
            accelerator.unwrap_model(state.generator), config.train.base_share
        )
    return state


def as_saved(state: TrainState) -> AbstractContextManager[dict[str, Tensor]]:
    """Inside the block the generator has the weights that are saved; the block is given its own, where they differ."""
    interpolation: WeightInterpolation | None = state.extras.get("interpolation")
    return (
        interpolation.applied(state.accelerator.unwrap_model(state.generator))
        if interpolation
        else nullcontext({})
    )


def save_run(state: TrainState, folder: Path, *, config: Config) -> None:
    """Write G_<step>.pth and D_<step>.pth in the family's layout."""
    pairs = (("G", state.generator, state.optimizer_g), ("D", state.discriminator, state.optimizer_d))
    with as_saved(state) as own:
        for letter, network, optimizer in pairs:
            if network is not None:
                save_sovits_checkpoint(
                    folder / f"{letter}_{state.step}.pth",
                    model_state=state.accelerator.unwrap_model(network).state_dict(),
                    iteration=state.epoch,
                    learning_rate=config.train.learning_rate,
                    optimizer_state=optimizer.state_dict(),
                    trained=own if letter == "G" else None,
                )


def load_run(state: TrainState, folder: Path, step: int) -> None:
    """Weights and optimisers of the checkpoint of `step`, strictly."""
    pairs = (("G", state.generator, state.optimizer_g), ("D", state.discriminator, state.optimizer_d))
    for letter, network, optimizer in pairs:
        if network is not None:
            stored = read_sovits_checkpoint(folder / f"{letter}_{step}.pth")
            load_weights(state.accelerator.unwrap_model(network), stored.model)
            set_parameters(state.accelerator.unwrap_model(network), stored.trained or {})
            if stored.optimizer:
                optimizer.load_state_dict(stored.optimizer)
