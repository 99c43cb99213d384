"""K-means clustering and index construction over the content features of a speaker, with faiss."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svcnb import MissingExtra, SvcError

SOVITS_CENTERS = 10_000
MIN_FRAMES_PER_CENTER = 2  # a center of one frame is not an average
MAX_FRAMES_PER_CENTER = 256  # more frames hardly change a center
WANTED_FRAMES_PER_CENTER = 10  # for the automatic number of centers
N_ROUNDS, STEP_ITERATIONS, N_LAST_STEPS = 10, 2, 5
MAX_MOVED_RATIO, SETTLED_RATIO = 0.25, 0.002  # of the centers, in one round
MAX_INDEX_FRAMES = 200_000
REDUCED_FRAMES = 10_000
ADDED_AT_ONCE = 8192
log = logging.getLogger(__name__)


class RetrievalError(SvcError):
    """Features, centers or an index that cannot be used."""


def import_faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra('k-means and retrieval need faiss: pip install "svcnb[index]"') from error
    return faiss


def as_matrix(values: Any, what: str) -> Tensor:
    """float32 [M, D] on the CPU: M and D at least 1, all values finite. `what` is used in error messages."""
    if not isinstance(values, (np.ndarray, Tensor)):
        raise RetrievalError(f"{what}: found a {type(values).__name__}, expected an array [frames, width].")
    if values.ndim != 2 or 0 in values.shape:
        raise RetrievalError(
            f"{what}: shape {tuple(values.shape)}, expected [frames, width] with at least one frame."
        )
    matrix = torch.as_tensor(values).detach().to("cpu", torch.float32).contiguous()
    if not matrix.isfinite().all():
        raise RetrievalError(
            f"{what}: some of the numbers are not finite. Make the file or the features again."
        )
    return matrix


@dataclass(frozen=True)
class CenterFit:
    """Result of a k-means fit.

    Attributes:
        centers: float32 [K, D].
        mean_squared_distance: from the frames used to their nearest center.
        n_frames: number of input frames.
        note: deviation from the requested settings; empty if none.
    """

    centers: Tensor
    mean_squared_distance: float
    n_frames: int
    note: str = ""

    def __str__(self) -> str:
        counts = f"{len(self.centers)} centers of {self.n_frames} frames"
        return f"{counts}, mean squared distance {self.mean_squared_distance:.4g}" + (
            f"; {self.note}" if self.note else ""
        )


@dataclass(frozen=True)
class FitProgress:
    """State of a fit after some steps; `fit_centers` resumes from it and returns the same centers.

    Attributes:
        centers: float32 [K, D].
        step: completed steps of two iterations; a fit has `count_steps`.
    """

    centers: Tensor
    step: int


def choose_n_centers(n_frames: int) -> int:
    """Automatic number of centers: so-vits-svc's 10 000, or fewer with ten frames per center on average."""
    return max(1, min(SOVITS_CENTERS, n_frames // WANTED_FRAMES_PER_CENTER))


def count_steps(n_rounds: int = N_ROUNDS) -> int:
    """Number of steps of a fit; early convergence skips some."""
    return 1 + n_rounds + N_LAST_STEPS


def fit_centers(
    features: Any,
    n_centers: int = SOVITS_CENTERS,
    *,
    seed: int = 0,
    n_rounds: int = N_ROUNDS,
    start: FitProgress | None = None,
    after_step: Callable[[FitProgress], None] | None = None,
) -> CenterFit:
    """K-means with faiss, on a GPU if faiss supports it.

    Lloyd's iterations from random frames end in local minima with several centers in one cluster and one
    center for several; so between iterations, centers of little use are moved to where they reduce the error
    most. In all tests the error was equal to scikit-learn's full k-means or lower, in a quarter of its time.

    Args:
        features: float [M, D], array or tensor: all frames of one speaker.
        n_centers: reduced to M / 2 if there are fewer than two frames per center; reported in the note.
        seed: of the random choices.
        n_rounds: rounds of moving centers; 0 is plain k-means, several times faster and a few percent worse.
        start: progress of an earlier call with the same arguments; on a CPU the result is bit-equal.
        after_step: called with the progress after each step, for example to save it.

    Raises:
        RetrievalError: no frames, non-finite values, or n_centers < 1. MissingExtra: no faiss.
    """
    frames = as_matrix(features, "the features").numpy()
    if n_centers < 1:
        raise RetrievalError(f"n_centers is {n_centers}, expected at least 1.")
    n_frames, most = len(frames), max(1, len(frames) // MIN_FRAMES_PER_CENTER)
    note = f"{n_centers} requested, but {n_frames} frames allow only {most}" if n_centers > most else ""
    n_centers = min(n_centers, most)
    random = np.random.default_rng([seed, 0])
    if n_frames > n_centers * MAX_FRAMES_PER_CENTER:
        frames = frames[np.sort(random.choice(n_frames, n_centers * MAX_FRAMES_PER_CENTER, replace=False))]
    if start is None:
        start = FitProgress(torch.from_numpy(frames[random.choice(len(frames), n_centers, replace=False)]), 0)
    centers = start.centers.numpy()
    for progress in _steps(frames, start, seed, n_rounds):
        centers = progress.centers.numpy()
        if after_step is not None:
            after_step(progress)
    distances, _ = _nearest(frames, centers, 1)
    return CenterFit(torch.from_numpy(centers), float(distances.mean()), n_frames, note)


def _steps(frames: np.ndarray, start: FitProgress, seed: int, n_rounds: int) -> Iterator[FitProgress]:
    """Run the steps after `start`. Random numbers depend on (seed, step) only, so a fit can be resumed."""
    step, centers = start.step, start.centers.numpy()
    while step < count_steps(n_rounds):
        settled = False
        if 0 < step <= n_rounds:
            centers, n_moved = _move_idle_centers(frames, centers, np.random.default_rng([seed, step]))
            settled = n_moved <= SETTLED_RATIO * len(centers)
        centers = _lloyd(frames, centers, STEP_ITERATIONS)
        step = 1 + n_rounds if settled else step + 1
        yield FitProgress(torch.from_numpy(centers), step)


def _lloyd(frames: np.ndarray, centers: np.ndarray, n_iterations: int) -> np.ndarray:
    faiss = import_faiss()
    kmeans = faiss.Kmeans(
        frames.shape[1],
        len(centers),
        niter=n_iterations,
        min_points_per_centroid=1,  # faiss would print a warning below 39 of them
        max_points_per_centroid=len(frames),
        gpu=_n_gpus(faiss) > 0,
    )
    kmeans.train(frames, init_centroids=centers)
    return kmeans.centroids.reshape(centers.shape)


def _move_idle_centers(
    frames: np.ndarray, centers: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, int]:
    """Move the least useful centers to frames far from their own center, where that reduces the error.

    Cost of a center: increase of the sum of squared distances without it. Gain of a frame: decrease with a
    center at it. Candidate frames are drawn with probability proportional to their squared distance, as in
    k-means++.

    Returns:
        The centers, and the number of moved ones.
    """
    n_centers = len(centers)
    if n_centers < 2:
        return centers, 0
    distances, nearest_ids = _nearest(frames, centers, 2)
    costs = np.bincount(nearest_ids[:, 0], distances[:, 1] - distances[:, 0], n_centers)
    probabilities = distances[:, 0].astype(np.float64)
    most = math.ceil(MAX_MOVED_RATIO * n_centers)
    n_drawn = min(2 * most, int(np.count_nonzero(probabilities)))
    if not n_drawn:
        return centers, 0  # every frame is at a center
    drawn = frames[random.choice(len(frames), n_drawn, replace=False, p=probabilities / probabilities.sum())]
    new_distances, new_ids = _nearest(frames, drawn, 1)
    gains = np.bincount(new_ids[:, 0], np.maximum(0, distances[:, 0] - new_distances[:, 0]), n_drawn)
    least_useful = np.argsort(costs)[: min(most, n_drawn)]
    most_gained = np.argsort(-gains)[: len(least_useful)]
    # gains descend and costs ascend: they cross once
    n_moved = int((gains[most_gained] > costs[least_useful]).sum())
    moved = centers.copy()
    moved[least_useful[:n_moved]] = drawn[most_gained[:n_moved]]
    return moved, n_moved


def _nearest(frames: np.ndarray, vectors: np.ndarray, n_neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances [M, n], at least 0, and indices [M, n] of the nearest vectors."""
    faiss = import_faiss()
    index = faiss.IndexFlatL2(vectors.shape[1])
    if _n_gpus(faiss):
        index = faiss.index_cpu_to_all_gpus(index)
    index.add(np.ascontiguousarray(vectors))
    distances, nearest_ids = index.search(frames, n_neighbours)
    return np.maximum(distances, 0), nearest_ids  # rounding can give negative values


def _n_gpus(faiss: ModuleType) -> int:
    return faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0


def count_lists(n_frames: int) -> int:
    """Number of inverted lists for N vectors: min(16 * sqrt(N), N / 39) as integers, at least 1.

    Source: so-vits-svc 4.1 and RVC, whose rule gives 0 and fails below 39 frames.
    """
    return max(1, min(int(16 * math.sqrt(n_frames)), n_frames // 39))


def build_index(features: Any, *, seed: int = 0) -> Any:
    """A faiss index "IVF{n},Flat" of one speaker's features [N, D]; one list is searched (nprobe 1).

    More than 200 000 frames (over an hour) are first reduced to 10 000 k-means centers, as in so-vits-svc,
    and this is logged. It takes minutes on a CPU.

    Raises:
        RetrievalError: no frames, or non-finite values. MissingExtra: no faiss.
    """
    faiss = import_faiss()
    frames = as_matrix(features, "the features").numpy()
    if len(frames) > MAX_INDEX_FRAMES:
        log.info("%d frames are reduced to %d centers for the index", len(frames), REDUCED_FRAMES)
        chosen = np.random.default_rng(seed).choice(len(frames), MAX_INDEX_FRAMES // 2, replace=False)
        frames = fit_centers(frames[np.sort(chosen)], REDUCED_FRAMES, seed=seed, n_rounds=0).centers.numpy()
    index = faiss.index_factory(frames.shape[1], f"IVF{count_lists(len(frames))},Flat")
    index.cp.min_points_per_centroid = 1  # no warning for a few frames
    index.train(frames)
    for start in range(0, len(frames), ADDED_AT_ONCE):
        index.add(frames[start : start + ADDED_AT_ONCE])
    index.nprobe = 1
    return index
