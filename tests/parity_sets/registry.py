"""Parity checks: functions that yield one row per reference array.

A check registers for the `kind` in a set's `set.json`. The runner (`tests/parity.py`) needs nothing else, so
a new family is a new file here.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from tests.parity_sets import formula


@dataclass(frozen=True)
class Row:
    """One compared array: `deviation` in the unit of `tolerance` (absolute unless `relative`)."""

    name: str
    deviation: float
    tolerance: float
    relative: bool = False
    note: str = ""

    @property
    def passed(self) -> bool:
        return bool(self.deviation <= self.tolerance)  # a NaN deviation fails


@dataclass
class ReferenceSet:
    """A folder of reference arrays: set.json, vectors.npz, and, if they apply, keys.txt and config.json."""

    folder: Path
    compared: set[str] = field(default_factory=set)

    @cached_property
    def meta(self) -> dict:
        return json.loads((self.folder / "set.json").read_text(encoding="utf-8"))

    @cached_property
    def config(self) -> dict:
        return json.loads((self.folder / "config.json").read_text(encoding="utf-8"))

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "vectors.npz") as stored:
            return {name: stored[name] for name in stored.files}

    @cached_property
    def keys(self) -> dict[str, tuple[int, ...]]:
        lines = (self.folder / "keys.txt").read_text(encoding="utf-8").splitlines()
        pairs = (line.rstrip().split("\t") for line in lines if line.strip())
        return {name: tuple(ast.literal_eval(shape)) for name, shape in pairs}

    @property
    def kind(self) -> str:
        return self.meta["kind"]

    def tolerance(self, name: str) -> float:
        return float(self.meta["tolerance"][name])

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name])

    def has(self, name: str) -> bool:
        return name in self.arrays

    def weights(self, shapes: dict | None = None, *, prefix: str = "") -> dict[str, torch.Tensor]:
        """State dict by the formula for `shapes` (default: keys.txt), rounded to float16 if so marked."""
        state = formula.state_dict(shapes or self.keys, self.meta["seed"], prefix=prefix)
        if self.meta.get("weights_rounded_to_half") and not prefix:
            state = {k: v.half().float() if v.is_floating_point() else v for k, v in state.items()}
        return state

    def compare(self, name: str, ours, tolerance: float, *, relative: bool = False, note: str = "") -> Row:
        """Largest deviation of `ours` from the stored array `name` (same shape, else infinite)."""
        self.compared.add(name)
        return difference(name, ours, self.arrays[name], tolerance, relative=relative, note=note)

    def left_over(self) -> list[str]:
        """Result arrays that no row compared; inputs and metadata are not results."""
        results = (n for n in self.arrays if not n.startswith(("in/", "meta/")))
        return sorted(n for n in results if n not in self.compared)


def difference(name: str, ours, theirs, tolerance: float, *, relative: bool = False, note: str = "") -> Row:
    ours = ours.detach().cpu().numpy() if isinstance(ours, torch.Tensor) else np.asarray(ours)
    theirs = np.asarray(theirs)
    if ours.shape != theirs.shape:
        return Row(name, float("inf"), tolerance, relative, f"shape {ours.shape}, expected {theirs.shape}")
    if theirs.size == 0:
        return Row(name, 0.0, tolerance, relative, note)
    gap = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    if relative:
        gap = gap / np.maximum(np.abs(theirs.astype(np.float64)), 1e-12)
    return Row(name, float(gap.max()), tolerance, relative, note)


Check = Callable[[ReferenceSet], Iterator[Row]]
CHECKS: dict[str, Check] = {}


def check(kind: str) -> Callable[[Check], Check]:
    """Register a check for the sets whose set.json has this `kind`."""

    def register(function: Check) -> Check:
        CHECKS[kind] = function
        return function

    return register


def find_set(beside: ReferenceSet, kind: str, matches: Callable[[ReferenceSet], bool]) -> ReferenceSet | None:
    """A set that another one depends on: searched in the same parent folder by kind and content."""
    for folder in sorted(beside.folder.resolve().parent.iterdir()):
        if (folder / "set.json").is_file():
            other = ReferenceSet(folder)
            if other.kind == kind and matches(other):
                return other
    return None
