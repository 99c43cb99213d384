"""When to stop a training: what its history tells, in numbers and in one to three sentences.

Losses of the clips that are trained on always fall; whether a voice still gets better shows only on clips it
never trains on. So the held-out measure decides, and its own scatter says how large a change must be to count.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from svcnb import SvcError

Kind = Literal["falling", "flat", "overfitting", "too_early", "not_measured"]
MIN_MEASUREMENTS = 6  # fewer have no last third to speak of
# A fresh network stands still for some hundred steps before it learns to follow the words (seen: 1.23 at step 50, 1.27
# at 150, 0.89 at 300), so standing still means nothing before this step.
MIN_STEPS = 500
MIN_MEASUREMENTS_TO_STOP = 12  # a pause in the curve is no end of it
LAST_PART = 1 / 3  # the end of the curve that is compared with as much before it
# A change between two thirds counts when it is larger than both: so many standard errors of the difference of their
# medians (of n normal values each: 1.25 deviations / sqrt(n)), and this part of the value. A large part of the value
# counts in any case: where a curve falls steeply, its bends pass for scatter.
SURE = 3.0
MEDIAN_ERROR = 1.2533
MIN_CHANGE_RATIO = 0.01
LARGE_CHANGE_RATIO = 0.05
MIN_RISE_RATIO = 0.02  # rising is a stronger claim than not falling
LITTLE_DATA_S = 60.0


@dataclass(frozen=True)
class Advice:
    """What the held-out curve says.

    Attributes:
        kind: "falling", "flat", "overfitting" (rising while the training loss falls), "too_early" to tell,
            or "not_measured" (no clip is held out).
        sentences: one to three, for people.
        n_measurements: on held-out clips, so far.
        best_step, best_value: the lowest of them.
        since_step: of a flat or rising curve: where it came within the scatter of its best.
        noise: standard deviation of a measurement about its neighbours.
        training_s: seconds of sound that were trained on, where the history says so.
    """

    kind: Kind
    sentences: tuple[str, ...]
    n_measurements: int = 0
    best_step: int | None = None
    best_value: float | None = None
    since_step: int | None = None
    noise: float | None = None
    training_s: float | None = None

    @property
    def enough(self) -> bool:
        """Whether to stop now: no gain for a third of a curve that is long enough to believe it."""
        return self.kind in ("flat", "overfitting") and self.n_measurements >= MIN_MEASUREMENTS_TO_STOP

    def __str__(self) -> str:
        return " ".join(self.sentences)


@dataclass(frozen=True)
class Curve:
    """One measure over the steps, in order."""

    steps: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.steps)


def read_advice(history_path: Path | str, *, measure: str = "mel") -> Advice:
    """What the history of a training says about going on with it.

    Args:
        history_path: history.jsonl; half a line at its end is fine.
        measure: the held-out number that decides, and the training loss it is compared with.

    Raises:
        SvcError: no such file.
    """
    lines = _read_lines(Path(history_path))
    held_out = _curve(lines, "validation", measure)
    facts = [line["facts"] for line in lines if "facts" in line]
    training_s = facts[-1].get("training_s") if facts else None
    advice = judge(held_out, _curve(lines, "losses", measure))
    sentences = advice.sentences
    if training_s is not None and training_s < LITTLE_DATA_S:
        sentences += (f"There are only {training_s:.0f} s of recordings to learn from: more of them help more than "
                      "more steps.",)  # fmt: skip
    return Advice(**advice.__dict__ | {"sentences": sentences, "training_s": training_s})


def judge(held_out: Curve, training: Curve) -> Advice:
    """The same from the two curves alone."""
    if not len(held_out):
        return Advice("not_measured", ("No clip is held out, so nothing tells when to stop: listen to the samples.",))
    best = int(held_out.values.argmin())
    found: dict[str, Any] = {
        "n_measurements": len(held_out),
        "best_step": int(held_out.steps[best]),
        "best_value": float(held_out.values[best]),
    }
    if len(held_out) < MIN_MEASUREMENTS:
        text = f"Too early to tell: {len(held_out)} measurements on held-out clips, {MIN_MEASUREMENTS} are needed."
        return Advice("too_early", (text,), **found)
    noise = scatter(held_out.values)
    n_last = max(2, round(LAST_PART * len(held_out)))
    middle, last = (float(np.median(held_out.values[part])) for part in (slice(-2 * n_last, -n_last), slice(-n_last, None)))
    found |= {"noise": noise}
    least = max(SURE * MEDIAN_ERROR * noise * math.sqrt(2 / n_last), MIN_CHANGE_RATIO * middle)
    least = min(least, LARGE_CHANGE_RATIO * middle)
    if middle - last > least:
        text = (f"The distance to the held-out clips still falls ({middle:.3g} in the middle third of the steps, "
                f"{last:.3g} in the last): train longer.")  # fmt: skip
        return Advice("falling", (text,), **found)
    if held_out.steps[-1] < MIN_STEPS:
        text = f"Too early to tell: in the first {MIN_STEPS} steps a curve often stands still before it falls."
        return Advice("too_early", (text,), **found)
    smooth = _middle_of_three(held_out.values)
    since = int(held_out.steps[np.flatnonzero(smooth <= min(middle, last) + least)[0]])
    found |= {"since_step": since}
    rise = last - smooth.min()
    if rise > max(least, MIN_RISE_RATIO * middle) and _falls(training, since):
        return Advice("overfitting", _tell_overfitting(found), **found)
    return Advice("flat", _tell_flat(found, int(held_out.steps[-1])), **found)


def _tell_overfitting(found: dict[str, Any]) -> tuple[str, ...]:
    return (
        "The held-out clips get worse while the training clips get better: the network learns the recordings by heart.",
        f"Stop here and use the best checkpoint; the lowest distance was measured at step {found['best_step']}.",
    )


def _tell_flat(found: dict[str, Any], last_step: int) -> tuple[str, ...]:
    since = found["since_step"]
    return (
        f"The distance to the held-out clips has hardly changed since step {since} (now {last_step}, "
        f"best {found['best_value']:.3g} at step {found['best_step']}).",
        "More steps will not help much; more, cleaner or more varied recordings may.",
    )


def scatter(values: np.ndarray) -> float:
    """Standard deviation about a smooth course, from second differences, which no straight trend enters.

    Half of the curve at the end is looked at: at the start a training falls so steeply that it bends.
    """
    late = values[-max(5, len(values) // 2) :]
    second = late[2:] - 2 * late[1:-1] + late[:-2]
    return float(np.sqrt(np.pi / 2) * np.abs(second).mean() / np.sqrt(6))  # 1 + 4 + 1: the variances of three values


def _middle_of_three(values: np.ndarray) -> np.ndarray:
    """Median of each value and its neighbours, so that one lucky measurement is no progress."""
    padded = np.pad(values, 1, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, 3), axis=1)


def _falls(training: Curve, since_step: int) -> bool:
    """Whether the training loss fell after `since_step`: its later half lies below its earlier one."""
    late = training.values[training.steps >= since_step]
    if len(late) < 4:
        return False
    first, second = np.array_split(late, 2)
    return bool(np.median(second) < np.median(first))


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise SvcError(f"no history at {path}: train first, it is written while training")
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # half a line, left by a kill
            continue
        if isinstance(line, dict) and "step" in line:
            lines.append(line)
    return lines


def _curve(lines: list[dict[str, Any]], section: str, name: str) -> Curve:
    """A number over the steps; of a step measured twice the last value."""
    found = {line["step"]: line[section][name] for line in lines if name in (line.get(section) or {})}
    steps = sorted(found)
    return Curve(np.asarray(steps, dtype=int), np.asarray([found[step] for step in steps], dtype=float))
