"""Plots of content features: a 2-D projection of a speaker's frames, and a recording's distance to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from svcnb import SvcError
from svcnb.audio.audio import Audio
from svcnb.data.feature_store import FeatureStore
from svcnb.plots.audio import draw_spectrogram
from svcnb.plots.style import BLUE, GREY, ORANGE, WIDTH_INCHES, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_FRAMES_DRAWN, MOST_CENTERS_DRAWN = 6000, 400
FRAMES_PER_SECOND = 50  # of every content encoder
LINES = ((BLUE, "-"), (ORANGE, "--"))


@dataclass(frozen=True)
class Units:
    """Content frames and their f0.

    Attributes:
        content: float32 [M, D], 50 frames per second.
        f0_hz: float32 [M], 0 where unvoiced.
    """

    content: np.ndarray
    f0_hz: np.ndarray


def read_units(store: FeatureStore, speaker: str) -> Units:
    """All content frames of a speaker in a store, each with the f0 at its center.

    Raises:
        SvcError: no clips of this speaker; the message names the known ones.
    """
    names = [name for name in store.names() if store.record(name).speaker == speaker]
    if not names:
        raise SvcError(f"{store.folder} has no clips of {speaker!r}, only of {', '.join(store.speakers())}")
    parts = []
    for name in names:
        arrays = store.read(name)
        times_s = (np.arange(len(arrays["content"])) + 0.5) / FRAMES_PER_SECOND
        frames = np.minimum((times_s / store.settings.hop_s).astype(int), len(arrays["f0_hz"]) - 1)
        parts.append((arrays["content"].astype(np.float32), arrays["f0_hz"][frames]))
    return Units(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def plot_unit_map(units: Units, centers: np.ndarray, *, title: str = "") -> Figure:
    """2-D projection of a speaker's content frames as dots, colored by f0, with the cluster centers.

    Frames [D] are projected to the two principal components: similar frames are close together, and so are
    some different ones. The cube root is taken before; otherwise the few frames with one large value would
    compress all others into a corner.

    Args:
        units: at most 6000 frames are drawn, evenly spaced.
        centers: cluster centers, float [K, D]; at most 400 are drawn.
    """
    from matplotlib.colors import LogNorm

    frames, marks = np.cbrt(units.content), np.cbrt(np.asarray(centers))
    mean, axes_2d = principal_axes(frames)
    drawn = slice(None, None, -(-len(frames) // MOST_FRAMES_DRAWN))
    points, f0_hz = (frames[drawn] - mean) @ axes_2d, units.f0_hz[drawn]
    marks = (marks[:: -(-len(marks) // MOST_CENTERS_DRAWN)] - mean) @ axes_2d
    voiced = f0_hz > 0
    figure, (ax,) = new_figure(0.62 * WIDTH_INCHES)
    ax.scatter(*points[~voiced].T, s=5, color="#BBBBBB", linewidth=0, label="unvoiced")
    low, high = np.percentile(f0_hz[voiced], [2, 98]) if voiced.any() else (100.0, 200.0)
    scale = LogNorm(low, max(high, 1.01 * low))
    dots = ax.scatter(*points[voiced].T, s=5, c=f0_hz[voiced], cmap="viridis", norm=scale, linewidth=0)
    label = f"{len(marks)} of {len(centers)}" if len(marks) < len(centers) else str(len(marks))
    ax.scatter(*marks.T, s=16, facecolor=ORANGE, edgecolor="white", linewidth=0.5, label=f"{label} centers")
    bar = figure.colorbar(dots, ax=ax, pad=0.01, aspect=35)
    _f0_scale(bar.ax, scale.vmin, scale.vmax)
    ax.legend(fontsize=9, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, markerscale=1.6, frameon=False)
    ax.set_xlabel("first principal component")
    ax.set_ylabel("second principal component")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(title or f"{len(units.content)} frames of content", loc="left")
    return figure


def principal_axes(content: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and the two directions [D, 2] of largest variance; their largest component is positive.

    Source: principal component analysis, by the eigenvectors of the covariance.
    """
    mean = content.mean(axis=0)
    centered = content.astype(np.float64) - mean
    _, vectors = np.linalg.eigh(centered.T @ centered)
    directions = vectors[:, :-3:-1]  # eigenvalues ascend: the last two, largest first
    signs = np.sign(directions[np.abs(directions).argmax(axis=0), [0, 1]])
    return mean, directions * signs


def _f0_scale(ax: Axes, low_hz: float, high_hz: float) -> None:
    ticks = [
        hz for hz in (60, 80, 100, 120, 150, 200, 250, 300, 400, 500, 700, 1000) if low_hz <= hz <= high_hz
    ]
    ax.set_yticks(ticks, [str(hz) for hz in ticks])
    ax.minorticks_off()
    ax.set_ylabel("f0 (Hz)", color=GREY, size=10)
    ax.tick_params(colors=GREY, labelsize=9)


def plot_unit_distances(audio: Audio, distances: Mapping[str, np.ndarray], *, title: str = "") -> Figure:
    """Distance of each content frame of a recording to a voice's own frames, below its spectrogram.

    Args:
        distances: label -> squared distance of each content frame, 50 per second; at most two.
    """
    figure, (above, below) = new_figure(4.8, 2, sharex=True, height_ratios=(3, 2))
    draw_spectrogram(above, audio, log_frequency=True)
    above.set_title(title, loc="left")
    for (label, values), (colour, style) in zip(distances.items(), LINES, strict=False):
        times_s = (np.arange(len(values)) + 0.5) / FRAMES_PER_SECOND
        below.plot(
            times_s, values, style, color=colour, linewidth=1.2, label=f"{label}, mean {np.mean(values):.3g}"
        )
    below.set_ylabel("squared distance")
    below.set_xlabel("time (s)")
    below.set_ylim(0, None)
    below.legend(fontsize=9, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    return figure
