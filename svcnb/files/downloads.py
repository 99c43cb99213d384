"""Weights that are there, or are fetched: resumed, compared with their checksum. Only this module and transfer use the network.

Nothing is fetched unless `fetch` is called. Files lie under the names that the voice families use, so
that a folder filled for another program serves here too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from svcnb import SvcError
from svcnb.files.archives import ArchiveError, list_archive, unpack
from svcnb.files.disk import write_json
from svcnb.files.pretrained_table import BUNDLED_FOLDER, HUGGING_FACE, WEIGHTS, Weights
from svcnb.files.transfer import Arrived, TransferError, download

CHECKSUMS_NAME = "checksums.json"
HUGGING_FACE_VARIABLE = "HF_ENDPOINT"  # Hugging Face's own programs read a mirror's address there, too
UNCHECKED_SUFFIX = ".unchecked"
IN_PACKAGES = (
    "auto",
    "fcpe",
    "crepe",
    "dio",
    "harvest",
    "pm",
)  # f0 methods whose weights pip installs, or that have none


class WeightsMissing(SvcError):
    """Weights that are not on this machine; the message says which file to put where."""


@dataclass(frozen=True)
class Fetched:
    """Weights that are on this machine now.

    Attributes:
        path: the file.
        mirror: host it came from; "" where it was there already, the archive's name where that was put there by hand.
        n_bytes: of the file.
        kept_bytes: what a broken download before had left, of the file or of its archive.
        sha256: of the file; "" for bundled ones.
        verified: what the checksum was compared with.
    """

    path: Path
    mirror: str
    n_bytes: int
    kept_bytes: int
    sha256: str
    verified: str


def weights_for(choices: Iterable[str]) -> list[Weights]:
    """The rows that some choices need: encoders, f0 methods, options, or names of rows. Empty choices are passed over.

    Raises:
        SvcError: a choice that nothing in the table is for; the known ones are named.
    """
    choices = [choice for choice in choices if choice and choice not in IN_PACKAGES]
    known = {choice for row in WEIGHTS.values() for choice in (row.name, *row.needed_for)}
    for choice in choices:
        if choice not in known:
            raise SvcError(
                f"{choice!r} needs no weights that svcnb knows: choose among {', '.join(sorted(known))}"
            )
    return [row for row in WEIGHTS.values() if {row.name, *row.needed_for} & set(choices)]


TABLE_HEADINGS = ("name", "needed for", "file", "size", "licence", "sha256", "here")


def table_of(rows: Iterable[Weights], folder: str | Path = Path("pretrain")) -> list[tuple[str, ...]]:
    """A line of words for each row, under TABLE_HEADINGS."""
    folder = Path(folder)
    return [
        (
            row.name,
            ", ".join(row.needed_for),
            row.file_name,
            row.size,
            row.licence,
            f"{row.sha256[:12]}..." if row.sha256 else row.checksum,
            "yes" if _present(row, folder) else "no",
        )
        for row in rows
    ]


def has_weights(name: str, folder: str | Path = Path("pretrain")) -> bool:
    """Whether the weights are in `folder` (or bundled), under any of their names."""
    return _present(_row(name), Path(folder)) is not None


def find_weights(name: str, folder: str | Path = Path("pretrain")) -> Path:
    """Where the weights are; nothing is downloaded.

    Raises:
        WeightsMissing: not there; the message names the file, the folder and the source.
    """
    row, folder = _row(name), Path(folder)
    found = _present(row, folder)
    if found is None:
        raise WeightsMissing(how_to_get(row, folder))
    return found


def fetch(name: str, folder: str | Path = Path("pretrain")) -> Fetched:
    """The weights, downloaded into `folder` if they are not there; broken downloads are resumed.

    An archive that was put into `folder` by hand is unpacked instead. The file appears under its name only when its
    checksum agrees with the published one, or with the one that the first use recorded.

    Raises:
        WeightsMissing: no mirror gave the file: says why for each, and which file to put where without a network; or
            what is there is not the file that it should be.
    """
    row, folder = _row(name), Path(folder)
    found = _present(row, folder)
    if found is not None:
        checked = ("", "part of the project") if row.bundled else _verify(row, folder, found, found.name)
        return Fetched(found, "", found.stat().st_size, 0, *checked)
    troubles = []
    for address in _addresses(row):
        try:
            return _fetch_from(address, row, folder)
        except (TransferError, ArchiveError, WeightsMissing) as error:
            troubles.append(str(error))
    raise WeightsMissing(". ".join([*troubles, how_to_get(row, folder)]))


def how_to_get(row: Weights, folder: Path) -> str:
    """One line: which file belongs where, and where it is found; also for a machine without a network."""
    files = " and ".join(str(folder / file_name) for file_name in (row.file_name, *row.companions))
    also = f" (or {', '.join(row.other_names)})" if row.other_names else ""
    told = f"{files}{also} is not there, needed for: {row.used_for}. Source: {row.source}."
    if not row.url:
        return told
    archive = _last_part(row.url)
    by_hand = f"save it as {folder / row.file_name}"
    if archive.endswith(".zip"):
        by_hand = f"put {archive} into {folder} and run the same"
    return f"{told} `svcnb weights {row.name} --fetch` downloads it; without a network, get {row.url} elsewhere and {by_hand}."


def sha256_of(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _row(name: str) -> Weights:
    if name not in WEIGHTS:
        raise SvcError(f"weights {name!r} are not known, expected one of {', '.join(WEIGHTS)}.")
    return WEIGHTS[name]


def _present(row: Weights, folder: Path) -> Path | None:
    places = [folder / file_name for file_name in (row.file_name, *row.other_names)]
    if row.bundled:  # also beside the package, wherever the program was started
        places.append(BUNDLED_FOLDER / row.file_name)
    if not all((folder / companion).is_file() for companion in row.companions):
        return None
    return next((path for path in places if path.is_file()), None)


def _addresses(row: Weights) -> list[str]:
    """Where to try, in order; a mirror of Hugging Face that the user named comes first."""
    addresses = [address for address in (row.url, *row.mirrors) if address]
    mirror = os.environ.get(HUGGING_FACE_VARIABLE, "").rstrip("/")
    if mirror:
        named = [
            mirror + address.removeprefix(HUGGING_FACE)
            for address in addresses
            if address.startswith(HUGGING_FACE)
        ]
        addresses = [*named, *addresses]
    return list(dict.fromkeys(addresses))


def _last_part(address: str) -> str:
    return urlsplit(address).path.rpartition("/")[2]


def _fetch_from(address: str, row: Weights, folder: Path) -> Fetched:
    path = folder / row.file_name
    unchecked = path.with_name(path.name + UNCHECKED_SUFFIX)
    mirror, arrived = urlsplit(address).netloc, Arrived(0, "")
    if address.endswith(".zip"):
        archive = folder / _last_part(address)
        by_hand = archive.is_file()
        if by_hand:
            mirror = archive.name
        else:
            arrived = Arrived(download(address, archive).kept_bytes, "")  # a checksum would be the archive's
        try:
            _unpack_row(row, archive, unchecked)
        except (ArchiveError, WeightsMissing):
            if not by_hand:
                archive.unlink()
            raise
    else:
        arrived = download(address, unchecked)
    try:
        checked = _verify(row, folder, unchecked, row.file_name, by_host=arrived.sha256)
    except WeightsMissing:
        unchecked.unlink()
        raise
    unchecked.replace(path)
    return Fetched(path, mirror, path.stat().st_size, arrived.kept_bytes, *checked)


def _unpack_row(row: Weights, archive: Path, target: Path) -> None:
    """Write the wanted member to `target`, and what lies beside it where the row has a folder; remove the archive."""
    members = list_archive(archive)
    found = [place for place in members if place.name == row.member]
    if len(found) != 1:
        raise WeightsMissing(
            f"{archive} holds {len(found)} files called {row.member}, expected one: is it another archive?"
        )
    targets = {members[found[0]]: target}
    if "/" in row.file_name:
        beside = [place for place in members if place.parent == found[0].parent and place != found[0]]
        targets |= {members[place]: target.parent / place.name for place in beside}
    unpack(archive, targets)
    archive.unlink()


def _verify(row: Weights, folder: Path, path: Path, name: str, *, by_host: str = "") -> tuple[str, str]:
    """(checksum, what it was compared with) of a file that belongs under `name`; the first one is recorded.

    Args:
        by_host: the checksum that the host named while it gave the file; counts where none is known from before.

    Raises:
        WeightsMissing: it is another file.
    """
    found, recorded = sha256_of(path), _recorded(folder).get(name)
    published = row.sha256 if name == row.file_name else None
    expected, whose = next(
        (checksum, whose)
        for checksum, whose in (
            (published, "the published one"),
            (recorded, f"the one in {folder / CHECKSUMS_NAME}"),
            (by_host, "the one that the host names"),
            (found, "none is published"),
        )
        if checksum
    )
    if found != expected:
        raise WeightsMissing(
            f"{folder / name} is another file than expected: its sha256 {found} is not {whose}, "
            f"{expected}. Remove it and fetch it again"
        )
    if published or recorded:
        return (
            found,
            "equal to the published checksum" if published else "equal to the checksum of the first use",
        )
    write_json(folder / CHECKSUMS_NAME, {**_recorded(folder), name: found})
    return (
        found,
        f"{'equal to the checksum that the host names, ' if by_host else ''}recorded now (none is published)",
    )


def _recorded(folder: Path) -> dict[str, str]:
    path = folder / CHECKSUMS_NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
