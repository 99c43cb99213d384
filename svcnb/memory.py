"""Memory that ran out, told as something a person can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from svcnb import SvcError

# torch has a class for a GPU's memory only; for the processor's it is a RuntimeError like any other.
OUT_OF_CPU_MEMORY = ("can't allocate memory", "not enough memory", "Cannot allocate memory")


class OutOfMemory(SvcError):
    """There was not enough memory; the message says what needs less."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether numpy, torch (processor or GPU) or Python itself found no memory."""
    told = isinstance(error, RuntimeError | OSError) and any(text in str(error) for text in OUT_OF_CPU_MEMORY)
    return told or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


@contextmanager
def told_when_memory_runs_out(what: str, remedy: str) -> Iterator[None]:
    """Around work on `what` (a file's name): "<what>: memory ran out; <remedy>"."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"{what}: memory ran out; {remedy}") from error
