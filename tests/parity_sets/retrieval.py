"""Blending with cluster centers and feature retrieval of so-vits-svc 4.1, with the files it wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import torch

from svcnb.features.content.clustering import count_lists
from svcnb.features.content.retrieval import FeatureIndex, SpeakerCenters
from tests.parity_sets.registry import ReferenceSet, Row, difference

TOLERANCE = 1e-5  # float32 sums of eight vectors
SCORE_TOLERANCE = 1e-4  # squared distances of about 40
SPEAKER = "reference"
PLAIN_INDEX_SPEAKER = 7  # any: a plain index file names none


def retrieval_rows(reference: ReferenceSet) -> Iterator[Row]:
    if reference.has("kmeans/x"):
        yield from _center_rows(reference)
    if reference.has("retrieval/q"):
        yield from _index_rows(reference)


def _ratio(name: str, prefix: str) -> float | None:
    found = re.fullmatch(rf"{prefix}/fused_([\d.]+)", name)
    return float(found[1]) if found else None


def _center_rows(reference: ReferenceSet) -> Iterator[Row]:
    content = reference.tensor("kmeans/x")
    centers, speaker = SpeakerCenters({SPEAKER: reference.tensor("kmeans/centers")}), SPEAKER
    for path in sorted(reference.folder.glob("kmeans*.pt")):
        centers = SpeakerCenters.read(path)
        speaker = centers.speakers[0]
        yield reference.compare(
            "kmeans/centers", centers.centers[speaker], 0.0, note=f"as read from {path.name}"
        )
    yield reference.compare("kmeans/centers", centers.centers[speaker], 0.0)
    yield reference.compare("kmeans/x", centers.blend(content, speaker, 0.0), 0.0, note="ratio 0")
    if reference.has("kmeans/center_result"):
        yield reference.compare("kmeans/center_result", centers.nearest(content, speaker), TOLERANCE)
    for name in reference.arrays:
        ratio = _ratio(name, "kmeans")
        if ratio is not None:
            yield reference.compare(name, centers.blend(content, speaker, ratio), TOLERANCE)


def _index_rows(reference: ReferenceSet) -> Iterator[Row]:
    content = reference.tensor("retrieval/q")
    for path in sorted([*reference.folder.glob("*.pkl"), *reference.folder.glob("*.index")]):
        index = FeatureIndex.read(path, speaker_id=PLAIN_INDEX_SPEAKER)
        yield from _search_rows(reference, index, content, note=path.name)


def _search_rows(
    reference: ReferenceSet, index: FeatureIndex, content: torch.Tensor, *, note: str
) -> Iterator[Row]:
    speaker_id = index.speaker_ids[0]
    vectors = index.indexes[speaker_id]
    if reference.has("retrieval/n_ivf"):
        yield reference.compare("retrieval/n_ivf", np.array(vectors.nlist), 0.0, note=note)
        yield reference.compare(
            "retrieval/n_ivf", np.array(count_lists(vectors.ntotal)), 0.0, note="our rule"
        )
    yield reference.compare(
        "retrieval/q", index.blend(content, speaker_id, 0.0), 0.0, note=f"{note}, ratio 0"
    )
    found = index.neighbours(content, speaker_id)
    if reference.has("retrieval/score"):
        yield reference.compare("retrieval/score", found.distances, SCORE_TOLERANCE, note=note)
    if reference.has("retrieval/ix"):
        yield reference.compare("retrieval/ix", found.ids, 0.0, note=note)
    if reference.has("retrieval/npy"):
        yield _finite_row(reference, "retrieval/npy", index.blend(content, speaker_id, 1.0), note)
    for name in reference.arrays:
        ratio = _ratio(name, "retrieval")
        if ratio is not None:
            yield _finite_row(reference, name, index.blend(content, speaker_id, ratio), note)


def _finite_row(reference: ReferenceSet, name: str, ours: torch.Tensor, note: str) -> Row:
    """Frames where the original divides by zero (exact hits) must be finite in ours, the others equal."""
    theirs = reference.tensor(name)
    reference.compared.add(name)
    if ours.shape != theirs.shape or not ours.isfinite().all():
        return Row(name, float("inf"), TOLERANCE, note=f"{note}: shape {tuple(ours.shape)}, or not finite")
    usable = theirs.isfinite().all(dim=1)
    return difference(
        name,
        ours[usable],
        theirs[usable],
        TOLERANCE,
        note=f"{note}, {int((~usable).sum())} exact hits are finite",
    )
