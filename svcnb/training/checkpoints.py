"""Training state on disk beside the weights: state.json, and the lines of history.jsonl.

state.json is renamed into place after the checkpoint it names, so it always refers to complete files.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from svcnb import SvcError
from svcnb.files.disk import reporting_disk_errors, write_text

STATE_NAME = "state.json"
HISTORY_NAME = "history.jsonl"
SAVING_FOLDER = ".saving"


class SavedCheckpoint(BaseModel):
    """A step, and the names of its files."""

    step: int
    files: list[str]


class BestCheckpoint(BaseModel):
    """The kept step with the best validation metric: the lowest `value` of `measure`."""

    step: int
    measure: str
    value: float


class RunRecord(BaseModel):
    """State of a run, without weights and optimizers.

    Attributes:
        step: generator updates done; the newest of `checkpoints` has this step.
        epoch: the current epoch, counted from 1.
        batch: batches of that epoch already trained on.
        seconds: training time of all runs so far.
        checkpoints: the kept ones, oldest first.
        best: the best of them; None for runs without held-out clips.
        batch_size: clips per step and process, as `batch` counts them; None if unknown.
        n_processes: number of processes that shared these batches.
        schedules: per optimizer ("g", "d") the scheduler's position and the current learning rates.
        scaler: state of the fp16 gradient scaler, else None.
        rng: states of the random generators of torch, CUDA, Python and numpy.
    """

    model_config = ConfigDict(extra="forbid")

    version: int = 1
    step: int
    epoch: int
    batch: int
    seconds: float
    checkpoints: list[SavedCheckpoint]
    schedules: dict[str, dict[str, Any]]
    scaler: dict[str, Any] | None
    rng: dict[str, Any]
    best: BestCheckpoint | None = None
    batch_size: int | None = None
    n_processes: int = 1

    def save(self, folder: Path) -> None:
        write_text(folder / STATE_NAME, self.model_dump_json() + "\n")


def read_progress(folder: Path | str) -> RunRecord | None:
    """State of the run in `folder`; None if there is none.

    Raises:
        SvcError: state.json is invalid, or a checkpoint file it names is gone.
    """
    folder = Path(folder)
    path = folder / STATE_NAME
    if not path.is_file():
        return None
    try:
        record = RunRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise SvcError(
            f"{path} is not a training state of this version ({error.errors()[0]['msg']}): "
            "train into another folder"
        ) from None
    lost = [name for name in record.checkpoints[-1].files if not (folder / name).exists()]
    if lost:
        raise SvcError(
            f"{path} names step {record.step}, but {', '.join(lost)} is gone from {folder}: "
            "put it back, or train into another folder"
        )
    return record


def append_history(path: Path, line: dict[str, Any]) -> None:
    with reporting_disk_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def trim_history(path: Path, step: int) -> None:
    """Drop lines after `step` (the part of the run that was lost), and an incomplete last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            continue  # an incomplete line of a killed process
    write_text(path, "".join(kept))


def capture_rng() -> dict[str, Any]:
    """States of the global random generators, as JSON values."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "torch": _to_text(torch.get_rng_state().numpy()),
        "cuda": [_to_text(state.numpy()) for state in cuda],
        "python": [version, list(numbers), gauss],
        "numpy": [name, _to_text(keys), int(position), int(has_gauss), float(cached)],
    }


def apply_rng(states: dict[str, Any]) -> None:
    """Restore the global random generators; CUDA states of missing devices are ignored."""
    torch.set_rng_state(torch.from_numpy(_from_text(states["torch"], np.uint8)))
    for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(torch.from_numpy(_from_text(state, np.uint8)), device)
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, _from_text(keys, np.uint32), *rest))


@contextmanager
def rng_untouched() -> Iterator[None]:
    """Random numbers drawn inside do not change those drawn afterwards."""
    states = capture_rng()
    try:
        yield
    finally:
        apply_rng(states)


def _to_text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")


def _from_text(text: str, dtype: type) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype=dtype).copy()


def best_step(folder: Path) -> int | None:
    """The best step of a training here; does not check whether its other files still exist."""
    path = folder / STATE_NAME
    return recorded_best(path.read_bytes(), path) if path.is_file() else None


def recorded_best(state: bytes, path: Path) -> int | None:
    """The best step in the text of a state.json; `path` names it in the error."""
    try:
        best = RunRecord.model_validate_json(state).best
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise SvcError(
            f"{path} does not give the best checkpoint ({reason}): "
            "use the newest instead (--checkpoint newest)"
        ) from None
    return best.step if best else None


log = logging.getLogger(__name__)


class KeptCheckpoints:
    """The checkpoints in one voice's folder. The best one is never deleted, however old it is.

    Attributes:
        keep: newest to keep, 0 keeps all.
        keep_every_steps: those at multiples of this are kept too; 0 = none.
        saved: oldest first; a run is resumed from the last.
        best: None until a checkpoint was validated.
    """

    def __init__(
        self, folder: Path, record: RunRecord | None, *, keep: int, keep_every_steps: int = 0
    ) -> None:
        self.folder = folder
        self.keep, self.keep_every_steps = keep, keep_every_steps
        self.saved: list[SavedCheckpoint] = list(record.checkpoints) if record else []
        self.best: BestCheckpoint | None = record.best if record else None
        if self.best is not None and not self._is_whole(self.best.step):
            log.warning(
                "the best checkpoint (step %d) is gone from %s: the best of the next ones is kept",
                self.best.step,
                folder,
            )
            self.best = None

    def _is_whole(self, step: int) -> bool:
        files = [name for checkpoint in self.saved if checkpoint.step == step for name in checkpoint.files]
        return bool(files) and all((self.folder / name).exists() for name in files)

    def compare(self, step: int, measure: str, value: float) -> None:
        """Make the step about to be written the best if its value is lower than the best so far."""
        if self.best is None or self.best.measure != measure or value < self.best.value:
            self.best = BestCheckpoint(step=step, measure=measure, value=value)

    def write(self, step: int, save: Callable[[Path], None]) -> list[str]:
        """Write a step's files into a temporary folder, then move them into the voice's folder.

        Returns:
            names of files that are no longer kept; delete them with `drop` after state.json is written.
        """
        saving = self.folder / SAVING_FOLDER
        _empty(saving)
        try:
            save(saving)
        except BaseException:  # an incomplete checkpoint would only fill the disk further
            _empty(saving)
            saving.rmdir()
            raise
        names = sorted(path.name for path in saving.iterdir())
        for name in names:
            os.replace(saving / name, self.folder / name)
        saving.rmdir()
        earlier = [old for old in self.saved if old.step != step]
        self.saved = self._chosen([*earlier, SavedCheckpoint(step=step, files=names)])
        kept = {name for checkpoint in self.saved for name in checkpoint.files}
        return sorted({name for checkpoint in earlier for name in checkpoint.files} - kept)

    def _chosen(self, checkpoints: list[SavedCheckpoint]) -> list[SavedCheckpoint]:
        newest = checkpoints[-self.keep :]  # 0 keeps all
        best_step, every = self.best.step if self.best else None, self.keep_every_steps
        return [
            checkpoint
            for checkpoint in checkpoints
            if checkpoint in newest
            or checkpoint.step == best_step
            or (every and checkpoint.step % every == 0)
        ]

    def drop(self, names: list[str]) -> None:
        for name in names:
            (self.folder / name).unlink(missing_ok=True)


def _empty(folder: Path) -> None:
    """Make the folder, or delete what a killed run left in it."""
    folder.mkdir(exist_ok=True)
    for leftover in folder.iterdir():
        leftover.unlink()
