"""Device selection, device memory, and out-of-memory errors."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from svcnb import SvcError

if TYPE_CHECKING:
    import torch

# torch has an error class for GPU memory only; on a CPU it raises a plain RuntimeError.
OUT_OF_CPU_MEMORY = ("can't allocate memory", "not enough memory", "Cannot allocate memory")
# Parameters of glibc's mallopt (malloc.h), and the upper limits of its automatic adjustment.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
LARGEST_THRESHOLD_BYTES, USUAL_MMAP_MAX = 32 * 2**20, 65536
NEVER = 2**31 - 1


class OutOfMemory(SvcError):
    """Out of memory; the message names settings that need less."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether numpy, torch (CPU or GPU) or Python raised an out-of-memory error."""
    if isinstance(error, RuntimeError | OSError) and any(text in str(error) for text in OUT_OF_CPU_MEMORY):
        return True
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


@contextmanager
def reporting_memory_errors(what: str, remedy: str) -> Iterator[None]:
    """Turn out-of-memory errors in work on `what` (a file name) into "<what>: memory ran out; <remedy>"."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"{what}: memory ran out; {remedy}") from error


def choose_device(choice: str = "auto") -> str:
    """Resolve auto, cpu or cuda to a device of this machine."""
    import torch

    if choice == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if choice != "cpu" and not choice.startswith("cuda"):
        raise SvcError(f"device {choice!r}: choose auto, cpu or cuda")
    if choice != "cpu" and not torch.cuda.is_available():
        raise SvcError(f"device {choice!r}: this machine has no usable GPU; use auto or cpu")
    return choice


def peak_memory_bytes(device: torch.device) -> int | None:
    """Peak memory: of the GPU since its statistics were reset, else of the process; None on Windows."""
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
    """Context in which the process keeps freed memory for reuse; it is returned to the system at the end.

    By default glibc requests every large block from the system and returns it when freed; the system clears
    each new page. On a CPU this costs a tenth of a training step and a sixth of decoding a chunk. The peak
    grows by a few percent, as blocks of different sizes do not fill the gaps exactly. Has no effect on
    allocators other than glibc's. Do not nest: leaving the inner context would also end the outer one.
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
