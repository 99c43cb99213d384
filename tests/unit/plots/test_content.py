"""The projection of content frames and the distances: the plots show the measured values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from svcnb import SvcError
from svcnb.audio.audio import Audio
from svcnb.data.feature_store import FeatureStore
from svcnb.plots.content import Units, plot_unit_distances, plot_unit_map, principal_axes, read_units
from svcnb.plots.style import png_bytes
from tests.toys.toy_voice import WIDTH, write_features


def test_axes_are_those_of_a_singular_value_decomposition_and_do_not_flip() -> None:
    random = np.random.default_rng(0)
    frames = (random.standard_normal((300, 12)) * np.linspace(3, 0.1, 12)).astype(np.float32)
    mean, axes = principal_axes(frames)
    expected = np.linalg.svd(frames - frames.mean(axis=0), full_matrices=False)[2][:2].T
    np.testing.assert_allclose(np.abs(axes), np.abs(expected), atol=1e-4)
    np.testing.assert_allclose(mean, frames.mean(axis=0), atol=1e-6)
    assert (axes[np.abs(axes).argmax(axis=0), [0, 1]] > 0).all()


def test_every_frame_gets_the_f0_of_its_time(tmp_path: Path) -> None:
    store = FeatureStore.open(write_features(tmp_path))
    units = read_units(store, "bob")
    assert units.content.shape == (240, WIDTH) and (units.f0_hz == 150).all()
    np.testing.assert_array_equal(units.content[60:120], store.read("bob/1.flac")["content"])
    with pytest.raises(SvcError, match="'eve', only of ada, bob"):
        read_units(store, "eve")


@pytest.mark.parametrize("voiced_ratio", [0.0, 0.6, 1.0])
def test_the_map_shows_voiced_and_unvoiced_frames_and_centers(voiced_ratio: float) -> None:
    random = np.random.default_rng(0)
    voiced = np.arange(9000) < 9000 * voiced_ratio
    units = Units(
        random.random((9000, 6)).astype(np.float32), np.where(voiced, random.uniform(100, 300, 9000), 0)
    )
    figure = plot_unit_map(units, random.random((500, 6)), title="a map")
    unvoiced, dots, centers = (len(drawn.get_offsets()) for drawn in figure.axes[0].collections)
    assert (unvoiced, dots) == (4500 * (1 - voiced_ratio), 4500 * voiced_ratio) and centers == 250
    assert len(png_bytes(figure)) > 5000


def test_distances_are_drawn_over_time_with_their_mean() -> None:
    audio = Audio(np.sin(np.arange(22050) * 0.05).astype(np.float32), 22050)
    figure = plot_unit_distances(audio, {"centre": np.full(50, 0.25), "index": np.zeros(50)})
    above, below = figure.axes
    assert [text.get_text() for text in below.get_legend().get_texts()] == [
        "centre, mean 0.25",
        "index, mean 0",
    ]
    line = below.get_lines()[0]
    np.testing.assert_allclose(line.get_xdata(), (np.arange(50) + 0.5) / 50)
    assert set(line.get_ydata()) == {0.25} and len(png_bytes(figure)) > 5000
