"""Plots are drawn, labelled, displayable and independent of any global plotting state."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from svcnb import SvcError
from svcnb.audio.audio import Audio
from svcnb.features.pitch.track import F0Track
from svcnb.plots import audio as plots
from svcnb.plots.style import png_bytes, save
from svcnb.plots.training import plot_losses
from svcnb.training.history import read_held_out, read_history

RATE_HZ = 16000


@pytest.fixture(scope="module")
def voice() -> Audio:
    time_s = np.arange(2 * RATE_HZ) / RATE_HZ
    return Audio(sum(np.sin(2 * np.pi * 150 * k * time_s) / k for k in range(1, 9)) * 0.2, RATE_HZ)


@pytest.fixture(scope="module")
def track() -> F0Track:
    return F0Track(np.r_[np.full(60, 150.0), np.zeros(20), np.full(92, 150.0)], 512 / 44100)


@pytest.fixture
def history(tmp_path: Path) -> Path:
    lines = [
        {"step": 10 * i, "losses": {"total": 40 / (i + 1), "mel": 1.0 + i}, "lr": 1e-4} for i in range(30)
    ]
    text = "\n".join(map(json.dumps, [*lines, {"step": 300, "validation": {"mel": 2.0}}]))
    path = tmp_path / "history.jsonl"
    path.write_text(text + '\n{"step": 310, "los', encoding="utf-8")
    return path


def figures(voice: Audio, track: F0Track, history: Path) -> dict[str, Figure]:
    return {
        "f0": plots.plot_f0_over_spectrogram(
            voice, track, other_tracks=[track.transposed(12)], labels=["dio", "pm"]
        ),
        "comparison": plots.plot_comparison(voice, voice, (track, track)),
        "comparison without f0": plots.plot_comparison(voice, voice),
        "cuts": plots.plot_cuts(voice, [(0.0, 0.8), (1.0, 1.9)], title="ada_01.flac"),
        "lengths": plots.plot_clip_lengths({"ada": [1.0, 2.5, 7.0], "bruno": [3.0]}),
        "losses": plot_losses(history),
    }


def test_figures_are_not_blank_and_every_axis_is_labelled(
    voice: Audio, track: F0Track, history: Path
) -> None:
    for name, figure in figures(voice, track, history).items():
        pixels = imread(io.BytesIO(figure._repr_png_()), format="png")
        assert 800 <= pixels.shape[1] <= 1100, f"{name}: not of notebook width"
        assert pixels[..., :3].std() > 0.05, f"{name}: blank"
        for ax in figure.axes:
            assert ax.get_xlabel() or ax.get_title(loc="left"), name
        assert any(ax.get_xlabel() for ax in figure.axes), f"{name}: no x label"


def test_labels_name_units_and_legends_name_curves(voice: Audio, track: F0Track) -> None:
    figure = plots.plot_f0_over_spectrogram(voice, track, other_tracks=[track], labels=["dio", "pm"])
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time (s)", "frequency (Hz)")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["dio", "pm"]
    with pytest.raises(ValueError, match="1 labels for 2 curves"):
        plots.plot_f0_over_spectrogram(voice, track, other_tracks=[track], labels=["dio"])


def test_unvoiced_frames_are_gaps_in_the_contour(voice: Audio, track: F0Track) -> None:
    (ax,) = plots.plot_f0_over_spectrogram(voice, track).axes
    assert np.isnan(ax.lines[0].get_ydata()).sum() == 20


def test_the_spectrogram_shows_a_tone_at_its_frequency(voice: Audio) -> None:
    decibels, times_s, bins_hz = plots._spectrogram(voice)
    middle = decibels[:, decibels.shape[1] // 2]
    assert bins_hz[middle.argmax()] == pytest.approx(150, abs=RATE_HZ / 1024)
    assert decibels.max() == 0 and decibels.min() >= -80.001
    assert times_s[-1] == pytest.approx(voice.duration_s, abs=0.05)


def test_cuts_show_how_much_is_kept(voice: Audio) -> None:
    (ax,) = plots.plot_cuts(voice, [(0.0, 0.8), (1.0, 1.9)]).axes
    assert ax.get_title(loc="left") == "2 clips, 1.7 of 2.0 s kept"


def test_an_hour_is_drawn_as_columns_not_as_samples() -> None:
    long = Audio(np.zeros(3600 * 1000, np.float32), 1000)
    (ax,) = plots.plot_cuts(long, []).axes
    assert len(ax.collections[0].get_paths()[0].vertices) < 20000


def test_losses_skip_incomplete_lines_and_other_entries(history: Path) -> None:
    steps, values = read_history(history)
    assert set(values) == {"total", "mel"} and steps["mel"][-1] == 290
    names = [ax.get_title(loc="left") for ax in plot_losses(history).axes]
    assert names == ["distance of mel spectra", "total", "mel"]


def test_the_best_of_the_saved_checkpoints_is_marked_on_the_held_out_curve(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    values = {100: (1.0, True), 200: (0.6, True), 300: (0.5, False), 400: (0.7, True)}
    lines = [
        {"step": step, "validation": {"mel": value}, "saved": saved}
        for step, (value, saved) in values.items()
    ]
    lines += [{"step": step, "losses": {"mel": 1.0}} for step in (100, 200, 300)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert read_held_out(path) == [(step, *values[step]) for step in values]
    ax = plot_losses(path).axes[0]
    (star,) = [line for line in ax.lines if line.get_marker() == "*"]
    assert (list(star.get_xdata()), list(star.get_ydata())) == ([200], [0.6])
    assert "best checkpoint: step 200" in [text.get_text() for text in ax.get_legend().get_texts()]
    assert ax.get_ylim()[0] < 0.5 and ax.get_ylim()[1] > 1.0


def test_one_logged_loss_is_drawn_too(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 1, "losses": {"mel": 2.0}}\n', encoding="utf-8")
    assert plot_losses(path).axes


def test_nothing_to_draw_is_an_error_with_a_remedy(tmp_path: Path, track: F0Track) -> None:
    with pytest.raises(SvcError, match="train first"):
        plot_losses(tmp_path / "history.jsonl")
    (tmp_path / "history.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(SvcError, match="no losses yet"):
        plot_losses(tmp_path / "history.jsonl")
    with pytest.raises(SvcError, match="cut recordings first"):
        plots.plot_clip_lengths({})
    with pytest.raises(SvcError, match="no samples"):
        plots.plot_f0_over_spectrogram(Audio(np.zeros(0, np.float32), RATE_HZ), track)


def test_silence_and_very_short_recordings_are_drawn(track: F0Track) -> None:
    png_bytes(plots.plot_f0_over_spectrogram(Audio(np.zeros(RATE_HZ, np.float32), RATE_HZ), track))
    png_bytes(plots.plot_f0_over_spectrogram(Audio(np.ones(3, np.float32), RATE_HZ), track))
    png_bytes(plots.plot_cuts(Audio(np.zeros(0, np.float32), RATE_HZ), []))


def test_no_pyplot_is_loaded_and_files_are_saved(voice: Audio, tmp_path: Path) -> None:
    had_pyplot = "matplotlib.pyplot" in sys.modules
    path = save(plots.plot_cuts(voice, []), tmp_path / "new" / "wave.svg")
    assert path.read_text(encoding="utf-8").startswith("<?xml")
    assert sorted(p.name for p in path.parent.iterdir()) == ["wave.svg"]
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot
