"""The process in which faiss reads an index file: run as a script by `index_files`, imported by nobody.

faiss believes the sizes in a file: a damaged one can make it hang, take all memory, crash, or open further files. All
of that may happen here, behind limits, and what comes out is plain arrays.

    python index_reader.py N_BYTES ...   <one index after the other   >arrays of each, as np.save writes them

Arrays of an index: [width, number of lists (0: Flat), lists searched, map of ids (0 none, 1 array, 2 hash), vectors];
then of Flat its vectors; of IVF,Flat the lists' centers, sizes, ids and vectors, in the order of the lists.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

REFUSED = 3  # exit code: stderr is one line for the user
SPARE_BYTES = 1 << 29  # what faiss and numpy need beside the index
COPIES = 6  # of the index in memory, at most: as read, as faiss keeps it, as arrays
L2 = 1
EXPECTED = "expected IVF,Flat or Flat"


def main(sizes: list[int]) -> None:
    import faiss
    import numpy as np

    stored = [sys.stdin.buffer.read(size) for size in sizes]
    output = SimpleNamespace(write=sys.stdout.buffer.write)  # of a real file numpy would open a second handle
    limit_this_process(sum(sizes))
    for number, contents in enumerate(stored):
        try:
            index = read(faiss, np.frombuffer(contents, np.uint8))
            for array in arrays_of(faiss, np, index):
                np.save(output, array, allow_pickle=False)
        except (RuntimeError, ValueError, MemoryError, OverflowError, AssertionError) as error:
            sys.stdout.flush()
            told = " ".join(str(error).split()) or type(error).__name__
            sys.stderr.write(f"{number} {told.rpartition('Error: ')[2]}\n")  # without faiss' own source lines
            raise SystemExit(REFUSED) from None


def limit_this_process(n_bytes: int) -> None:
    """No more memory, output or open files than an index of this size needs; where the system can limit that."""
    try:
        import resource
    except ImportError:  # Windows: the time limit of the starter is what there is
        return
    used = Path("/proc/self/statm")
    n_used = int(used.read_text().split()[0]) * resource.getpagesize() if used.exists() else 0
    limits = {"RLIMIT_FSIZE": COPIES * n_bytes + SPARE_BYTES, "RLIMIT_NOFILE": 0, "RLIMIT_CORE": 0}
    if n_used:
        limits["RLIMIT_AS"] = n_used + COPIES * n_bytes + SPARE_BYTES
    for name, limit in limits.items():
        resource.setrlimit(getattr(resource, name), (limit, limit))


def read(faiss: Any, contents: Any) -> Any:
    reader = faiss.VectorIOReader()
    faiss.copy_array_to_vector(contents, reader.data)
    index = faiss.read_index(reader)
    if reader.rp != len(contents):
        raise ValueError(f"it has {len(contents)} bytes, its sizes ask for {reader.rp}")
    return index


def arrays_of(faiss: Any, np: Any, index: Any) -> Iterator[Any]:
    """The arrays of an index, checked: those of the module's docstring."""
    is_ivf = type(index) is faiss.IndexIVFFlat
    if not is_ivf and type(index) not in (faiss.IndexFlat, faiss.IndexFlatL2):
        raise ValueError(f"an index of the kind {type(index).__name__}, {EXPECTED}")
    if index.d < 1 or index.ntotal < 0 or index.metric_type != L2 or not index.is_trained:
        raise ValueError(
            f"width {index.d}, {index.ntotal} vectors, trained {index.is_trained}, metric {index.metric_type}"
        )
    if not is_ivf:
        yield np.array([index.d, 0, 0, 0, index.ntotal])
        yield flat_vectors(index)
        return
    centers = flat_vectors(faiss.downcast_index(index.quantizer), width=index.d)
    lists = faiss.downcast_InvertedLists(index.invlists)
    sizes = np.array([lists.list_size(i) for i in range(lists.nlist)], np.int64)
    found = (lists.nlist, len(centers), sizes.sum(), lists.code_size)
    if type(lists) is not faiss.ArrayInvertedLists or found != (
        index.nlist,
        index.nlist,
        index.ntotal,
        4 * index.d,
    ):
        raise ValueError(
            f"lists, centers, vectors and bytes per vector are {found} in {type(lists).__name__}"
        )
    if index.nprobe < 1:
        raise ValueError(f"{index.nprobe} lists searched")
    yield np.array([index.d, index.nlist, index.nprobe, index.direct_map.type, index.ntotal])
    yield centers
    yield sizes
    filled = [(i, size) for i, size in enumerate(sizes.tolist()) if size]
    yield joined(
        np, [faiss.rev_swig_ptr(lists.get_ids(i), size) for i, size in filled], np.empty(0, np.int64)
    )
    codes = [
        faiss.rev_swig_ptr(lists.get_codes(i), size * lists.code_size).view(np.float32) for i, size in filled
    ]
    yield joined(np, codes, np.empty(0, np.float32)).reshape(-1, index.d)


def flat_vectors(index: Any, *, width: int | None = None) -> Any:
    if (
        not hasattr(index, "reconstruct_n")
        or "Flat" not in type(index).__name__
        or width not in (None, index.d)
    ):
        raise ValueError(f"a {type(index).__name__} of width {index.d} holds the centers of the lists")
    return index.reconstruct_n(0, index.ntotal)


def joined(np: Any, arrays: list[Any], empty: Any) -> Any:
    return np.concatenate(arrays) if arrays else empty


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])
