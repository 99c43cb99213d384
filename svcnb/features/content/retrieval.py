"""Feature retrieval: blend content with the target speaker's k-means centers or nearest neighbours.

Both replace part of the source's content by the target speaker's: a higher ratio gives higher speaker
similarity and lower intelligibility. Reads and writes so-vits-svc's kmeans_*.pt and feature_and_index.pkl,
and RVC's added_*.index.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svcnb.features.content.clustering import RetrievalError, as_matrix, import_faiss
from svcnb.features.content.index_files import read_indexes, stored_indexes
from svcnb.files.checkpoint import read_checkpoint, read_safetensors, write_safetensors
from svcnb.files.disk import write_bytes

INDEX_FILE = "feature_and_index.pkl"  # so-vits-svc's name
KIND = "svcnb speaker centres"
FRAMES_PER_BLOCK = 1024  # bounds the memory of a search: 40 MB for 10 000 centers
SOVITS_THREADS = 4  # value written by so-vits-svc; scikit-learn requires a number


# Centers -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpeakerCenters:
    """K-means centers of the content features of each speaker: float32 [K, D] by speaker name."""

    centers: Mapping[str, Tensor]

    @property
    def speakers(self) -> list[str]:
        return list(self.centers)

    @classmethod
    def read(cls, path: str | Path) -> SpeakerCenters:
        """Read a kmeans_*.pt of so-vits-svc 4.0/4.1, or svcnb's .safetensors; no code in the file is run.

        Raises:
            UnsafePickle: the file needs more than arrays. CheckpointError: missing or damaged.
            RetrievalError: it does not contain centers.
        """
        path = Path(path)
        if path.suffix == ".safetensors":
            stored, metadata = read_safetensors(path)
            if metadata.get("kind") != KIND:
                kind = metadata.get("kind", "nothing")
                raise RetrievalError(f"{path} has kind {kind!r}, expected {KIND!r}: another file?")
        else:
            stored = {
                str(speaker): _stored_centers(path, speaker, entry)
                for speaker, entry in read_checkpoint(path).items()
            }
        return cls(
            {
                speaker: as_matrix(centers, f"{path}, speaker {speaker!r}")
                for speaker, centers in stored.items()
            }
        )

    def write(self, path: str | Path) -> Path:
        """Write all speakers: .safetensors, or .pt as so-vits-svc 4.0/4.1 reads it."""
        path = Path(path)
        if path.suffix == ".safetensors":
            return write_safetensors(path, self.centers, {"kind": KIND, "version": "1"})
        if path.suffix != ".pt":
            raise RetrievalError(
                f"{path} ends in {path.suffix!r}: write centers as .safetensors, or as .pt for so-vits-svc"
            )
        contents = {
            speaker: {
                "n_features_in_": centers.shape[1],
                "_n_threads": SOVITS_THREADS,
                "cluster_centers_": centers.cpu().numpy(),
            }
            for speaker, centers in self.centers.items()
        }
        memory = io.BytesIO()  # torch stores the file name in a file: bytes would depend on it
        torch.save(
            contents, memory, pickle_module=SimpleNamespace(__name__="pickle", Pickler=_PortableArrays)
        )
        return write_bytes(path, memory.getvalue())

    def width(self, speaker: str) -> int:
        """Width of the speaker's centers, values per frame.

        Raises:
            RetrievalError: unknown speaker (the known ones are listed).
        """
        if speaker not in self.centers:
            known = _listed(self.speakers)
            raise RetrievalError(f"no k-means centers for speaker {speaker!r}, only for {known}.")
        return self.centers[speaker].shape[1]

    def nearest(self, content: Tensor, speaker: str) -> Tensor:
        """The center closest to each frame (Euclidean).

        Args:
            content: float [N, D] on any device.
            speaker: a name of `speakers`.

        Returns:
            Same shape, dtype and device as `content`.

        Raises:
            RetrievalError: unknown speaker (the known ones are listed), or content of another encoder.
        """
        _check_content(content, self.width(speaker), f"the centers of {speaker!r}")
        centers = self.centers[speaker].to(content.device)
        half_squares = centers.square().sum(dim=1) / 2  # [K]; |x - c|² / 2 without the constant |x|² / 2
        blocks = content.float().split(FRAMES_PER_BLOCK)
        nearest_ids = torch.cat([(half_squares - block @ centers.T).argmin(dim=1) for block in blocks])  # [N]
        return centers[nearest_ids].to(content.dtype)

    def blend(self, content: Tensor, speaker: str, ratio: float) -> Tensor:
        """ratio * nearest center + (1 - ratio) * content, for content [N, D] and a ratio of 0..1.

        Source: so-vits-svc, --cluster_infer_ratio.
        """
        nearest = self.nearest(content, speaker)
        return _blend(content, nearest, ratio)


def _stored_centers(path: Path, speaker: Any, entry: Any) -> Any:
    if not isinstance(entry, dict) or "cluster_centers_" not in entry:
        found = (
            f"the keys {sorted(map(str, entry))[:4]}"
            if isinstance(entry, dict)
            else f"a {type(entry).__name__}"
        )
        raise RetrievalError(
            f"{path} holds {found} under {speaker!r}, expected cluster_centers_ as in a kmeans_*.pt: another file?"
        )
    return entry["cluster_centers_"]


class _PortableArrays(pickle.Pickler):
    """Arrays as `numpy.ndarray(shape, dtype, buffer)`: numpy 1 cannot read numpy 2's own pickles."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return np.ndarray, (value.shape, value.dtype, bytearray(value.tobytes()))
        return NotImplemented


# Index ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Neighbours:
    """The k nearest stored vectors of each frame, nearest first.

    Attributes:
        distances: float32 [N, k], squared Euclidean.
        ids: int64 [N, k], positions in the index; -1 if fewer were found.
        vectors: float32 [N, k, D]; undefined where the id is -1.
    """

    distances: np.ndarray
    ids: np.ndarray
    vectors: np.ndarray

    def mean(self) -> np.ndarray:
        """Mean weighted by (1 / distance)², normalised: float32 [N, D]; an exact match gives that vector.

        Source: so-vits-svc 4.1 and RVC, which divide by zero at an exact match.
        """
        closest = self.distances[:, :1]
        # Relative to the closest: equal weights after normalising, without division by zero.
        closeness = np.divide(
            closest, self.distances, out=np.ones_like(self.distances), where=self.distances > 0
        )
        found = self.ids >= 0
        weights = np.where(found, closeness**2, 0).astype(np.float32)
        weights /= weights.sum(axis=1, keepdims=True)
        return np.einsum("nk,nkd->nd", weights, np.where(found[..., None], self.vectors, 0))


class FeatureIndex:
    """Content vectors of each speaker, by speaker id, in a faiss index (IVF,Flat or Flat, L2)."""

    def __init__(self, indexes: Mapping[int, Any]) -> None:
        self.indexes = dict(indexes)
        empty = [speaker_id for speaker_id, index in self.indexes.items() if not index.ntotal]
        if empty or not self.indexes:
            raise RetrievalError(
                f"no vectors in the index of speaker {empty}: RVC's trained_*.index is empty, use added_*"
            )

    @property
    def speaker_ids(self) -> list[int]:
        return list(self.indexes)

    def __str__(self) -> str:
        sizes = (
            f"speaker {speaker_id}: {index.ntotal} x {index.d}" for speaker_id, index in self.indexes.items()
        )
        return f"index of {', '.join(sizes)}"

    @classmethod
    def read(cls, path: str | Path, *, speaker_id: int = 0) -> FeatureIndex:
        """Read a feature_and_index.pkl, or a plain index file, which is assigned to `speaker_id`.

        The kind of file is detected from its content. From a pickle only the bytes of the indexes are read;
        no code is run.

        Raises:
            UnsafePickle: the pickle needs anything but indexes. CheckpointError: missing or damaged.
        """
        path = Path(path)
        return cls(read_indexes(stored_indexes(path, speaker_id=speaker_id), path))

    def write(self, path: str | Path) -> Path:
        """Write .pkl (all speakers, for so-vits-svc) or .index (one speaker, as for RVC).

        The pickle refers to the faiss module for this machine's CPU, as so-vits-svc's own does: so-vits-svc
        needs a faiss with the same module to read it. `read` accepts any.
        """
        path = Path(path)
        faiss = import_faiss()
        if path.suffix == ".pkl":
            contents = pickle.dumps(self.indexes)
        elif path.suffix != ".index":
            raise RetrievalError(
                f"{path} ends in {path.suffix!r}, expected .pkl (all speakers) or .index (one speaker)"
            )
        elif len(self.indexes) != 1:
            raise RetrievalError(f"{path} can hold one speaker, not {len(self.indexes)}: write a .pkl")
        else:
            contents = faiss.serialize_index(next(iter(self.indexes.values()))).tobytes()
        return write_bytes(path, contents)

    def width(self, speaker_id: int) -> int:
        """Width of the speaker's vectors, values per frame.

        Raises:
            RetrievalError: unknown speaker (the known ones are listed).
        """
        if speaker_id not in self.indexes:
            known = _listed(self.speaker_ids)
            raise RetrievalError(f"no index for speaker id {speaker_id!r}, only for {known}.")
        return self.indexes[speaker_id].d

    def neighbours(self, content: Tensor, speaker_id: int, *, n_neighbours: int = 8) -> Neighbours:
        """Search the file's number of lists (nprobe, 1 in both families); if those are empty, search all.

        Raises:
            RetrievalError: unknown speaker (the known ones are listed), or content of another encoder.
        """
        _check_content(content, self.width(speaker_id), f"the index of speaker {speaker_id}")
        index = self.indexes[speaker_id]
        queries = np.ascontiguousarray(content.detach().float().cpu().numpy())
        distances, ids, vectors = index.search_and_reconstruct(queries, n_neighbours)
        unmatched = ids[:, 0] < 0
        if unmatched.any():
            all_lists = import_faiss().SearchParametersIVF(nprobe=index.nlist)
            found = index.search_and_reconstruct(queries[unmatched], n_neighbours, params=all_lists)
            distances[unmatched], ids[unmatched], vectors[unmatched] = found
        return Neighbours(np.maximum(distances, 0), ids, vectors)  # rounding can give negative values

    def blend(self, content: Tensor, speaker_id: int, ratio: float, *, n_neighbours: int = 8) -> Tensor:
        """ratio * weighted mean of the nearest vectors + (1 - ratio) * content.

        Args:
            content: float [N, D] on any device.
            speaker_id: one of `speaker_ids`.
            ratio: 0..1; 0 returns the content.

        Returns:
            Same shape, dtype and device as `content`; finite where the content is.
        """
        blocks = content.split(FRAMES_PER_BLOCK)
        means = [self.neighbours(block, speaker_id, n_neighbours=n_neighbours).mean() for block in blocks]
        return _blend(content, torch.from_numpy(np.concatenate(means)).to(content), ratio)


def _blend(content: Tensor, target: Tensor, ratio: float) -> Tensor:
    if not 0 <= ratio <= 1:
        raise RetrievalError(f"the ratio is {ratio}, expected 0 (source content only) to 1 (target only)")
    return ratio * target + (1 - ratio) * content


def _check_content(content: Tensor, width: int, what: str) -> None:
    if content.ndim != 2 or content.shape[1] != width:
        raise RetrievalError(
            f"the content has shape {tuple(content.shape)}, {what} is for [frames, {width}]. "
            "Make it from features of the encoder that the model was trained with."
        )
    if not content.isfinite().all():
        raise RetrievalError("some of the content's numbers are not finite: is the recording readable?")


def _listed(known: list) -> str:
    return ", ".join(map(str, known)) or "none"
