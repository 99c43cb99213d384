"""A so-vits training's networks with their optimisers: new ones, from a base model, from and to checkpoints."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from svcnb import SvcError, checkpoint
from svcnb.recipes.sovits_config import Config
from svcnb.recipes.sovits_step import StepParts, build, optimizer_maker
from svcnb.training import TrainSettings, TrainState, assemble, make_accelerator

log = logging.getLogger(__name__)

# Tensors that a base model may have in another size: one row per speaker.
PER_SPEAKER = ("emb_g.",)


def fresh_state(config: Config, settings: TrainSettings, *, base: Path | str | None = None) -> TrainState:
    """Networks of a config with the seed's weights, or with those of a base model (see `start_from`)."""
    accelerator = make_accelerator(settings)
    torch.manual_seed(settings.seed)
    networks = build(config)
    if base is not None:
        start_from(Path(base), networks.generator, networks.discriminator)
    return assemble(
        networks.generator,
        networks.discriminator,
        make_optimizer=optimizer_maker(config.train),
        lr_decay=config.train.lr_decay,
        accelerator=accelerator,
        extras={"parts": StepParts(config).to(accelerator.device)},
    )


def save_run(state: TrainState, folder: Path, *, config: Config) -> None:
    """Write G_<step>.pth and D_<step>.pth in the family's layout."""
    pairs = (("G", state.generator, state.optimizer_g), ("D", state.discriminator, state.optimizer_d))
    for letter, network, optimizer in pairs:
        if network is not None:
            checkpoint.save_sovits_checkpoint(
                folder / f"{letter}_{state.step}.pth",
                model_state=state.accelerator.unwrap_model(network).state_dict(),
                iteration=state.epoch,
                learning_rate=config.train.learning_rate,
                optimizer_state=optimizer.state_dict(),
            )


def load_run(state: TrainState, folder: Path, step: int) -> None:
    """Weights and optimisers of the checkpoint of `step`, strictly."""
    pairs = (("G", state.generator, state.optimizer_g), ("D", state.discriminator, state.optimizer_d))
    for letter, network, optimizer in pairs:
        if network is not None:
            stored = checkpoint.read_sovits_checkpoint(folder / f"{letter}_{step}.pth")
            checkpoint.load_weights(state.accelerator.unwrap_model(network), stored.model)
            if stored.optimizer:
                optimizer.load_state_dict(stored.optimizer)


def start_from(base: Path, generator: nn.Module, discriminator: nn.Module | None) -> None:
    """Warm start from base weights; speaker rows of another size keep their fresh values.

    Raises:
        SvcError: no base there, or weights of another architecture (every difference named).
    """
    pair = checkpoint.newest_pair(base) if base.is_dir() else None
    if base.is_dir() and pair is None:
        raise SvcError(f"no G_*.pth with its D_*.pth in {base}: put G_0.pth and D_0.pth of the base model there")
    generator_path, discriminator_path = pair or (base, None)
    stored = checkpoint.read_sovits_checkpoint(generator_path).model
    report = checkpoint.load_weights(generator, stored, may_miss=("enc_q.", "f0_decoder."), may_skip=PER_SPEAKER)
    log.info("started from %s: %s", generator_path.name, report)
    if discriminator is not None and discriminator_path is not None:
        checkpoint.load_weights(discriminator, checkpoint.read_sovits_checkpoint(discriminator_path).model)
