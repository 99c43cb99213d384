"""Plots of an evaluation, in the style of `svcnb.plots`; each function returns a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from svcnb import SvcError
from svcnb.audio.audio import Audio
from svcnb.evaluation.mel_cepstral import distance_over_time
from svcnb.evaluation.metrics import compare_pitch
from svcnb.evaluation.results import CopyResult, SourceResult, VoiceEvaluation, mean
from svcnb.plots.audio import draw_waveform
from svcnb.plots.style import BLUE, GREEN, GREY, LIGHT, ORANGE, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from svcnb.features.pitch.track import F0Track

MOST_ROWS = 24
ROW_INCHES = 0.3
SMOOTH_FRAMES = 9
WANTED = "#F0B088"  # a light orange: the thin blue line stays visible on it
# metric, unit, range of the x axis, typical range of good voices
STRIPS = (
    ("relative similarity", "%", (-20, 120), (80, 120)),
    ("f0 correlation", "", (0.5, 1.0), (0.95, 1.0)),
    ("f0 error", "cents", (0, 100), (0, 30)),
    ("voicing differs", "% of the time", (0, 25), (0, 6)),
    ("distance of copy synthesis", "dB", (0, 10), (0, 4)),
    ("distance of own conversions", "dB", (0, 10), (0, 5)),
    ("rise of word error rate", "%", (-20, 100), (-20, 10)),
)


def plot_similarity(evaluation: VoiceEvaluation) -> Figure:
    """Speaker similarity to the target before and after conversion, and of the target's own recordings.

    If there are many sources, the means of each folder are drawn.
    """
    sources = [(f"{s.group}/{s.name}", s.similarity_source, s.similarity_result) for s in evaluation.sources]
    if len(sources) > MOST_ROWS:
        sources = [
            (group, mean(s.similarity_source for s in members), mean(s.similarity_result for s in members))
            for group, members in evaluation.groups().items()
        ]
    if not sources and not evaluation.copies:
        raise SvcError("nothing was measured: there is no similarity to draw")
    copies = list(evaluation.copies)
    figure, (ax,) = new_figure(1.5 + ROW_INCHES * (len(sources) + len(copies)))
    _draw_ceiling(ax, evaluation)
    for row, (_, before, after) in enumerate(sources):
        ax.annotate(
            "", (after, row), (before, row), arrowprops={"arrowstyle": "-|>", "color": BLUE, "linewidth": 1.8}
        )
        ax.plot(before, row, "o", color=GREY, markersize=6, label="source" if row == 0 else None)
        ax.plot(after, row, "o", color=BLUE, markersize=7, label="result" if row == 0 else None)
    for row, copy in enumerate(copies, start=len(sources)):
        _draw_own(ax, row, copy, with_label=row == len(sources))
    names = [name for name, *_ in sources] + [f"own: {copy.name}" for copy in copies]
    ax.set_yticks(range(len(names)), [_short(name) for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="x", color=LIGHT, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.set_xlabel("similarity to the target's recordings (1 = the same voice)")
    ax.legend(
        fontsize=9,
        ncols=6,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        frameon=False,
        handletextpad=0.3,
        columnspacing=1.2,
    )
    return figure


def _draw_ceiling(ax: Axes, evaluation: VoiceEvaluation) -> None:
    own = evaluation.target.similarities
    if own:
        ax.axvspan(min(own), max(own), color=GREEN, alpha=0.16, linewidth=0, label="target's own range")
        ax.axvline(evaluation.target.ceiling, color=GREEN, linewidth=1.4)


def _draw_own(ax: Axes, row: int, copy: CopyResult, *, with_label: bool) -> None:
    points = [
        ("recording", copy.similarity, "o", GREEN),
        ("conversion", copy.conversion.similarity, "s", BLUE),
    ]
    if copy.copy:
        points.insert(1, ("copy synthesis", copy.copy.similarity, "D", ORANGE))
    values = [value for _, value, *_ in points if not np.isnan(value)]
    ax.plot([min(values), max(values)], [row, row], color=LIGHT, linewidth=2, zorder=1)
    for name, value, marker, colour in points:
        label = f"own {name}" if with_label else None
        ax.plot(
            value, row, marker, color=colour, markersize=6, fillstyle="none", markeredgewidth=1.8, label=label
        )


def _short(name: str, most: int = 30) -> str:
    return name if len(name) <= most else f"{name[: most // 2 - 1]}...{name[2 - most // 2 :]}"


def plot_f0_pairs(wanted: F0Track, result: F0Track, *, title: str = "") -> Figure:
    """f0 of the result against the f0 asked for: both over time, and as a scatter plot (diagonal: in tune).

    Args:
        wanted: the source's f0, transposed as in the conversion.
        result: the result's f0.
    """
    compared = compare_pitch(wanted, result)
    figure, (placeholder,) = new_figure(3.4)
    placeholder.remove()
    curves, cloud = figure.subplots(1, 2, gridspec_kw={"width_ratios": [2.2, 1]})
    for ax in (curves, cloud):
        style_axes(ax)
    for track, colour, width, label in ((wanted, WANTED, 5, "wanted"), (result, BLUE, 1.5, "result")):
        f0_hz = np.where(track.voiced, track.f0_hz, np.nan)  # unvoiced frames are gaps
        curves.plot(track.times_s, f0_hz, color=colour, linewidth=width, label=label, solid_capstyle="round")
    both = _voiced_in_both(wanted, result)
    cloud.plot(*both, ".", color=BLUE, markersize=3, alpha=0.4)
    if both.size:
        ends = np.array([both.min() * 0.95, both.max() * 1.05])
        cloud.plot(ends, ends, color=GREY, linewidth=1)
        cloud.fill_between(
            ends, ends * 2 ** (-1 / 24), ends * 2 ** (1 / 24), color=GREEN, alpha=0.16, linewidth=0
        )
        cloud.set(xlim=ends, ylim=ends)
    _f0_scale(curves, [curves.yaxis])
    _f0_scale(cloud, [cloud.xaxis, cloud.yaxis])
    low_hz, high_hz = curves.get_ylim()
    curves.set(xlabel="time (s)", ylabel="f0 (Hz)", ylim=(low_hz, high_hz * 1.15))  # room for the legend
    cloud.set(xlabel="wanted (Hz)", ylabel="result (Hz)")
    cloud.set_title("green: at most a quarter tone off", loc="left", fontsize=9)
    metrics = f"correlation {compared.correlation:.3f}, median error {compared.median_error_cents:.0f} cents"
    curves.set_title(f"{title}: {metrics}" if title else metrics, loc="left")
    curves.legend(fontsize=9, frameon=False, loc="upper right", ncols=2)
    return figure


def _voiced_in_both(wanted: F0Track, result: F0Track) -> np.ndarray:
    """f0 in Hz [2, n] of the frames voiced in both tracks."""
    first = np.asarray(wanted.f0_hz)
    second = np.interp(wanted.times_s, result.times_s, result.f0_hz)
    nearest = np.clip(np.rint(wanted.times_s / result.hop_s).astype(int), 0, max(0, result.n_frames - 1))
    both = wanted.voiced & result.voiced[nearest]
    return np.stack([first[both], second[both]])


def _f0_scale(ax: Axes, scaled: Sequence[object]) -> None:
    """Logarithmic frequency axis with a few plain numbers as ticks."""
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    hertz = (60, 80, 100, 150, 200, 300, 400, 600, 800, 1000)
    for axis in scaled:
        (ax.set_xscale if axis is ax.xaxis else ax.set_yscale)("log", base=2)
        axis.set_major_locator(FixedLocator(hertz))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(ScalarFormatter())


def plot_distance(recording: Audio, remade: Sequence[tuple[str, Audio]]) -> Figure:
    """Waveform of a recording, and the mel-cepstral distance of its reconstructions over time.

    Args:
        remade: name and audio of each reconstruction, as long as the recording: copy synthesis, conversion.
    """
    figure, (wave, ax) = new_figure(4.0, 2, sharex=True, gridspec_kw={"height_ratios": [1, 2]})
    draw_waveform(wave, recording, colour=GREY)
    for (name, audio), colour, style in zip(remade, (ORANGE, BLUE, GREEN), ("-", "--", ":"), strict=False):
        times_s, distance_db = distance_over_time(recording, audio)
        label = f"{name}: {np.nanmean(distance_db):.1f} dB"
        ax.plot(times_s, _smooth_gaps(distance_db), style, color=colour, linewidth=1.6, label=label)
    ax.set_ylim(0, 1.2 * ax.get_ylim()[1])  # room for the legend
    ax.grid(axis="y", color=LIGHT, linewidth=0.6)
    ax.set(xlabel="time (s)", ylabel="distance (dB)")
    ax.legend(fontsize=9, frameon=False, ncols=3, loc="upper right")
    wave.set_title("the recording, and the distance of its reconstructions", loc="left")
    return figure


def _smooth_gaps(values: np.ndarray) -> np.ndarray:
    """Moving average over the frames that are not NaN; NaN stays NaN."""
    present = ~np.isnan(values)
    window = np.ones(SMOOTH_FRAMES)
    total = np.convolve(np.where(present, values, 0), window, "same")
    count = np.convolve(present, window, "same")
    return np.where(present, total / np.maximum(count, 1), np.nan)


def plot_overview(evaluation: VoiceEvaluation) -> Figure:
    """One strip per metric: a point per recording, the mean as a line, the range of good voices in green."""
    strips = [
        (strip, values)
        for strip, values in zip(STRIPS, _strip_values(evaluation), strict=True)
        if len(values)
    ]
    if not strips:
        raise SvcError("nothing was measured: there are no metrics to draw")
    figure, axes = new_figure(0.3 + 0.78 * len(strips), len(strips))
    for ax, ((name, unit, (low, high), usual), values) in zip(axes, strips, strict=True):
        ax.axvspan(*usual, color=GREEN, alpha=0.16, linewidth=0)
        inside = np.clip(values, low, high)
        heights = np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else np.zeros(1)
        ax.plot(inside, heights, "o", color=BLUE, markersize=5, alpha=0.65, clip_on=False, zorder=3)
        ax.plot(
            [np.clip(np.mean(values), low, high)] * 2, [-0.5, 0.5], color=ORANGE, linewidth=2.4, clip_on=False
        )
        ax.set(xlim=(low, high), ylim=(-0.6, 0.6), yticks=[])
        ax.spines["left"].set_visible(False)
        digits = 3 if high <= 1 else 1 if unit == "dB" else 0
        ax.set_title(f"{name}: {np.mean(values):.{digits}f} {unit}".rstrip(), loc="left", fontsize=10)
    axes[0].set_title("green: good voices, orange: the mean", loc="right", fontsize=9, color=GREY)
    return figure


def _strip_values(evaluation: VoiceEvaluation) -> list[np.ndarray]:
    """One array per strip of STRIPS, without undefined values."""
    sources, ceiling = evaluation.sources, evaluation.target.ceiling
    copies = [copy.copy for copy in evaluation.copies if copy.copy]
    columns = [
        [100 * s.relative_similarity(ceiling) for s in sources],
        [s.pitch.correlation for s in sources],
        [s.pitch.median_error_cents for s in sources],
        [100 * s.pitch.voicing_error_ratio for s in sources],
        [reconstruction.distance.mean_db for reconstruction in copies],
        [copy.conversion.distance.mean_db for copy in evaluation.copies],
        [_word_error_rise(s) for s in sources],
    ]
    return [values[~np.isnan(values)] for values in map(np.array, columns)]


def _word_error_rise(source: SourceResult) -> float:
    """Word error rate of the result minus the source's, in percent."""
    if source.words_source is None or source.words_result is None:
        return float("nan")
    return 100 * (source.words_result.rate - source.words_source.rate)
