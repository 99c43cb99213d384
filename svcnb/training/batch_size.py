"""How many clips fit into a GPU at once: tried out in a process of its own.

The process that asks must stay clean: one that has touched CUDA cannot be forked for several GPUs, and memory that
a failed trial left in pieces would be missing from the training.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

from svcnb import SvcError

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
# Part of the GPU's memory that a trial may use: clips of other lengths split the memory differently.
HEADROOM_RATIO = 0.85
START_SECONDS = 120.0  # for a process to import torch and read the features
TRIAL_SECONDS = 300.0
log = logging.getLogger(__name__)
Trial = Callable[[int], bool]


def largest_that_fits(trial: Trial, sizes: Sequence[int]) -> int | None:
    """The last of the growing `sizes` that `trial` accepts before the first it refuses; None where it refuses all."""
    best = None
    for size in sizes:
        if not trial(size):
            break
        best = size
    return best


def sizes_up_to(n_clips: int) -> list[int]:
    """Sizes worth trying: an epoch keeps at least four batches, or the learning rate hardly sees any."""
    return [size for size in SIZES if size <= max(1, n_clips // 4)]


def probe_in_child(make_trial: Callable[[], Trial], sizes: Sequence[int]) -> int:
    """`largest_that_fits` in a spawned process; one that dies while trying has shown that the size is too large.

    Args:
        make_trial: called in the child; picklable, e.g. functools.partial of a top-level function. A script that
            calls this needs the usual `if __name__ == "__main__":`; a notebook does not.

    Raises:
        SvcError: not even the smallest size fits, or the child could not begin.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_report_trials, args=(make_trial, list(sizes), theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        said = _listen(ours, n_sizes=len(sizes))
    finally:
        child.kill()
        child.join()
        ours.close()
    if isinstance(said, str):
        raise SvcError(f"the batch size could not be tried out ({said}): give a number instead of auto")
    best = largest_that_fits(lambda size: said.get(size, False), sizes)
    if best is None:
        raise SvcError(f"not even {sizes[0]} clip fits into the GPU's memory: lower max_frames in config.json, "
                       "or train the small size")  # fmt: skip
    log.info("batch size %d fits the GPU (tried: %s)", best, ", ".join(map(str, said)))
    return best


def _listen(line: Connection, *, n_sizes: int) -> dict[int, bool] | str:
    """What the child says until it is done, dies or hangs: size -> whether it fits; or why it did not begin."""
    said: dict[int, bool] = {}
    seconds = START_SECONDS
    while len(said) < n_sizes and line.poll(seconds):
        try:
            size, outcome = line.recv()
        except EOFError:
            return said or "the process that tries sizes ended at once"
        if isinstance(outcome, str):
            return outcome
        said[size] = outcome
        if not outcome:
            break
        seconds = TRIAL_SECONDS
    return said or "the process that tries sizes did not answer"


def _report_trials(make_trial: Callable[[], Trial], sizes: list[int], line: Connection) -> None:
    """In the child: send (size, fits) after each trial, or (0, reason) where none could be made."""
    try:
        trial = make_trial()
    except SvcError as error:
        line.send((0, str(error)))
        return

    def tell(size: int) -> bool:
        fits = trial(size)
        line.send((size, fits))
        return fits

    largest_that_fits(tell, sizes)
    line.close()
