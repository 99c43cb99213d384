"""Index files: which kind one is, the indexes' bytes of a pickle, and faiss' reading of them behind limits."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from svcnb.features.content.clustering import import_faiss
from svcnb.features.content.index_reader import EXPECTED, REFUSED
from svcnb.files.unpickling import MALFORMED, CheckpointError, UnsafePickle

INDEX_CLASSES = ("IndexIVFFlat", "IndexFlat", "IndexFlatL2")
PLAIN_INDEX, PICKLE = b"I", b"\x80"  # what every faiss index and every binary pickle begins with
OLD_TORCH = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")  # a pickle too: torch.save before 1.6
READER = Path(__file__).with_name("index_reader.py")
READER_START_S, READER_BYTES_PER_S = 30.0, 5e6
DAMAGED = (ValueError, OverflowError, MemoryError, EOFError)


def kind_of_file(path: str | Path) -> str:
    """What a retrieval file holds, by its first bytes: "centers", "indexes" by speaker id, or one "index".

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
    return "indexes" if first[:1] == PICKLE and first[2:3] != b"\0" and first != OLD_TORCH else "centers"


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
        raise CheckpointError(
            f"{path} is no index: {len(contents)} bytes that begin {contents[:4]!r}. Download or copy it again."
        )
    try:
        loaded = _IndexUnpickler(io.BytesIO(contents), str(path)).load()
    except (*MALFORMED, OverflowError, MemoryError) as error:
        raise CheckpointError(
            f"{path} is cut short or damaged ({type(error).__name__}: {error}). Copy it again."
        ) from error
    if not isinstance(loaded, dict) or not loaded:
        raise CheckpointError(
            f"{path} holds a {type(loaded).__name__}, expected indexes by speaker id as in feature_and_index.pkl."
        )
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
        raise CheckpointError(
            f"{path} holds a {type(value).__name__} without an index's bytes. Make the index again."
        )
    return stored


def read_indexes(stored: Mapping[int, bytes], path: Path) -> dict[int, Any]:
    """faiss indexes of what `stored_indexes` gave, read in a process of its own and made anew here from plain arrays.

    The process has a limit of time, memory and output, and can open no file: see index_reader.

    Raises:
        CheckpointError: an index that is neither IVF,Flat nor Flat for squared distances, cut short, or damaged.
    """
    import_faiss()
    command = [sys.executable, "-P", str(READER), *(str(len(contents)) for contents in stored.values())]
    paths = os.pathsep.join(place for place in sys.path if place)
    n_bytes = sum(map(len, stored.values()))
    timeout_s = READER_START_S + n_bytes / READER_BYTES_PER_S
    with tempfile.TemporaryFile() as indexes, tempfile.TemporaryFile() as arrays:
        indexes.writelines(stored.values())
        indexes.seek(0)
        try:
            done = subprocess.run(
                command,
                stdin=indexes,
                stdout=arrays,
                stderr=subprocess.PIPE,
                timeout=timeout_s,
                env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            )
        except subprocess.TimeoutExpired as error:
            raise CheckpointError(
                f"{path} is damaged: it was not read within {timeout_s:.0f} s. Copy it again."
            ) from error
        if done.returncode:
            raise CheckpointError(_why_not(done, list(stored), path))
        arrays.seek(0)
        try:
            return {number: _index_of(arrays) for number in stored}
        except DAMAGED as error:
            raise CheckpointError(f"{path} is damaged ({error}). Copy it again.") from error


def _why_not(done: subprocess.CompletedProcess[bytes], numbers: list[int], path: Path) -> str:
    told = (done.stderr.decode(errors="replace").strip().splitlines() or [""])[-1]
    if done.returncode != REFUSED:
        how = f"ended by signal {-done.returncode}" if done.returncode < 0 else told
        return f"{path}: the index is damaged, its reader failed ({how}). Copy it again."
    place, _, reason = told.partition(" ")
    what = f"{path}, speaker {numbers[int(place)]}"
    if EXPECTED in reason:
        return f"{what}: {reason}. Build it again with build_index."
    return f"{what}: the index is cut short or damaged ({reason}). Copy it again."


def _index_of(arrays: IO[bytes]) -> Any:
    """The next index in the reader's output."""
    faiss = import_faiss()

    def following() -> np.ndarray:
        return np.lib.format.read_array(arrays, allow_pickle=False)

    width, n_lists, n_probed, map_kind, n_vectors = following().tolist()
    flat = faiss.IndexFlatL2(width)
    if not n_lists:
        flat.add(following())
        return flat
    flat.add(following())  # the centers of the lists
    sizes, ids, vectors = following(), following(), following()
    if not len(ids) == len(vectors) == sizes.sum() == n_vectors or len(sizes) != n_lists:
        raise ValueError(
            f"{len(sizes)} lists with {sizes.sum()} vectors, expected {n_lists} with {n_vectors}"
        )
    index = faiss.IndexIVFFlat(flat, width, n_lists)
    index.is_trained, index.ntotal, index.nprobe = True, n_vectors, n_probed
    ends = sizes.cumsum()
    for number, (size, end) in enumerate(zip(sizes.tolist(), ends.tolist(), strict=True)):
        if size:
            own_ids, own_vectors = ids[end - size : end], vectors[end - size : end].view(np.uint8)
            index.invlists.add_entries(number, size, faiss.swig_ptr(own_ids), faiss.swig_ptr(own_vectors))
    index.set_direct_map_type(map_kind)
    return index
