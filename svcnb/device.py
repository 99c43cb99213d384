"""The device: how it is chosen, its memory, and what happens when memory runs out."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from svcnb import SvcError

if TYPE_CHECKING:
    import torch

# torch has a class for a GPU's memory only; for the processor's it is a RuntimeError like any other.
OUT_OF_CPU_MEMORY = ("can't allocate memory", "not enough memory", "Cannot allocate memory")
# Parameters of glibc's mallopt (malloc.h), and where its own adjustment of them ends.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
LARGEST_THRESHOLD_BYTES, USUAL_MMAP_MAX = 32 * 2**20, 65536
NEVER = 2**31 - 1


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


def choose_device(choice: str = "auto") -> str:
    """The device that a choice of auto, cpu or cuda means on this machine."""
    import torch

    if choice == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if choice != "cpu" and not choice.startswith("cuda"):
        raise SvcError(f"device {choice!r}: choose auto, cpu or cuda")
    if choice != "cpu" and not torch.cuda.is_available():
        raise SvcError(f"device {choice!r}: this machine has no usable GPU; take auto or cpu")
    return choice


def peak_memory_bytes(device: torch.device) -> int | None:
    """Most memory used so far: of the GPU since its statistics were reset, else of the process; None on Windows."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside, memory that tensors free stays with the process and serves the next ones; at the end it goes back.

    glibc asks the system for every large block anew and gives it back at once; the system then clears it page by
    page. On a CPU that is a tenth of a training step and a sixth of the decoding of a piece. The peak grows by a few
    per cent, as blocks of different sizes do not fill the gaps exactly. Other systems' allocators are left alone.
    Not to be nested: the inner end would be the outer one's too.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(MMAP_MAX, 0)
    libc.mallopt(TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        libc.mallopt(MMAP_MAX, USUAL_MMAP_MAX)
        libc.mallopt(MMAP_THRESHOLD, LARGEST_THRESHOLD_BYTES)
        libc.mallopt(TRIM_THRESHOLD, 2 * LARGEST_THRESHOLD_BYTES)
        libc.malloc_trim(0)
