"""The bytes of index files, checked before faiss sees them.

faiss believes the sizes in a file: damaged ones make it hang or take all memory, and some kinds of index
open further files. Here only IVF,Flat and Flat pass, the kinds that so-vits-svc and RVC write.
"""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np

from svcnb.files.unpickling import MALFORMED, CheckpointError, UnsafePickle

FLAT_KINDS = (b"IxF2", b"IxFI", b"IxFl")
IVF_FLAT = b"IwFl"
INDEX_CLASSES = ("IndexIVFFlat", "IndexFlat", "IndexFlatL2")
PLAIN_INDEX, PICKLE = b"I", b"\x80"  # what every faiss index and every binary pickle begins with
OLD_TORCH = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")  # a pickle too: torch.save before 1.6
L2 = 1
HEADER = struct.Struct("<4siqqqBi")  # kind, width, vectors, two unused numbers, trained, metric
ID_BYTES = 8
DAMAGED = (struct.error, ValueError, OverflowError)


def kind_of_file(path: str | Path) -> str:
    """What a retrieval file holds, by its first bytes: "centres", "indexes" by speaker id, or one "index".

    Raises:
        CheckpointError: missing.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Check the name, or make the file first.")
    with path.open("rb") as file:
        first = file.read(len(OLD_TORCH))
    # A safetensors file begins with its header's length, whose first byte can be any; the zeros after it tell.
    if first[:1] == PLAIN_INDEX and 0 not in first[1:4]:
        return "index"
    return "indexes" if first[:1] == PICKLE and first[2:3] != b"\0" and first != OLD_TORCH else "centres"


def stored_indexes(path: str | Path, *, speaker_id: int = 0) -> dict[int, bytes]:
    """Serialized faiss indexes by speaker id, of a pickled dict or of one plain index (then of `speaker_id`).

    Raises:
        UnsafePickle: the pickle names anything but faiss' indexes; nothing of it was run.
        CheckpointError: missing, empty, cut short, or neither of both kinds of file.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Check the name, or make the index first.")
    contents = path.read_bytes()
    if contents[:1] == PLAIN_INDEX:
        return {speaker_id: contents}
    if contents[:1] != PICKLE:
        raise CheckpointError(f"{path} is no index: {len(contents)} bytes that begin {contents[:4]!r}. Download or copy it again.")
    try:
        loaded = _IndexUnpickler(io.BytesIO(contents), str(path)).load()
    except (*MALFORMED, OverflowError, MemoryError) as error:
        raise CheckpointError(f"{path} is cut short or damaged ({type(error).__name__}: {error}). Copy it again.") from error
    if not isinstance(loaded, dict) or not loaded:
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, expected indexes by speaker id as in feature_and_index.pkl.")
    return {_checked_id(key, path): _bytes_of(value, path) for key, value in loaded.items()}


class _StoredIndex:
    """Takes the place of a faiss index in a pickle: keeps its state, does nothing."""


class _IndexUnpickler(pickle.Unpickler):
    """Builds plain containers and `_StoredIndex`, nothing else."""

    def __init__(self, source: io.BytesIO, path: str) -> None:
        super().__init__(source)
        self.path = path

    def find_class(self, module: str, name: str) -> type:
        # The writer's CPU is part of the module's name: faiss.swigfaiss_avx2, ..._avx512.
        if module.startswith("faiss.swigfaiss") and name in INDEX_CLASSES:
            return _StoredIndex
        raise UnsafePickle(
            f"{self.path} was not loaded: it asks for {module}.{name}, which could run code or is no index that svcnb "
            "searches. Index files hold only faiss' IndexIVFFlat. Use another copy, or make the index again."
        )


def _checked_id(key: Any, path: Path) -> int:
    if not isinstance(key, int):
        raise CheckpointError(f"{path} has an index under {key!r}, expected a speaker id (a whole number).")
    return key


def _bytes_of(value: Any, path: Path) -> bytes:
    stored = vars(value).get("this") if isinstance(value, _StoredIndex) else None
    if not isinstance(stored, bytes):
        raise CheckpointError(f"{path} holds a {type(value).__name__} without an index's bytes. Make the index again.")
    return stored


def check_index_bytes(stored: bytes, what: str) -> None:
    """Refuse anything but an IVF,Flat or Flat index for squared distances whose sizes add up; `what` names it."""
    kind = stored[:4]
    if kind not in (*FLAT_KINDS, IVF_FLAT):
        raise CheckpointError(f"{what}: an index of the kind {kind!r}, expected IVF,Flat or Flat. Build it again with build_index.")
    try:
        end = _ivf_end(stored) if kind == IVF_FLAT else _flat_end(stored, 0)
    except DAMAGED as error:
        raise CheckpointError(f"{what}: the index is cut short or damaged ({error}). Copy it again.") from error
    if end != len(stored):
        raise CheckpointError(f"{what}: the index has {len(stored)} bytes, its sizes ask for {end}. Copy it again.")


def _header(stored: bytes, place: int) -> tuple[int, int]:
    """(width, number of vectors) of the index at `place`."""
    _, width, n_vectors, _, _, trained, metric = HEADER.unpack_from(stored, place)
    if width < 1 or n_vectors < 0 or trained != 1 or metric != L2:
        raise ValueError(f"width {width}, {n_vectors} vectors, trained {trained}, metric {metric}; expected metric {L2}")
    return width, n_vectors


def _flat_end(stored: bytes, place: int) -> int:
    """Where the Flat index that begins at `place` ends."""
    if stored[place : place + 4] not in FLAT_KINDS:
        raise ValueError(f"the lists' centres are {stored[place : place + 4]!r}, expected a Flat index")
    width, n_vectors = _header(stored, place)
    (n_numbers,) = struct.unpack_from("<Q", stored, place + HEADER.size)
    if n_numbers != width * n_vectors:
        raise ValueError(f"{n_numbers} numbers for {n_vectors} vectors of {width}")
    return place + HEADER.size + 8 + 4 * n_numbers


def _ivf_end(stored: bytes) -> int:
    """Where an IVF,Flat index ends: header, centres of the lists, map of the ids, then the lists' vectors and ids."""
    width, n_vectors = _header(stored, 0)
    n_lists, n_probed = struct.unpack_from("<QQ", stored, HEADER.size)
    centres = HEADER.size + 16
    place = _flat_end(stored, centres)
    if _header(stored, centres) != (width, n_lists) or n_probed < 1:
        raise ValueError(f"{n_lists} lists of width {width}, {n_probed} searched, do not fit the lists' centres")
    map_kind, n_mapped = struct.unpack_from("<BQ", stored, place)
    place += 9 + 8 * n_mapped
    if map_kind > 1 or n_mapped not in (0, n_vectors):
        raise ValueError(f"a map of kind {map_kind} with {n_mapped} entries for {n_vectors} vectors")
    kind, n_stored_lists, code_bytes, layout, n_sizes = struct.unpack_from("<4sQQ4sQ", stored, place)
    if (kind, n_stored_lists, code_bytes) != (b"ilar", n_lists, 4 * width) or layout not in (b"full", b"sprs"):
        raise ValueError(f"{n_stored_lists} lists of {kind!r} {layout!r} with {code_bytes} bytes per vector")
    place += 32
    sizes = np.frombuffer(stored, "<u8", n_sizes, place).tolist()
    if layout == b"sprs":  # pairs of a list's number and size, where most lists are empty
        if len(sizes) % 2 or any(number >= n_lists for number in sizes[::2]):
            raise ValueError("lists beyond the last one")
        sizes = sizes[1::2]
    elif n_sizes != n_lists:
        raise ValueError(f"{n_sizes} sizes for {n_lists} lists")
    if sum(sizes) != n_vectors:
        raise ValueError(f"{sum(sizes)} vectors in the lists, expected {n_vectors}")
    return place + 8 * n_sizes + n_vectors * (code_bytes + ID_BYTES)
