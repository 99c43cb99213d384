"""Losses from the device to history.jsonl: fetched rarely, and checked for finite values at each fetch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from svcnb import SvcError
from svcnb.training.checkpoints import HISTORY_NAME, append_history
from svcnb.training.state import TrainingError, TrainState


class HistoryWriter:
    """Collects the losses of each step, which stay on the device until a line is due.

    Attributes:
        listen: called with every line, or None.
        last_losses: means in the last line.
    """

    def __init__(
        self, state: TrainState, folder: Path, listen: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self.state = state
        self.path = folder / HISTORY_NAME
        self.listen = listen
        self.last_losses: dict[str, float] = {}
        self._waiting: list[tuple[int, tuple[str, ...], Tensor]] = []

    @property
    def is_waiting(self) -> bool:
        return bool(self._waiting)

    def add(self, losses: dict[str, Tensor]) -> None:
        """The losses of the step just done."""
        device = self.state.accelerator.device
        values = [
            torch.as_tensor(value, device=device).detach().float().reshape(()) for value in losses.values()
        ]
        self._waiting.append((self.state.step, tuple(losses), torch.stack(values)))

    def check(self, *, saved_step: int) -> list[dict[str, float]]:
        """Fetch all waiting losses from the device in one transfer.

        Raises:
            TrainingError: a loss is not finite; the message gives its name, its step and the last checkpoint.
        """
        if not self._waiting:
            return []
        numbers = iter(torch.cat([values for _, _, values in self._waiting]).tolist())
        fetched = [{name: next(numbers) for name in names} for _, names, _ in self._waiting]
        for (step, _, _), losses in zip(self._waiting, fetched, strict=True):
            broken = [name for name, value in losses.items() if not math.isfinite(value)]
            if broken:
                kept = f"the checkpoint of step {saved_step} is kept" if saved_step else "none was saved yet"
                values = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
                raise TrainingError(
                    f"step {step}: {', '.join(broken)} is not finite ({values}); {kept}. "
                    "Resume with half the learning rate, or precision fp32 or bf16"
                )
        return fetched

    def write_means(self, *, saved_step: int) -> None:
        """One line: the mean of each loss since the last line."""
        fetched = self.check(saved_step=saved_step)
        self._waiting.clear()
        self.last_losses = {
            name: fmean(losses[name] for losses in fetched if name in losses) for name in fetched[-1]
        }
        self.write({"losses": self.last_losses})

    def write(self, content: dict[str, Any]) -> None:
        """One line with step, epoch, time and learning rate; on the main process only."""
        state = self.state
        if not state.accelerator.is_main_process:
            return
        line = {"step": state.step, "epoch": state.epoch, "seconds": round(state.seconds, 3)}
        line |= {"lr": state.optimizer_g.param_groups[0]["lr"]} | content
        append_history(self.path, line)
        if self.listen is not None:
            self.listen(line)


def read_history(path: Path | str) -> tuple[dict[str, list[int]], dict[str, list[float]]]:
    """Steps and values of each named loss in a history.jsonl.

    Raises:
        SvcError: no such file, or no loss in it yet.
    """
    steps: dict[str, list[int]] = {}
    values: dict[str, list[float]] = {}
    for entry in _read_lines(Path(path)):
        for name, value in (entry.get("losses") or {}).items():
            if isinstance(value, (int, float)):
                steps.setdefault(name, []).append(int(entry["step"]))
                values.setdefault(name, []).append(float(value))
    if not values:
        raise SvcError(f"{path} has no losses yet: train some more steps")
    return steps, values


def read_held_out(path: Path | str, measure: str = "mel") -> list[tuple[int, float, bool]]:
    """(step, validation metric, whether a checkpoint was saved) by step; empty if no clip is held out."""
    found: dict[int, tuple[float, bool]] = {}
    for entry in _read_lines(Path(path)):
        if measure in (entry.get("validation") or {}):
            found[int(entry["step"])] = (float(entry["validation"][measure]), bool(entry.get("saved", True)))
    return [(step, *found[step]) for step in sorted(found)]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise SvcError(f"no history at {path}: train first, it is written while training")
    return [_parse_line(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _parse_line(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:  # an incomplete line of a killed process
        return {}
    return entry if isinstance(entry, dict) and "step" in entry else {}
