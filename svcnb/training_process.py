"""What the training loop needs of the process it runs in: stop requests, memory, a progress bar."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tqdm.auto import tqdm

from svcnb.training_state import TrainSettings, TrainState


@contextmanager
def stop_requests(*, second_acts: bool = True) -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM as an event that is read between steps; a second one acts at once.

    Args:
        second_acts: False where a launcher passes signals on, so that one wish may come twice: the second may also
            come after the end of the training, so signals then stay ignored.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals never reach other threads
        return
    usual = {number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, _frame: object) -> None:
        if second_acts:
            signal.signal(number, usual[number])
        stop.set()

    for number in usual:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler if second_acts else signal.SIG_IGN)


def peak_memory_bytes(device: torch.device) -> int | None:
    """Most memory used so far: of the GPU since its statistics were reset, else of the process; None on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def progress_bar(state: TrainState, settings: TrainSettings) -> tqdm:
    """A bar of steps; of seconds where only the time is limited, so that the remaining time is right."""
    looks: dict[str, Any] = {"desc": "training", "mininterval": 0.5, "disable": not state.accelerator.is_main_process}
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
