"""A so-vits training's networks with their optimisers: new ones, from a base model, from and to checkpoints."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from svcnb import checkpoint
from svcnb.recipes.sovits_base import DrawnBack, give_back, start_from
from svcnb.recipes.sovits_config import Config
from svcnb.recipes.sovits_step import StepParts, build
from svcnb.training import TrainSettings, TrainState, assemble, make_accelerator
from svcnb.voice_losses import Listening, optimizer_maker


def fresh_state(
    config: Config, settings: TrainSettings, *, base: Path | str | None = None, listener: Listening | None = None
) -> TrainState:
    """Networks of a config with the seed's weights, or with those of a base model (see `start_from`, `DrawnBack`)."""
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
        state.extras["drawn_back"] = DrawnBack(accelerator.unwrap_model(state.generator), config.train.base_share)
    return state


def as_saved(state: TrainState) -> AbstractContextManager[dict[str, Tensor]]:
    """Inside the block the generator has the weights that are saved; the block is given its own, where they differ."""
    drawn_back: DrawnBack | None = state.extras.get("drawn_back")
    return drawn_back.applied(state.accelerator.unwrap_model(state.generator)) if drawn_back else nullcontext({})


def save_run(state: TrainState, folder: Path, *, config: Config) -> None:
    """Write G_<step>.pth and D_<step>.pth in the family's layout."""
    pairs = (("G", state.generator, state.optimizer_g), ("D", state.discriminator, state.optimizer_d))
    with as_saved(state) as own:
        for letter, network, optimizer in pairs:
            if network is not None:
                checkpoint.save_sovits_checkpoint(
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
            stored = checkpoint.read_sovits_checkpoint(folder / f"{letter}_{step}.pth")
            checkpoint.load_weights(state.accelerator.unwrap_model(network), stored.model)
            give_back(state.accelerator.unwrap_model(network), stored.trained or {})
            if stored.optimizer:
                optimizer.load_state_dict(stored.optimizer)
