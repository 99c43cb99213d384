"""How a so-vits network in training speaks a held-out clip."""

from __future__ import annotations

from torch import Tensor

from svcnb.dataset import Batch, FeatureStore, Split
from svcnb.held_out import ClipChoices, HeldOutClips
from svcnb.models.layers import Noise
from svcnb.recipes.sovits_config import Config
from svcnb.recipes.sovits_state import as_saved
from svcnb.training import TrainState
from svcnb.training_board import TensorBoardLog


def held_out_clips(
    store: FeatureStore, config: Config, split: Split, *, board: TensorBoardLog | None = None
) -> HeldOutClips:
    """The clips that a training of this config is judged by."""
    choices = ClipChoices(config.spk, config.data.unit_interpolate_mode, config.train.seed)
    return HeldOutClips(store, split, choices, speak, board=board)


def speak(state: TrainState, batch: Batch, noise: Noise) -> Tensor:
    """Audio [B, 1, T] without the randomness of the prior."""
    generator = state.accelerator.unwrap_model(state.generator)
    with as_saved(state):
        return generator.infer(
            batch.content, batch.f0_hz, batch.voiced, batch.speaker, volume=batch.volume, noise_scale=0.0, noise=noise
        ).audio
