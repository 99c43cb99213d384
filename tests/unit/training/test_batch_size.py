"""The search for the largest batch size: right answer, no leftover process, clear errors."""

from __future__ import annotations

import multiprocessing
from functools import partial

import pytest

from svcnb import SvcError
from svcnb.training.batch_size import SIZES, largest_that_fits, probe_in_child, sizes_up_to
from tests.toys.toy_trials import limited_to, refuse


@pytest.mark.parametrize(("limit", "found"), [(0, None), (1, 1), (7, 6), (64, 64), (1000, 64)])
def test_the_largest_size_that_fits_is_found_without_trying_beyond_the_first_that_does_not(
    limit, found
) -> None:
    tried = []

    def trial(size: int) -> bool:
        tried.append(size)
        return size <= limit

    assert largest_that_fits(trial, SIZES) == found
    assert sum(size > limit for size in tried) <= 1


def test_an_epoch_keeps_four_batches() -> None:
    assert sizes_up_to(3) == [1] and sizes_up_to(16)[-1] == 4 and sizes_up_to(10_000)[-1] == 64


@pytest.mark.parametrize("dies", [False, True])
def test_a_child_process_reports_the_size_even_if_the_next_one_kills_it(dies: bool) -> None:
    assert probe_in_child(partial(limited_to, 5, dies=dies), [1, 2, 4, 8, 16]) == 4
    assert not multiprocessing.active_children()


def test_a_gpu_too_small_for_one_clip_and_a_child_that_cannot_start_are_reported() -> None:
    with pytest.raises(SvcError, match="not even 1 clip fits"):
        probe_in_child(partial(limited_to, 0), [1, 2])
    with pytest.raises(SvcError, match=r"no features there\): give a number"):
        probe_in_child(refuse, [1, 2])
