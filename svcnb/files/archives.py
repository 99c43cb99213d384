"""Zip files from elsewhere: what is in them, and some of it on disk, never outside the folder that was named."""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from svcnb import SvcError
from svcnb.files.disk import reporting_disk_errors

MAX_FILES = 10_000
MAX_BYTES = 8_000_000_000
BLOCK_BYTES = 1 << 20
ENCRYPTED = 0x1
JUNK_FOLDERS = {"__MACOSX"}
DRIVE = re.compile(r"^[A-Za-z]:")


class ArchiveError(SvcError):
    """A zip file that is damaged, locked, too big, or would write outside its folder."""


def list_archive(path: Path) -> dict[PurePosixPath, str]:
    """Files of a zip archive: place inside it -> the name that `unpack` and `read_member` take; nothing is written.

    Backslashes (zips made on Windows) count as folders; what macOS adds is left out.

    Raises:
        ArchiveError: no zip file, or any name that leaves the archive, a link, or more files than a voice can have:
            then all of it is refused, for whoever made it meant harm.
    """
    with _open(path) as archive:
        entries = [
            entry for entry in archive.infolist() if not entry.is_dir() and not entry.filename.endswith("\\")
        ]
    if len(entries) > MAX_FILES:
        raise ArchiveError(
            f"{path} holds {len(entries)} files, at most {MAX_FILES} are read: unpack it by hand"
        )
    found: dict[PurePosixPath, str] = {}
    for entry in entries:
        place = _checked_place(path, entry)
        if place in found:
            raise ArchiveError(f"{path} holds {place} twice: pack it again")
        if not JUNK_FOLDERS & set(place.parts) and not place.name.startswith("._"):
            found[place] = entry.filename
    return found


def read_member(path: Path, name: str, *, max_bytes: int) -> bytes:
    """One small file of the archive, in memory.

    Raises:
        ArchiveError: it is longer than `max_bytes`, damaged or locked.
    """
    with _open(path) as archive, _entry_opened(path, archive, name) as source:
        content = source.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ArchiveError(f"{path}: {name} has more than {max_bytes} bytes")
    return content


def unpack(path: Path, targets: Mapping[str, Path], *, max_bytes: int | None = None) -> int:
    """Write files of the archive: name inside it -> path; their folders are made.

    Args:
        max_bytes: of all of them, unpacked; MAX_BYTES when None.

    Returns:
        bytes written.

    Raises:
        ArchiveError: more bytes in all than that, no room on the disk, damaged, locked.
    """
    with _open(path) as archive:
        n_bytes = sum(archive.getinfo(name).file_size for name in targets)
        _refuse_if_too_big(
            path, n_bytes, next(iter(targets.values())), MAX_BYTES if max_bytes is None else max_bytes
        )
        for name, target in targets.items():
            with reporting_disk_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                with _entry_opened(path, archive, name) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file, BLOCK_BYTES)
    return n_bytes


def _open(path: Path) -> zipfile.ZipFile:
    if not path.is_file():
        raise ArchiveError(f"{path}: no such file. Check the name, or download it first.")
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ArchiveError(f"{path} is no complete zip file ({error}). Download or copy it again.") from error
    # Checkpoints are zip files themselves: of an archive cut short, zipfile would take one of them for the whole.
    if archive.infolist() and min(entry.header_offset for entry in archive.infolist()):
        archive.close()
        raise ArchiveError(f"{path} is no complete zip file (its end is missing). Download or copy it again.")
    return archive


@contextmanager
def _entry_opened(path: Path, archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    """A file of the archive to read from; zipfile itself stops at the size that the archive's table tells."""
    entry = archive.getinfo(name)
    if entry.flag_bits & ENCRYPTED:
        raise ArchiveError(f"{path} is locked with a password: unpack it by hand")
    try:
        with archive.open(entry) as source:
            yield source
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ArchiveError(f"{path}: {name} cannot be read ({error}). Download or copy it again.") from error


def _checked_place(path: Path, entry: zipfile.ZipInfo) -> PurePosixPath:
    place = PurePosixPath(entry.filename.replace("\\", "/"))
    if place.is_absolute() or DRIVE.match(str(place)) or ".." in place.parts:
        raise ArchiveError(f"{path} was not unpacked: it would write to {entry.filename}, outside its folder")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise ArchiveError(f"{path} was not unpacked: {entry.filename} is a link to another file")
    return place


def _refuse_if_too_big(path: Path, n_bytes: int, target: Path, most: int) -> None:
    if n_bytes > most:
        sizes = f"{n_bytes / 1e9:.2f} GB unpacked, at most {most / 1e9:.2f} GB are"
        raise ArchiveError(f"{path} would be {sizes}: unpack it by hand and give the folder")
    existing = next(parent for parent in target.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if n_bytes > free:
        raise ArchiveError(
            f"no room to unpack {path}: {n_bytes / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free in {existing}"
        )
