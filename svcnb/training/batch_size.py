"""Find the largest batch size that fits into the GPU, by trial steps in a child process.

The parent must not initialize CUDA: a process that has done so cannot be forked for several GPUs, and memory
fragmented by a failed trial would be missing from the training.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

from svcnb import SvcError

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
# Fraction of the GPU's memory that a trial may use: batches of other lengths fragment memory differently.
HEADROOM_RATIO = 0.85
START_SECONDS = 120.0  # for a process to import torch and read the features
TRIAL_SECONDS = 300.0
log = logging.getLogger(__name__)
Trial = Callable[[int], bool]


def largest_that_fits(trial: Trial, sizes: Sequence[int]) -> int | None:
    """The largest of the ascending `sizes` before the first that fails `trial`; None if the first fails."""
    best = None
    for size in sizes:
        if not trial(size):
            break
        best = size
    return best


def sizes_up_to(n_clips: int) -> list[int]:
    """Sizes worth trying: at least four batches per epoch, as the learning rate decays once per epoch."""
    return [size for size in SIZES if size <= max(1, n_clips // 4)]


def probe_in_child(make_trial: Callable[[], Trial], sizes: Sequence[int]) -> int:
    """`largest_that_fits` in a spawned process; a size at which the process dies is too large.

    Args:
        make_trial: called in the child; picklable, e.g. functools.partial of a top-level function. A script that
            calls this function needs `if __name__ == "__main__":`; a notebook does not.

    Raises:
        SvcError: not even the smallest size fits, or the child could not start.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_report_trials, args=(make_trial, list(sizes), theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        outcomes = _receive(ours, n_sizes=len(sizes))
    finally:
        child.kill()
        child.join()
        ours.close()
    if isinstance(outcomes, str):
        raise SvcError(f"the batch size could not be found ({outcomes}): give a number instead of auto")
    best = largest_that_fits(lambda size: outcomes.get(size, False), sizes)
    if best is None:
        raise SvcError(
            f"not even {sizes[0]} clip fits into the GPU's memory: lower max_frames in config.json, "
            "or train the small size"
        )
    log.info("batch size %d fits the GPU (tried: %s)", best, ", ".join(map(str, outcomes)))
    return best


def _receive(connection: Connection, *, n_sizes: int) -> dict[int, bool] | str:
    """Results of the child until it ends or hangs: size -> whether it fits; or why it did not start."""
    outcomes: dict[int, bool] = {}
    seconds = START_SECONDS
    while len(outcomes) < n_sizes and connection.poll(seconds):
        try:
            size, outcome = connection.recv()
        except EOFError:
            return outcomes or "the process that tries sizes ended at once"
        if isinstance(outcome, str):
            return outcome
        outcomes[size] = outcome
        if not outcome:
            break
        seconds = TRIAL_SECONDS
    return outcomes or "the process that tries sizes did not respond"


def _report_trials(make_trial: Callable[[], Trial], sizes: list[int], connection: Connection) -> None:
    """In the child: send (size, fits) after each trial, or (0, reason) if the trial could not be set up."""
    try:
        trial = make_trial()
    except SvcError as error:
        connection.send((0, str(error)))
        return

    def try_and_report(size: int) -> bool:
        fits = trial(size)
        connection.send((size, fits))
        return fits

    largest_that_fits(try_and_report, sizes)
    connection.close()
