"""Untrained voices, and a config so small that a training step is fast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from svcnb.models.sovits.config import Config


def tiny_config() -> Config:
    """The small size with every width reduced; too small to learn, but complete."""
    from svcnb.models.sovits.config import Config

    config = Config.small()
    model = config.model
    model.inter_channels = model.hidden_channels = model.gin_channels = 16
    model.filter_channels, model.upsample_initial_channel = 32, 16
    model.n_layers = model.n_flow_layer = 1
    config.train.segment_size, config.train.max_frames = 32 * 256, 64
    return config


def save_small_voice(folder: Path, *, speakers: tuple[str, ...] = ("ada",), step: int = 0) -> Path:
    """Write config.json and G_<step>.pth of the small size, with random weights seeded by the step."""
    import torch

    from svcnb.files.checkpoint import to_plain_names
    from svcnb.models import sovits
    from svcnb.models.sovits.checkpoint import save_sovits_checkpoint

    config = sovits.Config.small()
    config.spk = {name: number for number, name in enumerate(speakers)}
    config.model.n_speakers = len(speakers)
    config.save(folder / "config.json")
    with torch.random.fork_rng():
        torch.manual_seed(step)
        state = to_plain_names(sovits.build(config).generator.state_dict())
    save_sovits_checkpoint(folder / f"G_{step}.pth", model_state=state, iteration=0, learning_rate=1e-4)
    return folder
