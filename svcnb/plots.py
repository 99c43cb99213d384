"""Pictures of every step. Each function returns a figure; nothing is shown, no global state is touched.

A figure displays itself as the last expression of a notebook cell and is saved with `save(figure, path)`.
Colours are the Okabe-Ito set, which colour-blind readers can tell apart, and lines differ in style as well.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from svcnb import SvcError
from svcnb.audio import Audio
from svcnb.disk import atomic_path
from svcnb.speaker_mix import Ramp, weights_at

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from svcnb.pitch import F0Track

WIDTH_INCHES = 9.0
DPI = 110
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
GREY, LIGHT = "#555555", "#D9D9D9"
OVER_SPECTROGRAM = (("#FFFFFF", "-"), ("#F0E442", "--"), ("#56B4E9", ":"))  # bright: they lie on dark magma
WAVE_COLUMNS = 2000
TOP_HZ = 8000.0


def save(figure: Figure, path: Path | str, *, dpi: int = 150) -> Path:
    """Write a figure as png, svg or pdf (by suffix): temporary name first."""
    path = Path(path)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip(".") or "png", dpi=dpi)
    return path


def png_bytes(figure: Figure, *, dpi: int = DPI) -> bytes:
    """A figure as PNG in memory, for web pages."""
    memory = io.BytesIO()
    figure.savefig(memory, format="png", dpi=dpi)
    return memory.getvalue()


def _figure(height_inches: float, n_rows: int = 1, **grid: Any) -> tuple[Figure, list[Axes]]:
    """A figure of notebook width with stacked axes, in the quiet style all pictures share."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Picture(Figure):
        """A figure that notebooks display although no pyplot is involved."""

        def _repr_png_(self) -> bytes:
            return png_bytes(self)

    figure = Picture(figsize=(WIDTH_INCHES, height_inches), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(np.atleast_1d(figure.subplots(n_rows, 1, **grid)))
    for ax in axes:
        _quiet(ax)
    return figure, axes


def _quiet(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.tick_params(colors=GREY, labelsize=9)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set(color=GREY, size=10)
    ax.title.set(size=11)
    ax.set_title("", loc="left", fontsize=11)


# ----------------------------------------------------------------------------------------- spectrograms


def plot_f0_over_spectrogram(
    audio: Audio,
    track: F0Track,
    *,
    other_tracks: Sequence[F0Track] = (),
    labels: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """The melody where the harmonics are: spectrogram (logarithmic in frequency) with f0 curves on it.

    Args:
        other_tracks: further curves, such as another method's; three in all stay readable.
        labels: one per curve; a legend is drawn when given.
    """
    tracks = [track, *other_tracks]
    if labels and len(labels) != len(tracks):
        raise ValueError(f"{len(labels)} labels for {len(tracks)} curves")
    figure, (ax,) = _figure(3.6)
    _draw_spectrogram(ax, audio, log_frequency=True)
    _draw_tracks(ax, tracks, labels)
    ax.set_xlabel("time (s)")
    ax.set_title(title, loc="left")
    return figure


def plot_comparison(
    source: Audio,
    result: Audio,
    tracks: tuple[F0Track, F0Track] | None = None,
    *,
    labels: tuple[str, str] = ("source", "result"),
) -> Figure:
    """Source above result on one time axis, each with its melody: same words, same timing, other voice."""
    figure, axes = _figure(6.0, 2, sharex=True)
    for row, (ax, audio) in enumerate(zip(axes, (source, result), strict=True)):
        _draw_spectrogram(ax, audio, log_frequency=True)
        if tracks is not None:
            _draw_tracks(ax, [tracks[row]], ())
            if row:
                _draw_tracks(ax, [tracks[1], tracks[0]], (f"melody of the {labels[1]}", f"of the {labels[0]}"))
        ax.set_title(labels[row], loc="left")
    axes[1].set_xlabel("time (s)")
    return figure


def _draw_spectrogram(ax: Axes, audio: Audio, *, log_frequency: bool) -> None:
    """Magnitude in dB below the loudest bin, 80 dB of range."""
    if audio.n_samples == 0:
        raise SvcError("the recording has no samples: nothing to draw")
    decibels, times_s, bins_hz = _spectrogram(audio)
    top_hz = min(TOP_HZ, audio.sample_rate_hz / 2)
    shown = (bins_hz <= top_hz) & (bins_hz > 0 if log_frequency else True)
    ax.pcolormesh(
        times_s, bins_hz[shown], decibels[shown], cmap="magma", vmin=-80, vmax=0, shading="nearest", rasterized=True
    )
    ax.set_ylabel("frequency (Hz)")
    ax.set_xlim(0, max(audio.duration_s, 1e-3))
    if log_frequency:
        _frequency_scale(ax, top_hz)


def _frequency_scale(ax: Axes, top_hz: float) -> None:
    ax.set_yscale("log", base=2)
    ax.set_ylim(60, top_hz)
    ticks = [hz for hz in (100, 200, 400, 800, 1600, 3200, 6400) if hz < top_hz]
    ax.set_yticks(ticks, [str(hz) for hz in ticks])
    ax.minorticks_off()


def _spectrogram(audio: Audio) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dB [F, N], frame times in s, bin frequencies in Hz; at most about 1200 frames, however long the recording."""
    from scipy.signal import get_window

    n_fft = 2 ** int(np.ceil(np.log2(audio.sample_rate_hz * 0.05)))  # 50 ms: harmonics of low voices stay apart
    hop = max(n_fft // 8, audio.n_samples // 1200)
    padded = np.pad(audio.samples, n_fft // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]  # [N, n_fft]
    magnitude = np.abs(np.fft.rfft(windows * get_window("hann", n_fft).astype(np.float32), axis=1)).T
    floor = max(float(magnitude.max()), 1e-6) * 1e-4
    decibels = 20 * np.log10(np.maximum(magnitude, floor) / max(float(magnitude.max()), 1e-6))
    return decibels, np.arange(len(windows)) * hop / audio.sample_rate_hz, np.fft.rfftfreq(n_fft, 1 / audio.sample_rate_hz)


def _draw_tracks(ax: Axes, tracks: Sequence[F0Track], labels: Sequence[str]) -> None:
    from matplotlib.patheffects import Stroke, withStroke

    for i, track in enumerate(tracks):
        colour, style = OVER_SPECTROGRAM[i % len(OVER_SPECTROGRAM)]
        f0_hz = np.where(np.asarray(track.f0_hz) > 0, track.f0_hz, np.nan)  # gaps stay gaps
        times_s = np.arange(len(f0_hz)) * track.hop_s
        outline = [withStroke(linewidth=3.2, foreground="black")] if style == "-" else [Stroke()]
        ax.plot(
            times_s, f0_hz, style, color=colour, linewidth=1.7, path_effects=outline, label=labels[i] if labels else None
        )
    if labels:
        ax.legend(
            fontsize=9, loc="upper right", facecolor="black", framealpha=0.6, edgecolor="none", labelcolor="white"
        )


# -------------------------------------------------------------------------------------- waveforms, cuts


def plot_waveform(audio: Audio, *, title: str = "") -> Figure:
    """The recording's outline over time, -1 to 1."""
    figure, (ax,) = _figure(2.0)
    _draw_waveform(ax, audio)
    ax.set_xlabel("time (s)")
    ax.set_title(title, loc="left")
    return figure


def plot_cuts(audio: Audio, spans_s: Sequence[Sequence[Any]], *, title: str = "") -> Figure:
    """Where a recording was cut: kept pieces tinted and numbered, what is left out stays white.

    Args:
        spans_s: (start_s, end_s, ...) of each kept piece, as in the `clips` of a cut report's file.
    """
    figure, (ax,) = _figure(2.3)
    _draw_waveform(ax, audio, colour=GREY)
    every = max(1, len(spans_s) // 30)  # more numbers than this would overlap
    for i, (start_s, end_s, *_) in enumerate(spans_s):
        ax.axvspan(start_s, end_s, color=(BLUE, ORANGE)[i % 2], alpha=0.22, linewidth=0)
        if i % every == 0:
            ax.text((start_s + end_s) / 2, 0.97, str(i + 1), ha="center", va="top", size=8, color=GREY,
                    transform=ax.get_xaxis_transform())  # fmt: skip
    kept_s = sum(end_s - start_s for start_s, end_s, *_ in spans_s)
    summary = f"{len(spans_s)} pieces, {kept_s:.1f} of {audio.duration_s:.1f} s kept"
    ax.set_title(f"{title}: {summary}" if title else summary, loc="left")
    ax.set_xlabel("time (s)")
    return figure


def _draw_waveform(ax: Axes, audio: Audio, *, colour: str = BLUE) -> None:
    """Lowest and highest sample per column, so that an hour draws as fast as a second."""
    n_columns = min(WAVE_COLUMNS, max(1, audio.n_samples))
    edges = np.linspace(0, audio.n_samples, n_columns, endpoint=False).astype(int)
    if audio.n_samples:
        low, high = (extreme.reduceat(audio.samples, edges) for extreme in (np.minimum, np.maximum))
        ax.fill_between(edges / audio.sample_rate_hz, low, high, color=colour, linewidth=0.4, step="mid")
    limit = 1.05 if audio.peak > 0.5 else max(0.05, 1.3 * audio.peak)  # quiet recordings stay visible
    ax.set_ylim(-limit, limit)
    ax.set_xlim(0, max(audio.duration_s, 1e-3))
    ax.set_ylabel("amplitude")


def plot_speaker_mix(timeline: Mapping[str, Sequence[Ramp]], duration_s: float, *, title: str = "") -> Figure:
    """Who is heard when: the speakers' shares of every moment, one upon the other, 100 % in all.

    Args:
        timeline: of `read_mix`, up to eight speakers.
        duration_s: length of the song.
    """
    figure, (ax,) = _figure(2.6)
    positions = np.linspace(0, 1, WAVE_COLUMNS)
    shares = 100 * weights_at(timeline, positions)  # [N, S]
    colours, hatches = (BLUE, ORANGE, GREEN, PINK), ("", "//")
    low = np.zeros(len(positions))
    for i, (name, share) in enumerate(zip(timeline, shares.T, strict=True)):
        look = {"color": colours[i % len(colours)], "hatch": hatches[i // len(colours) % 2], "alpha": 0.75}
        ax.fill_between(positions * duration_s, low, low + share, label=name, linewidth=0, **look)
        low = low + share
    ax.legend(fontsize=9, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(timeline), labelcolor=GREY)
    ax.set(xlim=(0, max(duration_s, 1e-3)), ylim=(0, 100), xlabel="time (s)", ylabel="share of the voice (%)")
    ax.set_title(title, loc="left")
    return figure


def plot_clip_lengths(seconds_by_speaker: Mapping[str, Sequence[float]]) -> Figure:
    """How long the training clips are, one row per speaker.

    Args:
        seconds_by_speaker: speaker name -> length of each clip in seconds.
    """
    if not any(len(lengths) for lengths in seconds_by_speaker.values()):
        raise SvcError("no clips to draw: cut recordings first")
    n_rows = len(seconds_by_speaker)
    longest = max(max(lengths, default=0) for lengths in seconds_by_speaker.values())
    bins = np.arange(0, np.ceil(longest) + 0.51, 0.5)
    figure, axes = _figure(0.9 + 1.3 * n_rows, n_rows, sharex=True)
    for ax, (speaker, lengths), colour in zip(
        axes, seconds_by_speaker.items(), (BLUE, ORANGE, GREEN, PINK) * n_rows, strict=False
    ):
        ax.hist(lengths, bins, color=colour, rwidth=0.9)
        ax.set_title(f"{speaker}: {len(lengths)} clips, {sum(lengths) / 60:.1f} minutes", loc="left")
        ax.set_ylabel("clips")
        ax.yaxis.get_major_locator().set_params(integer=True)
    axes[-1].set_xlabel("length (s)")
    axes[-1].set_xlim(0, None)
    return figure


# --------------------------------------------------------------------------------------------- training


def plot_losses(history_path: Path | str, *, smooth_steps: int = 15) -> Figure:
    """The losses of a training over its steps: thin as logged, thick smoothed, one small picture per loss.

    Where clips are held out, a wide picture above shows the distance to them, which alone tells progress from
    learning by heart, with the best checkpoint marked.

    Args:
        history_path: history.jsonl of a training; lines without losses are fine.
        smooth_steps: logged values that the thick line averages over.
    """
    steps, values = read_history(history_path)
    names = sorted(values, key=lambda name: (name != "total", name))
    held_out = read_held_out(history_path)
    n_columns = min(3, len(names))
    n_rows = -(-len(names) // n_columns)
    figure, (placeholder,) = _figure(0.5 + 1.9 * n_rows + (2.4 if held_out else 0))
    placeholder.remove()
    grid = figure.add_gridspec(n_rows + bool(held_out), n_columns, height_ratios=[1.3] * bool(held_out) + [1] * n_rows)
    if held_out:
        ax = figure.add_subplot(grid[0, :])
        _quiet(ax)
        heard = "prior_mel" if "prior_mel" in steps else "mel"  # decoded like the held-out clips, where there is such
        _draw_held_out(ax, held_out, training=(steps.get(heard, []), values.get(heard, [])), smooth_steps=smooth_steps)
    for i, name in enumerate(names):
        ax = figure.add_subplot(grid[i // n_columns + bool(held_out), i % n_columns])
        _quiet(ax)
        _draw_loss(ax, np.asarray(steps[name]), np.asarray(values[name]), smooth_steps)
        ax.set_title(name, loc="left")
        if i >= len(names) - n_columns:
            ax.set_xlabel("step")
    return figure


def _draw_loss(ax: Axes, x: np.ndarray, y: np.ndarray, smooth_steps: int) -> None:
    if len(y) > 2:
        ax.plot(x, y, color=LIGHT, linewidth=1)
        ax.plot(x, _smooth(y, smooth_steps), color=BLUE, linewidth=1.8)
    else:
        ax.plot(x, y, color=BLUE, linewidth=1, marker="o")
    ax.margins(x=0.02)
    ax.xaxis.get_major_locator().set_params(nbins=4, integer=True)


def _draw_held_out(
    ax: Axes, held_out: list[tuple[int, float, bool]], *, training: tuple[list[int], list[float]], smooth_steps: int
) -> None:
    """The held-out distance with the best checkpoint, and the training loss that it compares with."""
    x, y = (np.asarray(column) for column in zip(*((step, value) for step, value, _ in held_out), strict=True))
    if len(training[1]) > 2:
        smoothed = _smooth(np.asarray(training[1]), smooth_steps)
        ax.plot(training[0], smoothed, color=BLUE, linewidth=1.8, label="clips it trains on")
    ax.plot(x, y, "--", marker="o", markersize=4, color=ORANGE, linewidth=1.6, label="held-out clips")
    saved = [(value, step) for step, value, is_saved in held_out if is_saved]
    if saved:
        value, step = min(saved)
        ax.plot(step, value, marker="*", markersize=15, color=GREEN, linestyle="none", label=f"best checkpoint: step {step}")
    ends = [y[-1], *training[1][-1:]]
    top = max(float(np.quantile(y, 0.9)), *ends)  # the first values tower above all that follows
    ax.set_ylim(min(y.min(), *ends) * 0.95, top * 1.15)
    ax.set_title("distance of mel spectra", loc="left")
    ax.set_xlabel("step")
    ax.legend(fontsize=9, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, labelcolor=GREY)
    ax.margins(x=0.02)
    ax.xaxis.get_major_locator().set_params(integer=True)


def read_history(path: Path | str) -> tuple[dict[str, list[int]], dict[str, list[float]]]:
    """Steps and values of each named loss in a history.jsonl.

    Raises:
        SvcError: no such file, or no loss in it yet.
    """
    steps: dict[str, list[int]] = {}
    values: dict[str, list[float]] = {}
    for entry in _read_lines(Path(path)):
        for name, value in (entry.get("losses") or {}).items():
            if isinstance(value, (int, float)):
                steps.setdefault(name, []).append(int(entry["step"]))
                values.setdefault(name, []).append(float(value))
    if not values:
        raise SvcError(f"{path} has no losses yet: train some more steps")
    return steps, values


def read_held_out(path: Path | str, measure: str = "mel") -> list[tuple[int, float, bool]]:
    """(step, held-out value, whether a checkpoint was saved then) in order; empty where nothing is held out."""
    found: dict[int, tuple[float, bool]] = {}
    for entry in _read_lines(Path(path)):
        if measure in (entry.get("validation") or {}):
            found[int(entry["step"])] = (float(entry["validation"][measure]), bool(entry.get("saved", True)))
    return [(step, *found[step]) for step in sorted(found)]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise SvcError(f"no history at {path}: train first, it is written while training")
    return [_parse_line(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _parse_line(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:  # a training that was killed while writing leaves half a line
        return {}
    return entry if isinstance(entry, dict) and "step" in entry else {}


def _smooth(values: np.ndarray, n: int) -> np.ndarray:
    """Moving average that shrinks towards the ends, same length."""
    n = max(1, min(n, len(values) // 2 * 2 - 1))
    weights = np.ones(n)
    return np.convolve(values, weights, "same") / np.convolve(np.ones(len(values)), weights, "same")
