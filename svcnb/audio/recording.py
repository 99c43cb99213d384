"""Recordings read in blocks: an hour of audio needs no more memory than a minute.

A file is decoded once, into a temporary file of raw samples: MP3 and Ogg do not support exact seeking.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from svcnb.audio.audio import Audio, decoding
from svcnb.files.disk import WriteError

BLOCK_SAMPLES = 2**18
BYTES_PER_SAMPLE = 4


class Recording(Protocol):
    """Mono audio in memory (`Audio`) or on disk (`AudioFile`)."""

    @property
    def sample_rate_hz(self) -> int: ...

    @property
    def n_samples(self) -> int: ...

    @property
    def duration_s(self) -> float: ...

    def read(self, start: int, end: int) -> np.ndarray:
        """Samples start..end (end excluded) as float32, limited to the recording."""

    def slice_s(self, start_s: float, end_s: float) -> Audio:
        """The part between two times, in memory."""

    def resampled(self, sample_rate_hz: int) -> Recording:
        """The same audio at another sample rate, round(T * new / old) samples long."""


class AudioFile:
    """A recording on disk; its samples are bit-equal to those of `read_audio`. Made by `open_audio`."""

    def __init__(
        self, name: str, sample_rate_hz: int, blocks: Iterable[np.ndarray], owner: ExitStack
    ) -> None:
        self.name = name
        self.sample_rate_hz = sample_rate_hz
        self.n_samples = 0
        self._owner = owner
        # Has no name in any folder: it is deleted when the process ends, even if it is killed.
        self._file = owner.enter_context(tempfile.TemporaryFile(buffering=0))
        for block in blocks:
            self._append(block)

    @property
    def duration_s(self) -> float:
        return self.n_samples / self.sample_rate_hz

    def read(self, start: int, end: int) -> np.ndarray:
        start, end = max(0, start), min(end, self.n_samples)
        samples = np.empty(max(0, end - start), np.float32)
        self._file.seek(start * BYTES_PER_SAMPLE)
        self._file.readinto(memoryview(samples).cast("B"))
        return samples

    def slice_s(self, start_s: float, end_s: float) -> Audio:
        start, end = (round(max(0.0, t) * self.sample_rate_hz) for t in (start_s, end_s))
        return Audio(self.read(start, end), self.sample_rate_hz)

    def resampled(self, sample_rate_hz: int) -> AudioFile:
        """The same audio at another sample rate, in another temporary file, which is closed with this one."""
        if sample_rate_hz == self.sample_rate_hz:
            return self
        return AudioFile(self.name, sample_rate_hz, _resampled_blocks(self, sample_rate_hz), self._owner)

    def _append(self, samples: np.ndarray) -> None:
        rest = memoryview(np.ascontiguousarray(samples, np.float32)).cast("B")
        try:
            while len(rest):
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            folder = tempfile.gettempdir()
            free_mb = shutil.disk_usage(folder).free // 10**6
            raise WriteError(
                f"{self.name} needs a temporary copy in {folder}, which has {free_mb} MB left "
                f"({error.strerror}): free some space, or set TMPDIR to another folder"
            ) from error
        self.n_samples += len(samples)


@contextmanager
def open_audio(path: Path | str) -> Iterator[AudioFile]:
    """Open any file that `read_audio` reads, with its errors; temporary files are deleted after the block."""
    with ExitStack() as owner, decoding(path) as (rate_hz, blocks):
        yield AudioFile(str(path), rate_hz, blocks, owner)


def blocks_of(recording: Recording, n_samples: int = BLOCK_SAMPLES) -> Iterator[np.ndarray]:
    """All samples in order, in blocks of at most `n_samples`."""
    for start in range(0, recording.n_samples, n_samples):
        yield recording.read(start, start + n_samples)


def _resampled_blocks(recording: Recording, sample_rate_hz: int) -> Iterator[np.ndarray]:
    """`resample_samples` of the whole recording, in blocks."""
    import soxr

    stream = soxr.ResampleStream(recording.sample_rate_hz, sample_rate_hz, 1, dtype="float32", quality="VHQ")
    missing = round(recording.n_samples * sample_rate_hz / recording.sample_rate_hz)
    for block in blocks_of(recording):
        part = stream.resample_chunk(block)[:missing]
        missing -= len(part)
        yield part
    part = stream.resample_chunk(np.zeros(0, np.float32), last=True)[:missing]
    yield np.pad(part, (0, missing - len(part)))
