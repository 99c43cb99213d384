"""Plots of internals: samples, curves, features over time, stacked spectrograms.

For the tour (10_how_it_works), which shows the tensors inside the network; audio.py has the plots of the
other notebooks. As there, functions return figures and show nothing.
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
MOST_DOTS = 1500  # up to this many samples are marked by dots


def plot_zoom(audio: Audio, start_s: float, length_s: float, *, title: str = "") -> Figure:
    """The whole waveform, and below it a short excerpt in which single samples are visible."""
    excerpt = _excerpt(audio, start_s, length_s)
    figure, (whole, zoomed) = new_figure(4.0, 2)
    draw_waveform(whole, audio)
    whole.axvspan(start_s, start_s + length_s, color=ORANGE, linewidth=1.5)
    whole.set_xlabel("time (s)")
    whole.set_title(title, loc="left")
    _draw_samples(zoomed, excerpt, start_s)
    zoomed.set_xlabel("time (ms)")
    zoomed.set_title(f"the orange part, {1000 * length_s:.0f} ms: {excerpt.n_samples} samples", loc="left")
    return figure


def plot_waves(sounds: Mapping[str, Audio], start_s: float, length_s: float) -> Figure:
    """The same short excerpt of several recordings on one time axis.

    Args:
        sounds: name -> recording; each has its own amplitude scale, so compare shapes only.
    """
    figure, axes = new_figure(0.4 + 1.5 * len(sounds), len(sounds), sharex=True)
    for ax, (name, audio), (colour, _) in zip(axes, sounds.items(), LINES * len(sounds), strict=False):
        excerpt = _excerpt(audio, start_s, length_s)
        _draw_samples(ax, excerpt, start_s, colour=colour)
        ax.set_title(name, loc="left")
    axes[-1].set_xlabel("time (ms)")
    return figure


def _excerpt(audio: Audio, start_s: float, length_s: float) -> Audio:
    excerpt = audio.slice_s(start_s, start_s + length_s)
    if not excerpt.n_samples:
        raise ValueError(
            f"no samples at {start_s:g} s for {length_s:g} s: the recording lasts {audio.duration_s:.2f} s"
        )
    return excerpt


def _draw_samples(ax: Axes, excerpt: Audio, start_s: float, *, colour: str = BLUE) -> None:
    times_ms = 1000 * (start_s + np.arange(excerpt.n_samples) / excerpt.sample_rate_hz)
    marker = {"marker": ".", "markersize": 3} if excerpt.n_samples <= MOST_DOTS else {}
    ax.plot(times_ms, excerpt.samples, color=colour, linewidth=1, **marker)
    limit = max(1.15 * excerpt.peak, 1e-3)
    ax.set_ylim(-limit, limit)
    ax.set_xlim(times_ms[0], times_ms[-1])
    ax.set_ylabel("amplitude")


def plot_curves(
    x: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    *,
    axes: tuple[str, str],
    marks: Mapping[str, float] | None = None,
    title: str = "",
) -> Figure:
    """Curves over a common x, in different colors and line styles.

    Args:
        x: [N], ascending.
        curves: name -> [N]; four at most. A single curve needs no legend.
        axes: labels of the x and the y axis, with units.
        marks: text -> x of a vertical line, labelled with that text.
    """
    if not 1 <= len(curves) <= len(LINES):
        raise ValueError(f"{len(curves)} curves: expected 1 to {len(LINES)}, more cannot be distinguished")
    figure, (ax,) = new_figure(2.9)
    for (name, values), (colour, style) in zip(curves.items(), LINES, strict=False):
        ax.plot(x, values, style, color=colour, linewidth=1.4, label=name)
    for text, at in (marks or {}).items():
        ax.axvline(at, color=GREY, linewidth=0.9, linestyle=":")
        ax.text(
            at, 1.01, text, ha="center", va="bottom", size=9, color=GREY, transform=ax.get_xaxis_transform()
        )
    if len(curves) > 1:
        ax.legend(
            fontsize=9,
            frameon=False,
            loc="lower right",
            bbox_to_anchor=(1, 1),
            ncols=len(curves),
            labelcolor=GREY,
        )
    ax.set_xlim(x[0], x[-1])
    ax.set_xlabel(axes[0])
    ax.set_ylabel(axes[1])
    ax.set_title(title, loc="left", pad=16 if marks else None)
    return figure


def plot_features(
    features: Mapping[str, Any], duration_s: float, *, rows: str, signed: bool = False, height: float = 1.7
) -> Figure:
    """Heat maps of a network's inputs or outputs over time; large values are bright.

    Args:
        features: name -> [rows, N], array or tensor, one heat map each; each has its own color scale.
        duration_s: duration of the N columns in seconds.
        rows: what a row is, for the axis.
        signed: for values of both signs: white is zero, blue negative, red positive.
        height: of one heat map, in inches.
    """
    figure, axes = new_figure(0.4 + height * len(features), len(features), sharex=True)
    for ax, (name, values) in zip(axes, features.items(), strict=True):
        matrix = np.asarray(values, dtype=np.float32)
        if matrix.ndim != 2 or 0 in matrix.shape:
            raise ValueError(
                f"{name} has shape {matrix.shape}, expected [rows, frames] with at least one of each"
            )
        low, high = (float(edge) for edge in np.percentile(matrix, (1, 99.7)))
        if signed:
            high = max(abs(low), abs(high))
            low = -high
        image = ax.imshow(
            matrix,
            aspect="auto",
            origin="lower",
            interpolation="nearest",
            cmap="RdBu_r" if signed else "magma",
            vmin=low,
            vmax=max(high, low + 1e-6),
            extent=(0, duration_s, 0, len(matrix)),
        )
        figure.colorbar(image, ax=ax, pad=0.01, fraction=0.03).ax.tick_params(labelsize=8, colors=GREY)
        ax.set_ylabel(rows)
        ax.set_title(f"{name}: {matrix.shape[0]} x {matrix.shape[1]}", loc="left")
    axes[-1].set_xlabel("time (s)")
    return figure


def plot_spectrograms(sounds: Mapping[str, Audio], tracks: Sequence[F0Track] = ()) -> Figure:
    """Stacked spectrograms of several recordings on one time axis.

    Args:
        sounds: name -> recording.
        tracks: an f0 contour for each of them, or none.
    """
    figure, axes = new_figure(0.4 + 2.0 * len(sounds), len(sounds), sharex=True)
    for row, (ax, (name, audio)) in enumerate(zip(axes, sounds.items(), strict=True)):
        draw_spectrogram(ax, audio, log_frequency=True)
        if tracks:
            draw_tracks(ax, [tracks[row]], ())
        ax.set_title(name, loc="left")
    axes[-1].set_xlabel("time (s)")
    return figure
