"""Fetch a file over HTTP so that a broken connection costs nothing: what has arrived stays, the rest is asked for.

`downloads` decides what is fetched and whether it is the right file; only these two modules may use the network.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from svcnb import MissingExtra, SvcError
from svcnb.files.disk import told_plainly, write_json

BLOCK_BYTES = 1 << 16
TIMEOUT_S = 30
TRIES_WITHOUT_PROGRESS = 3
PART_SUFFIX, NOTE_SUFFIX = ".part", ".part.json"
OK, PARTIAL, NOT_SATISFIABLE = 200, 206, 416


class TransferError(SvcError):
    """A file did not arrive; the message names the address and why. What has arrived is kept for the next try."""


@dataclass(frozen=True)
class _Note:
    """What lies in a .part file: from where, which version of it (ETag or date), of how many bytes (None: not told)."""

    address: str
    version: str
    n_bytes: int | None


def download(address: str, path: Path) -> int:
    """Fetch `address` into `path`, going on where an earlier try broke off.

    Until it is complete the file is called `<path>.part`. It is started anew where the address, or the file behind
    it, is another one than before, and where the server does not give parts.

    Returns:
        the number of bytes that an earlier try had left; 0 for a download in one go.

    Raises:
        TransferError: no connection, an error page, or it broke off again and again without progress.
        WriteError: the disk is full or the folder is read-only.
    """
    requests = _requests()
    part = path.with_name(path.name + PART_SUFFIX)
    with told_plainly(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = _kept_bytes(path, address)
        failures = 0
        while True:
            before = _size(part)
            try:
                _fetch_rest(requests, address, path)
                break
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                failures = 0 if _size(part) > before else failures + 1
                if failures == TRIES_WITHOUT_PROGRESS:
                    raise TransferError(_broken(address, part, error)) from error
            except requests.RequestException as error:
                raise TransferError(f"{address}: {error}") from error
        os.replace(part, path)
        _note_path(path).unlink(missing_ok=True)
    return kept


def forget_part(path: Path) -> None:
    """Remove what a broken download of `path` left."""
    path.with_name(path.name + PART_SUFFIX).unlink(missing_ok=True)
    _note_path(path).unlink(missing_ok=True)


def _requests() -> Any:
    try:
        import requests
    except ImportError as error:
        raise MissingExtra("downloads need requests: pip install requests") from error
    return requests


def _note_path(path: Path) -> Path:
    return path.with_name(path.name + NOTE_SUFFIX)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _read_note(path: Path) -> _Note | None:
    note = _note_path(path)
    if not note.is_file():
        return None
    try:
        return _Note(**json.loads(note.read_text(encoding="utf-8")))
    except (ValueError, TypeError):  # written by something else: the part is not trusted either
        return None


def _kept_bytes(path: Path, address: str) -> int:
    """Bytes of an earlier try of the same address; what belongs to another one is removed."""
    note = _read_note(path)
    if note is None or note.address != address:
        forget_part(path)
        return 0
    return _size(path.with_name(path.name + PART_SUFFIX))


def _fetch_rest(requests: Any, address: str, path: Path) -> None:
    """One connection: append what is missing, or start anew where the server says so."""
    part, note = path.with_name(path.name + PART_SUFFIX), _read_note(path)
    have = _size(part) if note else 0
    if have and have == note.n_bytes:
        return
    headers = {"Accept-Encoding": "identity"}  # sizes are those of the file, not of a compressed copy
    if have:
        headers["Range"] = f"bytes={have}-"
        if note.version:
            headers["If-Range"] = note.version
    with requests.get(address, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
        start, total = _place(answer)
        continues = answer.status_code == PARTIAL and have and (start, total) == (have, note.n_bytes)
        if answer.status_code == NOT_SATISFIABLE or (answer.status_code == PARTIAL and not continues):
            forget_part(path)
            raise requests.ConnectionError(f"{address} has changed since the download began")
        answer.raise_for_status()
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            raise TransferError(f"{address} leads to a web page, not to a file: the address has moved, or asks for a login")
        _refuse_if_too_big(path, total, start)
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        write_json(_note_path(path), asdict(_Note(address, "" if version.startswith("W/") else version, total)))
        _append(answer, part, start, total)
    if total is not None and _size(part) != total:
        raise requests.ConnectionError(f"{_size(part)} of {total} bytes arrived")


def _place(answer: Any) -> tuple[int, int | None]:
    """(first byte, size of the whole file or None) of an answer."""
    if answer.status_code == PARTIAL:  # bytes 100-199/200
        span, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        first = span.partition("-")[0]
        return int(first) if first.isdigit() else -1, int(total) if total.isdigit() else None
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _append(answer: Any, part: Path, start: int, total: int | None) -> None:
    from tqdm.auto import tqdm

    look = {"unit": "B", "unit_scale": True, "mininterval": 0.5, "desc": part.name.removesuffix(PART_SUFFIX)}
    with part.open("ab" if start else "wb") as file, tqdm(initial=start, total=total, **look) as bar:
        for block in answer.iter_content(BLOCK_BYTES):
            file.write(block)
            bar.update(len(block))


def _refuse_if_too_big(path: Path, total: int | None, have: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if total is not None and total - have > free:
        need = f"{(total - have) / 1e9:.2f} GB are missing, {free / 1e9:.2f} GB are free"
        raise TransferError(f"no room for {path.name} in {path.parent}: {need}. Free some space or choose another folder")


def _broken(address: str, part: Path, error: Exception) -> str:
    if not _size(part):
        return f"{address}: no answer from {urlsplit(address).netloc} ({type(error).__name__})"
    return f"{address}: broke off again and again ({error}). {_size(part) / 1e6:.1f} MB are kept: run the same again to go on"
