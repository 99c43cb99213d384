"""k-means: ours compared with the textbook version of Lloyd's algorithm."""

from __future__ import annotations

import numpy as np

from tests.benchmarks.sides import Size, Work

FRAMES, WIDTH, CENTERS = 20_000, 256, 2000
QUICK_FRAMES, QUICK_CENTERS = 400, 20
MAX_ITERATIONS, TOLERANCE = 300, 1e-4  # scikit-learn's defaults, which so-vits-svc 4.1 uses


def frames(size: Size) -> tuple[np.ndarray, int]:
    """Frames of a mixture of 500 Gaussians with unequal weights, and the number of centers."""
    n_frames, n_centers = (QUICK_FRAMES, QUICK_CENTERS) if size.quick else (FRAMES, CENTERS)
    random = np.random.default_rng(0)
    means = random.normal(size=(500, WIDTH))
    weights = random.dirichlet(np.ones(500))
    std = random.uniform(0.3, 0.7, size=(500, 1))
    chosen = random.choice(500, n_frames, p=weights)
    return (means[chosen] + std[chosen] * random.normal(size=(n_frames, WIDTH))).astype(np.float32), n_centers


def our_centers(size: Size) -> Work:
    from svcnb.features.content.clustering import fit_centers

    points, n_centers = frames(size)
    return lambda: {"mean_squared_distance": fit_centers(points, n_centers).mean_squared_distance}


def plain_centers(size: Size) -> Work:
    points, n_centers = frames(size)
    return lambda: {"mean_squared_distance": plain_kmeans(points, n_centers)}


def plain_kmeans(points: np.ndarray, n_centers: int) -> float:
    """Mean squared distance after k-means++ and Lloyd's iterations until the centers converge."""
    random = np.random.default_rng(0)
    centers = _seed_centers(points, n_centers, random)
    tolerance = TOLERANCE * points.var(axis=0).mean()
    for _ in range(MAX_ITERATIONS):
        nearest, _ = _assign(points, centers)
        counts = np.bincount(nearest, minlength=n_centers)
        order = np.argsort(nearest, kind="stable")
        filled = counts > 0
        starts = (np.cumsum(counts) - counts)[filled]
        moved = centers.copy()
        moved[filled] = np.add.reduceat(points[order], starts, axis=0) / counts[filled, None]
        shift = np.square(moved - centers).sum()
        centers = moved
        if shift <= tolerance:
            break
    return float(_assign(points, centers)[1].mean())


def _seed_centers(points: np.ndarray, n_centers: int, random: np.random.Generator) -> np.ndarray:
    """k-means++: each next center is a frame drawn with probability proportional to its squared distance."""
    centers = [points[random.integers(len(points))]]
    closest = np.square(points - centers[0]).sum(axis=1)
    for _ in range(n_centers - 1):
        centers.append(points[random.choice(len(points), p=closest / closest.sum())])
        closest = np.minimum(closest, np.square(points - centers[-1]).sum(axis=1))
    return np.stack(centers)


def _assign(points: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index and squared distance of each frame's nearest center."""
    squares = np.square(centers).sum(axis=1)
    nearest, distances = [], []
    for block in np.array_split(points, max(1, len(points) // 4000)):
        partial = squares - 2 * block @ centers.T
        found = partial.argmin(axis=1)
        nearest.append(found)
        distances.append(partial[np.arange(len(block)), found] + np.square(block).sum(axis=1))
    return np.concatenate(nearest), np.maximum(np.concatenate(distances), 0)
