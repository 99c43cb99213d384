"""The progress bar of a training: over steps, or over seconds where only the time is limited."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm

from svcnb.training.settings import TrainSettings
from svcnb.training.state import TrainState


def progress_bar(state: TrainState, settings: TrainSettings) -> tqdm:
    """Progress bar over steps, or over seconds if only the time is limited, so that its estimate is right."""
    looks: dict[str, Any] = {
        "desc": "training",
        "mininterval": 0.5,
        "disable": not state.accelerator.is_main_process,
    }
    if counts_seconds(settings):
        layout = "{l_bar}{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}{postfix}]"
        total_s = settings.max_minutes * 60
        return tqdm(total=total_s, initial=min(state.seconds, total_s), bar_format=layout, **looks)
    return tqdm(total=settings.max_steps, initial=state.step, unit="step", **looks)


def advance_bar(bar: tqdm, state: TrainState, settings: TrainSettings) -> None:
    done = state.seconds if counts_seconds(settings) else state.step
    bar.update(min(done, bar.total or done) - bar.n)


def counts_seconds(settings: TrainSettings) -> bool:
    return settings.max_steps is None and settings.max_minutes is not None
