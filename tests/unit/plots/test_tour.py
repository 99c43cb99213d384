"""Plots of the tour: labelled, displayable, and they show their input values."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from svcnb.audio.audio import Audio
from svcnb.features.pitch.track import F0Track
from svcnb.plots import tour as tour_plots

RATE_HZ = 16000


@pytest.fixture(scope="module")
def voice() -> Audio:
    time_s = np.arange(2 * RATE_HZ) / RATE_HZ
    return Audio(sum(np.sin(2 * np.pi * 150 * k * time_s) / k for k in range(1, 9)) * 0.2, RATE_HZ)


def figures(voice: Audio) -> dict[str, Figure]:
    x = np.linspace(0, 10, 50)
    track = F0Track(np.full(170, 150.0), 512 / 44100)
    features = {"content": np.random.default_rng(0).random((20, 50)), "latents": torch.randn(8, 90)}
    return {
        "zoom": tour_plots.plot_zoom(voice, 0.5, 0.03, title="ada_01.flac"),
        "waves": tour_plots.plot_waves({"recording": voice, "source": voice}, 0.5, 0.03),
        "curves": tour_plots.plot_curves(
            x, {"loud": x, "limit": 0 * x}, axes=("time (s)", "dB"), marks={"here": 4.0}, title="two"
        ),
        "features": tour_plots.plot_features(features, 2.0, rows="row"),
        "signed features": tour_plots.plot_features(features, 2.0, rows="row", signed=True),
        "spectrograms": tour_plots.plot_spectrograms({"before": voice, "after": voice}, (track, track)),
    }


def test_figures_are_not_blank_and_every_plot_is_labelled(voice: Audio) -> None:
    for name, figure in figures(voice).items():
        pixels = imread(io.BytesIO(figure._repr_png_()), format="png")
        assert 800 <= pixels.shape[1] <= 1100, f"{name}: not of notebook width"
        assert pixels[..., :3].std() > 0.05, f"{name}: blank"
        plots = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
        assert all(ax.get_ylabel() and (ax.get_xlabel() or ax.get_title(loc="left")) for ax in plots), name
        assert any("(" in ax.get_xlabel() for ax in plots), f"{name}: no unit"


def test_a_zoom_shows_the_samples_of_its_excerpt(voice: Audio) -> None:
    whole, zoomed = tour_plots.plot_zoom(voice, 0.5, 0.03).axes
    times_ms, samples = zoomed.lines[0].get_data()
    np.testing.assert_array_equal(samples, voice.slice_s(0.5, 0.53).samples)
    assert (times_ms[0], round(times_ms[-1] - times_ms[0])) == (500.0, 30)
    marked = whole.patches[0].get_extents().transformed(whole.transData.inverted())
    assert (marked.x0, marked.x1) == pytest.approx((0.5, 0.53))


def test_an_excerpt_outside_the_recording_is_refused(voice: Audio) -> None:
    for draw in (
        lambda: tour_plots.plot_zoom(voice, 2.5, 0.03),
        lambda: tour_plots.plot_waves({"voice": voice}, 3.0, 0.1),
    ):
        with pytest.raises(ValueError, match="the recording lasts 2.00 s"):
            draw()


def test_every_curve_has_its_own_name_color_and_style() -> None:
    (ax,) = tour_plots.plot_curves(
        [0, 1], {name: [0, i] for i, name in enumerate("abcd")}, axes=("x", "y")
    ).axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list("abcd")
    assert (
        len({line.get_color() for line in ax.lines}) == len({line.get_linestyle() for line in ax.lines}) == 4
    )
    (alone,) = tour_plots.plot_curves([0, 1], {"a": [0, 1]}, axes=("x", "y")).axes
    assert alone.get_legend() is None
    with pytest.raises(ValueError, match="5 curves: expected 1 to 4"):
        tour_plots.plot_curves([0, 1], {name: [0, 1] for name in "abcde"}, axes=("x", "y"))


def test_marks_are_at_their_x() -> None:
    (ax,) = tour_plots.plot_curves([0, 10], {"a": [0, 1]}, axes=("x", "y"), marks={"period": 4.85}).axes
    assert list(ax.lines[1].get_xdata()) == [4.85, 4.85]
    assert [text.get_text() for text in ax.texts] == ["period"]


def test_features_are_drawn_over_their_seconds_with_the_first_row_below() -> None:
    ramp = np.arange(12, dtype=np.float32).reshape(3, 4)
    figure = tour_plots.plot_features({"ramp": ramp, "signed": ramp - 2}, 2.5, rows="row", signed=True)
    ax = figure.axes[0]
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array(), ramp)
    assert (image.origin, image.get_extent()) == ("lower", [0, 2.5, 0, 3])
    assert ax.get_title(loc="left") == "ramp: 3 x 4"
    limits = [image.get_clim() for ax in figure.axes[:2] for image in ax.images]
    assert all(low == -high for low, high in limits), "zero is not white"


@pytest.mark.parametrize("shape", [(4,), (0, 5), (3, 0)])
def test_features_without_rows_or_frames_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"latents has shape .* expected \[rows, frames\]"):
        tour_plots.plot_features({"latents": np.zeros(shape)}, 1.0, rows="row")
