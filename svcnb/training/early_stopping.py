"""When to stop a training: advice from its history, as numbers and as one to three sentences.

Losses on training clips always fall; whether the model still improves is visible only on clips it is not
trained on. So the validation metric decides, and its own noise sets how large a change must be to count.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from svcnb import SvcError

Kind = Literal["falling", "plateau", "overfitting", "too_early", "not_measured"]
MIN_MEASUREMENTS = 6  # the last third of fewer is too short
# An untrained network stays on a plateau for a few hundred steps before it learns to follow the content
# (measured: 1.23 at step 50, 1.27 at 150, 0.89 at 300), so a plateau means nothing before this step.
MIN_STEPS = 500
MIN_MEASUREMENTS_TO_STOP = 12  # a short plateau is not the end
LAST_PART = 1 / 3  # of the curve; compared with the third before it
# A change between two thirds counts if it is larger than both SURE standard errors of the difference of their
# medians (of n normal values each: 1.25 standard deviations / sqrt(n)) and MIN_CHANGE_RATIO of the value.
# More than LARGE_CHANGE_RATIO counts in any case: where a curve falls steeply, its curvature looks like
# noise.
SURE = 3.0
MEDIAN_ERROR = 1.2533
MIN_CHANGE_RATIO = 0.01
LARGE_CHANGE_RATIO = 0.05
MIN_RISE_RATIO = 0.02  # to call it rising needs more evidence than to call it a plateau
LITTLE_DATA_S = 60.0


@dataclass(frozen=True)
class Advice:
    """State of the validation curve.

    Attributes:
        kind: "falling", "plateau", "overfitting" (rising while the training loss falls), "too_early" to
            judge, or "not_measured" (no clip is held out).
        sentences: one to three, to print.
        n_measurements: on held-out clips, so far.
        best_step, best_value: the lowest measurement.
        since_step: of a plateau or a rising curve: the first step within the noise of its best value.
        noise: standard deviation of a measurement around its neighbors.
        training_s: seconds of training audio, if the history records it.
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
        """Whether to stop now: no gain for the last third of a curve with enough measurements."""
        return self.kind in ("plateau", "overfitting") and self.n_measurements >= MIN_MEASUREMENTS_TO_STOP

    def __str__(self) -> str:
        return " ".join(self.sentences)


@dataclass(frozen=True)
class Curve:
    """One metric over the steps, in order."""

    steps: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.steps)


def read_advice(history_path: Path | str, *, measure: str = "mel") -> Advice:
    """Whether more steps will help, judged by a training's history.

    Args:
        history_path: history.jsonl; an incomplete last line is ignored.
        measure: name of the validation metric that decides, and of the training loss it is compared with.

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
        sentences += (
            f"There are only {training_s:.0f} s of recordings to train on: more recordings help "
            "more than more steps.",
        )
    return Advice(**advice.__dict__ | {"sentences": sentences, "training_s": training_s})


def judge(held_out: Curve, training: Curve) -> Advice:
    """The same from the validation and the training curve."""
    if not len(held_out):
        text = "No clip is held out, so there is no validation metric: listen to the samples."
        return Advice("not_measured", (text,))
    best = int(held_out.values.argmin())
    found: dict[str, Any] = {
        "n_measurements": len(held_out),
        "best_step": int(held_out.steps[best]),
        "best_value": float(held_out.values[best]),
    }
    if len(held_out) < MIN_MEASUREMENTS:
        text = (
            f"Too early to judge: {len(held_out)} of at least {MIN_MEASUREMENTS} measurements "
            "on held-out clips."
        )
        return Advice("too_early", (text,), **found)
    noise = scatter(held_out.values)
    n_last = max(2, round(LAST_PART * len(held_out)))
    middle, last = (
        float(np.median(held_out.values[part]))
        for part in (slice(-2 * n_last, -n_last), slice(-n_last, None))
    )
    found |= {"noise": noise}
    least = max(SURE * MEDIAN_ERROR * noise * math.sqrt(2 / n_last), MIN_CHANGE_RATIO * middle)
    least = min(least, LARGE_CHANGE_RATIO * middle)
    if middle - last > least:
        text = (
            f"The distance to the held-out clips still falls ({middle:.3g} in the middle third of the steps, "
            f"{last:.3g} in the last): train longer."
        )
        return Advice("falling", (text,), **found)
    if held_out.steps[-1] < MIN_STEPS:
        text = f"Too early to judge: before step {MIN_STEPS} a plateau is common even in a good training."
        return Advice("too_early", (text,), **found)
    smooth = _middle_of_three(held_out.values)
    since = int(held_out.steps[np.flatnonzero(smooth <= min(middle, last) + least)[0]])
    found |= {"since_step": since}
    rise = last - smooth.min()
    if rise > max(least, MIN_RISE_RATIO * middle) and _falls(training, since):
        return Advice("overfitting", _report_overfitting(found), **found)
    return Advice("plateau", _report_plateau(found, int(held_out.steps[-1])), **found)


def _report_overfitting(found: dict[str, Any]) -> tuple[str, ...]:
    return (
        "The validation loss rises while the training loss falls: the network overfits.",
        f"Stop here and use the best checkpoint; the lowest distance was measured at step {found['best_step']}.",
    )


def _report_plateau(found: dict[str, Any], last_step: int) -> tuple[str, ...]:
    since = found["since_step"]
    return (
        f"The distance to the held-out clips has hardly changed since step {since} (now {last_step}, "
        f"best {found['best_value']:.3g} at step {found['best_step']}).",
        "More steps will not help much; more, cleaner or more varied recordings may.",
    )


def scatter(values: np.ndarray) -> float:
    """Standard deviation around a smooth curve, from second differences, which cancel a linear trend.

    Only the last half of the curve is used: the curvature at its start is too strong.
    """
    late = values[-max(5, len(values) // 2) :]
    second = late[2:] - 2 * late[1:-1] + late[:-2]
    return float(
        np.sqrt(np.pi / 2) * np.abs(second).mean() / np.sqrt(6)
    )  # 1 + 4 + 1: the variances of three values


def _middle_of_three(values: np.ndarray) -> np.ndarray:
    """Median of each value and its neighbors, so that one outlier does not count as progress."""
    padded = np.pad(values, 1, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, 3), axis=1)


def _falls(training: Curve, since_step: int) -> bool:
    """Whether the training loss fell after `since_step`: its second half has the lower median."""
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
        except ValueError:  # an incomplete line of a killed process
            continue
        if isinstance(line, dict) and "step" in line:
            lines.append(line)
    return lines


def _curve(lines: list[dict[str, Any]], section: str, name: str) -> Curve:
    """A metric over the steps; the last value if a step was measured twice."""
    found = {line["step"]: line[section][name] for line in lines if name in (line.get(section) or {})}
    steps = sorted(found)
    return Curve(np.asarray(steps, dtype=int), np.asarray([found[step] for step in steps], dtype=float))
