"""Fetch a file over HTTP with huggingface_hub's transfer, which resumes: what has arrived is kept for the next call.

`downloads` decides what is fetched and whether it is the right file; only these two modules may use the network.
"""

from __future__ import annotations

import os
import re
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from svcnb import MissingExtra, SvcError
from svcnb.files.disk import REMEDIES, reporting_disk_errors

PART_SUFFIX = ".part"
NOT_SATISFIABLE = 416
SHA256 = re.compile(r"[0-9a-f]{64}")
UNCOMPRESSED = {"Accept-Encoding": "identity"}  # sizes are those of the file, not of a compressed copy
WEB_PAGE = re.compile(rb"\s*<(!doctype\s+html|html)", re.IGNORECASE)


class TransferError(SvcError):
    """A file did not arrive; the message names the address and why. What has arrived is kept for the next try."""


@dataclass(frozen=True)
class Arrived:
    """A file that was fetched.

    Attributes:
        kept_bytes: what an earlier call had left; 0 for a download in one go.
        sha256: the checksum that the host names (Hugging Face: the ETag of a large file); "" where it names none.
    """

    kept_bytes: int
    sha256: str


@dataclass(frozen=True)
class _Served:
    """What a host says of a file: its version (ETag) and size; "" and None where it does not say."""

    version: str
    n_bytes: int | None


def download(address: str, path: Path) -> Arrived:
    """Fetch `address` into `path`, resuming where an earlier call broke off.

    Until it is complete the file is `<path>.<number>.part`, where the number stands for the address and the version
    behind it: a part of anything else is removed. A connection that breaks is tried again as long as it gets further;
    huggingface_hub writes blocks of 10 MB, so that of a broken block nothing is kept.

    Raises:
        TransferError: no connection, an error page, no room on the disk, or it broke off again and again.
        WriteError: the disk is full or the folder is read-only.
    """
    errors, files = _hub()
    with reporting_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        kept, served, part = 0, None, None
        try:
            served = _look_up(files, errors, address)
            part = _part_path(path, address, served)
            kept = _size(part)
            _refuse_if_too_big(path, served.n_bytes, kept)
            with part.open("ab") as file:
                files.http_get(
                    address,
                    file,
                    resume_size=kept,
                    headers=UNCOMPRESSED,
                    expected_size=served.n_bytes,
                    displayed_filename=path.name,
                )
        except (errors.HTTPError, OSError) as error:
            if getattr(error, "errno", None) in REMEDIES:
                raise
            raise TransferError(_why_not(address, part, error)) from error
        _refuse_web_page(address, part)
        os.replace(part, path)
    return Arrived(kept, served.version if SHA256.fullmatch(served.version) else "")


def _hub() -> tuple[Any, Any]:
    try:
        import huggingface_hub.errors
        import huggingface_hub.file_download
    except ImportError as error:
        raise MissingExtra("downloads need huggingface_hub: pip install huggingface_hub") from error
    return huggingface_hub.errors, huggingface_hub.file_download


def _look_up(files: Any, errors: Any, address: str) -> _Served:
    """Ask for version and size. A host that only leads to another one (GitHub) says neither: that one is asked."""
    found = files.get_hf_file_metadata(address)
    if not found.size and found.location != address:
        try:
            found = files.get_hf_file_metadata(found.location)
        except errors.HfHubHTTPError:  # some give files but no information about them
            return _Served("", None)
    return _Served(found.etag or "", found.size or None)


def _part_path(path: Path, address: str, served: _Served) -> Path:
    """Where this version of the file is collected; parts of other versions are removed."""
    number = zlib.crc32(f"{address} {served.version} {served.n_bytes}".encode())
    part = path.with_name(f"{path.name}.{number:08x}{PART_SUFFIX}")
    for other in path.parent.glob(f"*{PART_SUFFIX}"):
        if other.name.startswith(f"{path.name}.") and other != part:
            other.unlink()
    return part


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _refuse_if_too_big(path: Path, n_bytes: int | None, kept: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if n_bytes is not None and n_bytes - kept > free:
        need = f"{(n_bytes - kept) / 1e9:.2f} GB are missing, {free / 1e9:.2f} GB are free"
        raise TransferError(
            f"no room for {path.name} in {path.parent}: {need}. Free some space or choose another folder"
        )


def _refuse_web_page(address: str, part: Path) -> None:
    with part.open("rb") as file:
        is_page = WEB_PAGE.match(file.read(256))
    if is_page:
        part.unlink()
        raise TransferError(
            f"{address} leads to a web page, not to a file: the address has moved, or asks for a login"
        )


def _why_not(address: str, part: Path | None, error: Exception) -> str:
    """One line; a part that cannot be resumed is removed."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = str(error).partition("\n")[0]
    wrong_size = (
        type(error) is OSError
    )  # huggingface_hub's own comparison: more or less arrived than was announced
    if part is not None and (status == NOT_SATISFIABLE or wrong_size or not _size(part)):
        part.unlink(missing_ok=True)
    if status is not None:
        return f"{address}: {status} ({reason})"
    if wrong_size:
        return f"{address}: {reason}"
    if part is None or not part.exists():
        return f"{address}: no answer from {urlsplit(address).netloc} ({type(error).__name__})"
    kept = f"{_size(part) / 1e6:.1f} MB are kept: run the same again to resume"
    return f"{address}: broke off again and again ({reason}). {kept}"
