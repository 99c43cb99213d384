"""Pictures of the inside: samples, curves, features over time, spectrograms one above the other.

Made for the tour (10_how_it_works), where every number that passes through the network can be looked at; plots.py
has the pictures of the main line. As there, functions return figures and show nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from svcnb.audio.audio import Audio
from svcnb.plots.audio import draw_spectrogram, draw_tracks, draw_waveform
from svcnb.plots.style import BLUE, GREEN, GREY, ORANGE, PINK, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from svcnb.features.pitch.track import F0Track

LINES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PINK, ":"))
MOST_DOTS = 1500  # single samples are drawn up to here


def plot_zoom(audio: Audio, start_s: float, length_s: float, *, title: str = "") -> Figure:
    """The whole recording, and below it a short piece magnified until single samples are seen."""
    piece = _excerpt(audio, start_s, length_s)
    figure, (whole, near) = new_figure(4.0, 2)
    draw_waveform(whole, audio)
    whole.axvspan(start_s, start_s + length_s, color=ORANGE, linewidth=1.5)
    whole.set_xlabel("time (s)")
    whole.set_title(title, loc="left")
    _draw_samples(near, piece, start_s)
    near.set_xlabel("time (ms)")
    near.set_title(f"the orange spot, {1000 * length_s:.0f} ms: {piece.n_samples} samples", loc="left")
    return figure


def plot_waves(sounds: Mapping[str, Audio], start_s: float, length_s: float) -> Figure:
    """The same short piece of several recordings on one time axis.

    Args:
        sounds: name -> recording; each is drawn at its own height, so only shapes compare.
    """
    figure, axes = new_figure(0.4 + 1.5 * len(sounds), len(sounds), sharex=True)
    for ax, (name, audio), (colour, _) in zip(axes, sounds.items(), LINES * len(sounds), strict=False):
        piece = _excerpt(audio, start_s, length_s)
        _draw_samples(ax, piece, start_s, colour=colour)
        ax.set_title(name, loc="left")
    axes[-1].set_xlabel("time (ms)")
    return figure


def _excerpt(audio: Audio, start_s: float, length_s: float) -> Audio:
    piece = audio.slice_s(start_s, start_s + length_s)
    if not piece.n_samples:
        raise ValueError(f"no samples from {start_s:g} s on for {length_s:g} s: the recording lasts {audio.duration_s:.2f} s")
    return piece


def _draw_samples(ax: Axes, piece: Audio, start_s: float, *, colour: str = BLUE) -> None:
    times_ms = 1000 * (start_s + np.arange(piece.n_samples) / piece.sample_rate_hz)
    marker = {"marker": ".", "markersize": 3} if piece.n_samples <= MOST_DOTS else {}
    ax.plot(times_ms, piece.samples, color=colour, linewidth=1, **marker)
    limit = max(1.15 * piece.peak, 1e-3)
    ax.set_ylim(-limit, limit)
    ax.set_xlim(times_ms[0], times_ms[-1])
    ax.set_ylabel("amplitude")


def plot_curves(
    x: Sequence[float], curves: Mapping[str, Sequence[float]], *, axes: tuple[str, str],
    marks: Mapping[str, float] | None = None, title: str = "",
) -> Figure:  # fmt: skip
    """Curves over a common x, in colours and line styles that can be told apart.

    Args:
        x: [N], ascending.
        curves: name -> [N]; four at most. A single curve needs no legend.
        axes: what runs to the right and what upwards, with their units.
        marks: text -> x of a vertical line with that text at its top.
    """
    if not 1 <= len(curves) <= len(LINES):
        raise ValueError(f"{len(curves)} curves: expected 1 to {len(LINES)}, more cannot be told apart")
    figure, (ax,) = new_figure(2.9)
    for (name, values), (colour, style) in zip(curves.items(), LINES, strict=False):
        ax.plot(x, values, style, color=colour, linewidth=1.4, label=name)
    for text, at in (marks or {}).items():
        ax.axvline(at, color=GREY, linewidth=0.9, linestyle=":")
        ax.text(at, 1.01, text, ha="center", va="bottom", size=9, color=GREY, transform=ax.get_xaxis_transform())
    if len(curves) > 1:
        ax.legend(fontsize=9, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(curves), labelcolor=GREY)
    ax.set_xlim(x[0], x[-1])
    ax.set_xlabel(axes[0])
    ax.set_ylabel(axes[1])
    ax.set_title(title, loc="left", pad=16 if marks else None)
    return figure


def plot_features(
    features: Mapping[str, Any], duration_s: float, *, rows: str, signed: bool = False, height: float = 1.7
) -> Figure:
    """What a network reads or writes, as heat maps over time: bright is much, dark is little.

    Args:
        features: name -> [rows, N], array or tensor, one picture each; every one has its own brightness.
        duration_s: seconds that the N columns stand for.
        rows: what a row is, for the axis.
        signed: values of both signs: white is zero, blue below, red above.
        height: of one picture, in inches.
    """
    figure, axes = new_figure(0.4 + height * len(features), len(features), sharex=True)
    for ax, (name, values) in zip(axes, features.items(), strict=True):
        matrix = np.asarray(values, dtype=np.float32)
        if matrix.ndim != 2 or 0 in matrix.shape:
            raise ValueError(f"{name} has shape {matrix.shape}, expected [rows, frames] with at least one of each")
        low, high = (float(edge) for edge in np.percentile(matrix, (1, 99.7)))
        if signed:
            high = max(abs(low), abs(high))
            low = -high
        image = ax.imshow(
            matrix, aspect="auto", origin="lower", interpolation="nearest", cmap="RdBu_r" if signed else "magma",
            vmin=low, vmax=max(high, low + 1e-6), extent=(0, duration_s, 0, len(matrix)),
        )  # fmt: skip
        figure.colorbar(image, ax=ax, pad=0.01, fraction=0.03).ax.tick_params(labelsize=8, colors=GREY)
        ax.set_ylabel(rows)
        ax.set_title(f"{name}: {matrix.shape[0]} x {matrix.shape[1]}", loc="left")
    axes[-1].set_xlabel("time (s)")
    return figure


def plot_spectrograms(sounds: Mapping[str, Audio], tracks: Sequence[F0Track] = ()) -> Figure:
    """Spectrograms of several recordings, one above the other on one time axis.

    Args:
        sounds: name -> recording.
        tracks: a melody for each of them, or none.
    """
    figure, axes = new_figure(0.4 + 2.0 * len(sounds), len(sounds), sharex=True)
    for row, (ax, (name, audio)) in enumerate(zip(axes, sounds.items(), strict=True)):
        draw_spectrogram(ax, audio, log_frequency=True)
        if tracks:
            draw_tracks(ax, [tracks[row]], ())
        ax.set_title(name, loc="left")
    axes[-1].set_xlabel("time (s)")
    return figure
