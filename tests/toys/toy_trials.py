"""Trials of batch sizes for a child process: top-level functions that a spawned process can import."""

from __future__ import annotations

import os
from collections.abc import Callable

from svcnb import SvcError


def limited_to(limit: int, *, dies: bool = False) -> Callable[[int], bool]:
    """A trial with a fake limit; above it, it returns False, or the process exits as if out of memory."""

    def trial(size: int) -> bool:
        if size > limit and dies:
            os._exit(9)
        return size <= limit

    return trial


def refuse() -> Callable[[int], bool]:
    raise SvcError("no features there")
