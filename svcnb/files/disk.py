"""Writing files so that none is ever half there, and saying in one line why one could not be written."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from svcnb import SvcError

TEMPORARY_PATTERN = ".svcnb-*.part"
# What the system says -> what a person can do. Anything else is a bug and keeps its traceback.
REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space or choose another folder, then run the same again",
    errno.EDQUOT: "the quota is used up: free some space or choose another folder, then run the same again",
    errno.EFBIG: "no larger file is allowed here: choose a folder on another disk, or raise the limit",
    errno.EROFS: "this folder is read-only: choose another one",
    errno.EACCES: "no permission: choose another folder, or change its permissions",
    errno.EPERM: "no permission: choose another folder, or change its permissions",
    errno.EISDIR: "a folder has the name that a file should get: rename or remove it",
    errno.ENOTDIR: "a file has the name that a folder should get: rename or remove it",
    errno.EEXIST: "a file has the name that a folder should get: rename or remove it",
    errno.ENAMETOOLONG: "the name is too long for this disk: choose a shorter one",
    errno.EIO: "the disk reports a fault: choose another disk, and check this one",
}  # fmt: skip


class WriteError(SvcError):
    """A file could not be written; the message names it and what to do. What was there before is as it was."""


@contextmanager
def reporting_disk_errors(path: Path | str) -> Iterator[None]:
    """Around writing `path`: a full disk, a read-only folder and their like become a WriteError."""
    try:
        yield
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        raise WriteError(f"{path} cannot be written: {REMEDIES[error.errno]}") from error


def temporary_beside(path: Path) -> Path:
    """The name under which `path` is written until it is complete.

    Always the same, so that a second run replaces what a killed one left; short, because the wanted name may already
    be as long as the file system allows.
    """
    return path.with_name(f".svcnb-{zlib.crc32(os.fsencode(path.name)):08x}.part")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`; renamed onto it on success, removed on any error or interrupt.

    Raises:
        WriteError: the disk is full, the folder is read-only, a folder stands in the way ...
    """
    path = Path(path)
    with reporting_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(path)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file; it appears whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file in UTF-8; it appears whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def copy_file(source: str | Path, target: str | Path) -> Path:
    """A copy of a file's content, appearing whole or not at all."""
    target = Path(target)
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
    return target


def write_json(path: str | Path, content: Any) -> Path:
    """Write what JSON can hold, indented by one space; the file appears whole or not at all."""
    return write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


class WatchedFile(io.FileIO):
    """A file to hand to a library that hides why writing failed; `check` tells, also after it was closed.

    libsndfile closes a FLAC file on a full disk without a word; torch reports "unexpected pos".
    """

    def __init__(self, path: Path | str) -> None:
        super().__init__(path, "w+")
        self.failure: OSError | KeyboardInterrupt | None = None

    def write(self, data: bytes) -> int:
        """All of `data`, or 0 bytes from the first failure on."""
        try:
            rest = memoryview(data).cast("B")
            while self.failure is None and len(rest):
                rest = rest[super().write(rest) :]
        except (OSError, KeyboardInterrupt) as error:  # cffi would print it and go on
            self.failure = error
        return len(data) if self.failure is None else 0

    def check(self) -> None:
        """Raise the first error that writing met."""
        if self.failure is not None:
            raise self.failure


@contextmanager
def watched_file(path: Path | str) -> Iterator[WatchedFile]:
    """A new file for a library to write to; what kept it from being written is raised instead of the library's error."""
    with WatchedFile(path) as file:
        try:
            yield file
        finally:
            file.check()
