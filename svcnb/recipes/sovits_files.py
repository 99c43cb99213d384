"""A voice's files: which checkpoint of a folder, the config beside it, and whether the two fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TypeVar

from pydantic import ValidationError

from svcnb import SvcError
from svcnb.recipes.sovits_config import Config
from svcnb.run_record import STATE_NAME, RunRecord

CHECKPOINTS = ("best", "newest")
AnyPath = TypeVar("AnyPath", bound=PurePath)


def check_choice(checkpoint: str) -> None:
    """Raise a SvcError unless it is one of CHECKPOINTS."""
    if checkpoint not in CHECKPOINTS:
        raise SvcError(f"checkpoint {checkpoint!r}: choose {' or '.join(CHECKPOINTS)}, or name one G_*.pth")


def locate_voice(source: Path, config: Path | None, checkpoint: str = "best") -> tuple[Path, Path]:
    """The G_*.pth of a voice's folder (or the one named), and its config.json.

    Raises:
        SvcError: no checkpoint there.
    """
    check_choice(checkpoint)
    if source.is_dir():
        candidates = list(source.glob("G_*.pth"))
        if not candidates:
            raise SvcError(f"no G_*.pth in {source}: train a voice there first, or name the checkpoint itself")
        source = newest_or(best_step(source) if checkpoint == "best" else None, candidates)
    if not source.is_file():
        raise SvcError(f"no checkpoint at {source}: give a voice's folder or its G_*.pth")
    return source, config or source.parent / "config.json"


def newest_or(step: int | None, candidates: Sequence[AnyPath]) -> AnyPath:
    """The checkpoint of a step, else the one of the largest number in its name (G_800_release.pth has none)."""
    chosen = next((path for path in candidates if path.name == f"G_{step}.pth"), None)
    return chosen or max(candidates, key=lambda path: (step_of(path) is not None, len(path.stem), path.stem))


def best_step(folder: Path) -> int | None:
    """The step that a training here found best; read without asking whether all its other files are still there."""
    path = folder / STATE_NAME
    return recorded_best(path.read_bytes(), path) if path.is_file() else None


def recorded_best(state: bytes, path: Path) -> int | None:
    """The best step that the text of a state.json tells; `path` names it in the error."""
    try:
        best = RunRecord.model_validate_json(state).best
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise SvcError(f"{path} does not tell the best checkpoint ({reason}): "
                       "take the newest instead (--checkpoint newest)") from None  # fmt: skip
    return best.step if best else None


def step_of(weights_path: PurePath) -> int | None:
    """Training steps by the file's name; None where it does not tell."""
    number = weights_path.stem.removeprefix("G_")
    return int(number) if number.isdigit() else None


# The weights decide about the first; of the encoder they tell the width alone, which is ssl_dim.
ONLY_SUGGESTED = ("use_automatic_f0_prediction", "speech_encoder")


def refuse_misfit(config: Config, described: dict, weights_path: Path, config_path: Path) -> None:
    """Raise a SvcError that names every key in which a config and what the weights tell of themselves differ."""
    stored = config.model.model_dump()
    differences = [
        f"{key} is {stored[key]} in the config, {value} in the weights"
        for key, value in described.items()
        if key in stored and key not in ONLY_SUGGESTED and stored[key] != value
    ]
    if differences:
        raise SvcError(
            f"{weights_path.name} and {config_path} do not fit: {'; '.join(differences)}. "
            "Give the config.json that was trained with these weights (-c)"
        )
