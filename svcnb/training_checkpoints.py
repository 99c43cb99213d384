"""Which checkpoints of a training stay on disk: the newest few, and the best by the held-out measure."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from svcnb.run_record import BestCheckpoint, RunRecord, SavedCheckpoint

SAVING_FOLDER = ".saving"

log = logging.getLogger(__name__)


class KeptCheckpoints:
    """The checkpoints in one voice's folder. The best one is never dropped, however old it gets.

    Attributes:
        saved: oldest first; the last is the one a run is continued from.
        best: None until a checkpoint was measured.
    """

    def __init__(self, folder: Path, record: RunRecord | None, *, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        self.saved: list[SavedCheckpoint] = list(record.checkpoints) if record else []
        self.best: BestCheckpoint | None = record.best if record else None
        if self.best is not None and not self._is_whole(self.best.step):
            log.warning("the best checkpoint (step %d) is gone from %s: the best of the coming ones is kept instead",
                        self.best.step, folder)  # fmt: skip
            self.best = None

    def _is_whole(self, step: int) -> bool:
        files = [name for checkpoint in self.saved if checkpoint.step == step for name in checkpoint.files]
        return bool(files) and all((self.folder / name).exists() for name in files)

    def compare(self, step: int, measure: str, value: float) -> None:
        """Take the step about to be written for the best if it is lower than the best so far."""
        if self.best is None or self.best.measure != measure or value < self.best.value:
            self.best = BestCheckpoint(step=step, measure=measure, value=value)

    def write(self, step: int, save: Callable[[Path], None]) -> list[str]:
        """Write a step's files into a folder of their own, then move them into place.

        Returns:
            names of files that are not kept any more; delete them with `drop` once state.json is written.
        """
        saving = self.folder / SAVING_FOLDER
        _empty(saving)
        try:
            save(saving)
        except BaseException:  # half a checkpoint would only fill the disk further
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
        best_step = self.best.step if self.best else None
        return [checkpoint for checkpoint in checkpoints if checkpoint in newest or checkpoint.step == best_step]

    def drop(self, names: list[str]) -> None:
        for name in names:
            (self.folder / name).unlink(missing_ok=True)


def _empty(folder: Path) -> None:
    """An empty folder, whatever a killed run left there."""
    folder.mkdir(exist_ok=True)
    for leftover in folder.iterdir():
        leftover.unlink()
