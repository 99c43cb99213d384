"""Plots of audio: spectrograms with f0, waveforms, cuts, speaker weights. Functions return figures.

A figure displays itself as the last expression of a notebook cell and is saved with `save(figure, path)`.
Colors are the Okabe-Ito set, suitable for color-blind readers, and lines differ in style as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from svcnb import SvcError
from svcnb.audio.audio import Audio
from svcnb.conversion.speaker_mix import Ramp, weights_at
from svcnb.plots.style import BLUE, GREEN, GREY, ORANGE, PINK, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from svcnb.features.pitch.track import F0Track

OVER_SPECTROGRAM = (("#FFFFFF", "-"), ("#F0E442", "--"), ("#56B4E9", ":"))  # bright: magma is dark
WAVE_COLUMNS = 2000
TOP_HZ = 8000.0


# ----------------------------------------------------------------------------------------- spectrograms


def plot_f0_over_spectrogram(
    audio: Audio,
    track: F0Track,
    *,
    other_tracks: Sequence[F0Track] = (),
    labels: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """Spectrogram with logarithmic frequency axis and f0 contours over it.

    Args:
        other_tracks: further contours, e.g. of another f0 estimator; up to three in total stay readable.
        labels: one per contour; if given, a legend is drawn.
    """
    tracks = [track, *other_tracks]
    if labels and len(labels) != len(tracks):
        raise ValueError(f"{len(labels)} labels for {len(tracks)} curves")
    figure, (ax,) = new_figure(3.6)
    draw_spectrogram(ax, audio, log_frequency=True)
    draw_tracks(ax, tracks, labels)
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
    """Spectrograms of source (top) and result on one time axis, each with its f0 contour."""
    figure, axes = new_figure(6.0, 2, sharex=True)
    for row, (ax, audio) in enumerate(zip(axes, (source, result), strict=True)):
        draw_spectrogram(ax, audio, log_frequency=True)
        if tracks is not None:
            draw_tracks(ax, [tracks[row]], ())
            if row:
                draw_tracks(ax, [tracks[1], tracks[0]], (f"f0 of the {labels[1]}", f"of the {labels[0]}"))
        ax.set_title(labels[row], loc="left")
    axes[1].set_xlabel("time (s)")
    return figure


def draw_spectrogram(ax: Axes, audio: Audio, *, log_frequency: bool) -> None:
    """Magnitude in dB relative to the loudest bin, with a range of 80 dB."""
    if audio.n_samples == 0:
        raise SvcError("the recording has no samples: nothing to draw")
    decibels, times_s, bins_hz = _spectrogram(audio)
    top_hz = min(TOP_HZ, audio.sample_rate_hz / 2)
    shown = (bins_hz <= top_hz) & (bins_hz > 0 if log_frequency else True)
    ax.pcolormesh(
        times_s,
        bins_hz[shown],
        decibels[shown],
        cmap="magma",
        vmin=-80,
        vmax=0,
        shading="nearest",
        rasterized=True,
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

    n_fft = 2 ** int(np.ceil(np.log2(audio.sample_rate_hz * 0.05)))  # 50 ms: resolves harmonics of low voices
    hop = max(n_fft // 8, audio.n_samples // 1200)
    padded = np.pad(audio.samples, n_fft // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]  # [N, n_fft]
    magnitude = np.abs(np.fft.rfft(windows * get_window("hann", n_fft).astype(np.float32), axis=1)).T
    floor = max(float(magnitude.max()), 1e-6) * 1e-4
    decibels = 20 * np.log10(np.maximum(magnitude, floor) / max(float(magnitude.max()), 1e-6))
    return (
        decibels,
        np.arange(len(windows)) * hop / audio.sample_rate_hz,
        np.fft.rfftfreq(n_fft, 1 / audio.sample_rate_hz),
    )


def draw_tracks(ax: Axes, tracks: Sequence[F0Track], labels: Sequence[str]) -> None:
    from matplotlib.patheffects import Stroke, withStroke

    for i, track in enumerate(tracks):
        colour, style = OVER_SPECTROGRAM[i % len(OVER_SPECTROGRAM)]
        f0_hz = np.where(np.asarray(track.f0_hz) > 0, track.f0_hz, np.nan)  # unvoiced frames are gaps
        times_s = np.arange(len(f0_hz)) * track.hop_s
        outline = [withStroke(linewidth=3.2, foreground="black")] if style == "-" else [Stroke()]
        ax.plot(
            times_s,
            f0_hz,
            style,
            color=colour,
            linewidth=1.7,
            path_effects=outline,
            label=labels[i] if labels else None,
        )
    if labels:
        ax.legend(
            fontsize=9,
            loc="upper right",
            facecolor="black",
            framealpha=0.6,
            edgecolor="none",
            labelcolor="white",
        )


# -------------------------------------------------------------------------------------- waveforms, cuts


def plot_cuts(audio: Audio, spans_s: Sequence[Sequence[Any]], *, title: str = "") -> Figure:
    """Where a recording was cut: kept clips are tinted and numbered, the rest is white.

    Args:
        spans_s: (start_s, end_s, ...) of each kept clip, as in the `clips` of a cut report's file.
    """
    figure, (ax,) = new_figure(2.3)
    draw_waveform(ax, audio, colour=GREY)
    every = max(1, len(spans_s) // 30)  # more numbers than this would overlap
    for i, (start_s, end_s, *_) in enumerate(spans_s):
        ax.axvspan(start_s, end_s, color=(BLUE, ORANGE)[i % 2], alpha=0.22, linewidth=0)
        if i % every == 0:
            ax.text(
                (start_s + end_s) / 2,
                0.97,
                str(i + 1),
                ha="center",
                va="top",
                size=8,
                color=GREY,
                transform=ax.get_xaxis_transform(),
            )
    kept_s = sum(end_s - start_s for start_s, end_s, *_ in spans_s)
    summary = f"{len(spans_s)} clips, {kept_s:.1f} of {audio.duration_s:.1f} s kept"
    ax.set_title(f"{title}: {summary}" if title else summary, loc="left")
    ax.set_xlabel("time (s)")
    return figure


def draw_waveform(ax: Axes, audio: Audio, *, colour: str = BLUE) -> None:
    """Lowest and highest sample per column, so that an hour is drawn as fast as a second."""
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
    """Stacked weights of the speakers over time, 100 % in total.

    Args:
        timeline: of `read_mix`, up to eight speakers.
        duration_s: length of the song.
    """
    figure, (ax,) = new_figure(2.6)
    positions = np.linspace(0, 1, WAVE_COLUMNS)
    percents = 100 * weights_at(timeline, positions)  # [N, S]
    colours, hatches = (BLUE, ORANGE, GREEN, PINK), ("", "//")
    low = np.zeros(len(positions))
    for i, (name, percent) in enumerate(zip(timeline, percents.T, strict=True)):
        look = {"color": colours[i % len(colours)], "hatch": hatches[i // len(colours) % 2], "alpha": 0.75}
        ax.fill_between(positions * duration_s, low, low + percent, label=name, linewidth=0, **look)
        low = low + percent
    ax.legend(
        fontsize=9,
        frameon=False,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(timeline),
        labelcolor=GREY,
    )
    ax.set(xlim=(0, max(duration_s, 1e-3)), ylim=(0, 100), xlabel="time (s)", ylabel="speaker weight (%)")
    ax.set_title(title, loc="left")
    return figure


def plot_clip_lengths(seconds_by_speaker: Mapping[str, Sequence[float]]) -> Figure:
    """Histogram of the lengths of the training clips, one row per speaker.

    Args:
        seconds_by_speaker: speaker name -> length of each clip in seconds.
    """
    if not any(len(lengths) for lengths in seconds_by_speaker.values()):
        raise SvcError("no clips to draw: cut recordings first")
    n_rows = len(seconds_by_speaker)
    longest = max(max(lengths, default=0) for lengths in seconds_by_speaker.values())
    bins = np.arange(0, np.ceil(longest) + 0.51, 0.5)
    figure, axes = new_figure(0.9 + 1.3 * n_rows, n_rows, sharex=True)
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
