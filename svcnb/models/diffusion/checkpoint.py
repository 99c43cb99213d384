"""Find a voice's diffusion model, and read and write its model_*.pt in so-vits-svc's format."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from svcnb import SvcError
from svcnb.files.checkpoint import read_checkpoint, write_checkpoint
from svcnb.files.unpickling import CheckpointError
from svcnb.training.checkpoints import best_step

DIFFUSION_FOLDER, CONFIG_NAME = "diffusion", "config.yaml"
MODEL_NAME = re.compile(r"^model_(?P<step>\d+)\.pt$")


@dataclass(frozen=True)
class DiffusionFiles:
    """A diffusion model's files as far as a user named them (-dm, -dc)."""

    model: Path | None = None
    config: Path | None = None


NOTHING_NAMED = DiffusionFiles()


@dataclass(frozen=True)
class DiffusionCheckpoint:
    """A model_*.pt: training steps, weights, and the optimiser's state if it was saved."""

    global_step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any] | None = None


def read_diffusion_checkpoint(path: Path | str) -> DiffusionCheckpoint:
    """Read a model_*.pt of so-vits-svc 4.1, Diffusion-SVC or ours, without running code in it.

    Raises:
        CheckpointError: missing, damaged, no diffusion model, or a file that would run code.
    """
    stored = read_checkpoint(path)
    model = stored.get("model")
    if not isinstance(model, dict) or not any(
        name.startswith("decoder.denoise_fn.") for name in map(str, model)
    ):
        found = sorted(map(str, model if isinstance(model, dict) else stored))[:4]
        raise CheckpointError(
            f"{path} is no diffusion model: its entries begin {found}, expected decoder.denoise_fn. "
            "Give a model_*.pt of so-vits-svc's diffusion (-dm)"
        )
    optimizer = stored.get("optimizer")
    return DiffusionCheckpoint(int(stored.get("global_step") or 0), model, optimizer or None)


def save_diffusion_checkpoint(
    path: Path | str,
    *,
    model_state: Mapping[str, Tensor],
    global_step: int,
    optimizer_state: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model_*.pt that so-vits-svc 4.1 reads."""
    contents: dict[str, Any] = {"global_step": int(global_step), "model": dict(model_state)}
    if optimizer_state:
        contents["optimizer"] = dict(optimizer_state)
    return write_checkpoint(path, contents)


def newest_model(folder: Path) -> Path | None:
    """The model_*.pt with the largest step; None if there is none."""
    numbered = {
        int(match["step"]): path
        for path in folder.glob("model_*.pt")
        if (match := MODEL_NAME.match(path.name))
    }
    return numbered[max(numbered)] if numbered else None


def find_model(voice_folder: Path | None, named: DiffusionFiles = NOTHING_NAMED) -> tuple[Path, Path]:
    """The files of a voice's diffusion model: weights and config.

    Args:
        voice_folder: its folder diffusion/ is searched; the best checkpoint is taken if held-out clips were
            measured in training, else the newest.
        named: files named by the user take precedence; a config that is not named is beside the model.

    Raises:
        SvcError: a file is missing; the message names the files to add and their folder.
    """
    model, config = named.model, named.config
    if model is None:
        if voice_folder is None:
            raise SvcError("this voice has no folder with a diffusion model: name the model with -dm")
        folder = voice_folder / DIFFUSION_FOLDER
        best = folder / f"model_{best_step(folder)}.pt"
        model = best if best.is_file() else newest_model(folder)
        if model is None:
            raise SvcError(
                f"there is no diffusion model in {folder}: put model_*.pt and config.yaml there, name them with "
                "-dm and -dc, or train one with svcnb diffusion"
            )
    elif not model.is_file():
        raise SvcError(f"{model}: no such diffusion model (-dm); expected a model_*.pt")
    config = config or model.parent / CONFIG_NAME
    if not config.is_file():
        raise SvcError(
            f"{config}: no such file; the diffusion model {model.name} needs its config.yaml: put it beside the "
            "model, or name it with -dc"
        )
    return model, config
