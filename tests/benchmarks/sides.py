"""The two sides of a comparison, each in its own process, in alternating turns.

With its own process, each side has its own peak memory. Alternating exposes both to the same load of other
programs, so that the ratio of a pair is meaningful even if the seconds are not.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

Work = Callable[[], dict[str, float]]  # does the work once; returns numbers that describe the result
MakeWork = Callable[["Size"], Work]


@dataclass(frozen=True)
class Size:
    """quick: smallest sizes, to check that everything runs. folder: for files that a side needs."""

    quick: bool
    folder: Path


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: of the work.
        ours, plain: make the work; plain is None if there is nothing to compare with.
        n_pairs: timed turns, after one untimed turn.
        audio_s: seconds of audio that are processed, full and quick; 0: no real-time factor.
    """

    name: str
    ours: MakeWork
    plain: MakeWork | None
    n_pairs: int = 5
    audio_s: tuple[float, float] = (0.0, 0.0)


@dataclass
class Measured:
    """Seconds per turn, peak memory of the process, and the numbers of the last turn."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)


@dataclass
class Comparison:
    """A row's result. Ratios are ours / plain, pair by pair."""

    row: Row
    ours: Measured
    plain: Measured | None

    def ratios(self) -> list[float]:
        if self.plain is None:
            return []
        return [ours / plain for ours, plain in zip(self.ours.seconds, self.plain.seconds, strict=True)]

    def cpu_ratio(self) -> float | None:
        """Ratio of processor time, shortest turn of each side: less noisy than seconds."""
        return None if self.plain is None else min(self.ours.cpu_seconds) / min(self.plain.cpu_seconds)


def compare(row: Row, size: Size) -> Comparison:
    """Run both sides of a row in alternating turns; the first turn of each is not timed."""
    context = multiprocessing.get_context("spawn")
    sides = {"ours": row.ours} | ({"plain": row.plain} if row.plain else {})
    children = {name: _Child(context, make, size) for name, make in sides.items()}
    try:
        for turn in range((1 if size.quick else row.n_pairs) + 1):
            for child in children.values():
                child.take_turn(timed=turn > 0)
        for child in children.values():
            child.finish()
    finally:
        for child in children.values():
            child.process.terminate()
            child.process.join()
    return Comparison(row, children["ours"].measured, children["plain"].measured if row.plain else None)


class _Child:
    """One side's process, controlled by the parent."""

    def __init__(self, context: multiprocessing.context.SpawnContext, make: MakeWork, size: Size) -> None:
        self.measured = Measured()
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, make, size), daemon=True)
        self.process.start()
        other.close()

    def take_turn(self, *, timed: bool) -> None:
        self.connection.send("turn")
        try:
            seconds, cpu_seconds, self.measured.numbers = self.connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise RuntimeError("a process of the comparison failed; its message is above") from error
        if timed:
            self.measured.seconds.append(seconds)
            self.measured.cpu_seconds.append(cpu_seconds)

    def finish(self) -> None:
        self.connection.send("end")
        self.measured.peak_bytes = self.connection.recv()


def _serve(connection: Connection, make: MakeWork, size: Size) -> None:
    work = make(size)
    while connection.recv() == "turn":
        begun, cpu_begun = time.perf_counter(), time.process_time()
        numbers = work()
        connection.send((time.perf_counter() - begun, time.process_time() - cpu_begun, numbers))
    connection.send(peak_memory_bytes())


def peak_memory_bytes() -> int:
    """Largest resident size of this process."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would include the parent's memory at the fork
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
