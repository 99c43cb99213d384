"""Metrics of conversions: known cases give known numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from svcnb import SvcError
from svcnb.audio.audio import Audio
from svcnb.evaluation.metrics import (
    ConversionReport,
    SpeakerSimilarity,
    compare_pitch,
    f0_correlation,
    f0_rmse_cents,
)
from svcnb.features.pitch.track import F0Track

HOP_S = 512 / 44100


def track(f0_hz: np.ndarray, hop_s: float = HOP_S) -> F0Track:
    return F0Track(np.asarray(f0_hz, np.float64), hop_s)


@pytest.fixture
def f0_hz() -> np.ndarray:
    contour = 220 * 2 ** (np.sin(np.arange(400) / 30) / 2)
    contour[100:140] = 0
    return contour


def test_a_transposed_f0_correlates_fully_and_the_shift_is_in_cents(f0_hz: np.ndarray) -> None:
    result = compare_pitch(track(f0_hz), track(f0_hz * 2 ** (5 / 12)))
    assert result.correlation == pytest.approx(1.0)
    assert result.median_shift_cents == pytest.approx(500)
    assert result.median_error_cents == pytest.approx(0, abs=1e-6)
    assert (result.octave_error_ratio, result.voicing_error_ratio, result.n_common_frames) == (0, 0, 360)


def test_the_rmse_of_a_known_detune_is_that_detune_and_0_without_the_shift(f0_hz: np.ndarray) -> None:
    detuned = track(f0_hz * 2 ** (50 / 1200))
    assert f0_rmse_cents(track(f0_hz), detuned) == pytest.approx(50)
    assert f0_rmse_cents(track(f0_hz), detuned, without_shift=True) == pytest.approx(0, abs=1e-6)


def test_the_rmse_is_the_root_of_the_mean_square(f0_hz: np.ndarray) -> None:
    half = np.arange(len(f0_hz)) % 4 < 1  # a quarter of the frames is 80 cents off, the median frame is not
    result = compare_pitch(track(f0_hz), track(np.where(half, f0_hz * 2 ** (80 / 1200), f0_hz)))
    assert result.rmse_cents == pytest.approx(40) and result.rmse_after_shift_cents == pytest.approx(40)


def test_an_inverted_f0_correlates_negatively(f0_hz: np.ndarray) -> None:
    inverted = np.where(f0_hz > 0, 220**2 / np.maximum(f0_hz, 1), 0)
    assert f0_correlation(track(f0_hz), track(inverted)) == pytest.approx(-1.0)


def test_octave_and_voicing_errors_are_counted_separately(f0_hz: np.ndarray) -> None:
    wrong = f0_hz.copy()
    wrong[:36] *= 2
    wrong[200:220] = 0
    result = compare_pitch(track(f0_hz), track(wrong))
    assert result.octave_error_ratio == pytest.approx(36 / 340)
    assert result.voicing_error_ratio == pytest.approx(20 / 400)
    assert result.median_error_cents == pytest.approx(0, abs=1e-6)


def test_tracks_of_different_hops_are_compared_by_time(f0_hz: np.ndarray) -> None:
    fine = np.repeat(f0_hz, 2)
    assert f0_correlation(track(f0_hz), track(fine, HOP_S / 2)) == pytest.approx(1.0)


def test_an_undefined_value_is_nan_and_null_in_json() -> None:
    silent = compare_pitch(track(np.zeros(10)), track(np.zeros(10)))
    assert math.isnan(silent.correlation) and silent.n_common_frames == 0
    stored = json.loads(json.dumps(ConversionReport(0.9, 0.5, silent).to_dict(), allow_nan=False))
    assert stored["pitch"]["rmse_cents"] is None
    assert stored["pitch"]["correlation"] is None and stored["similarity_result"] == 0.9


def test_a_monotone_has_no_correlation() -> None:
    assert math.isnan(f0_correlation(track(np.full(9, 200.0)), track(np.full(9, 200.0))))


def test_empty_tracks_are_refused() -> None:
    with pytest.raises(SvcError, match="0 and 3 frames"):
        compare_pitch(track(np.zeros(0)), track(np.ones(3)))


@pytest.fixture(scope="module")
def similarity() -> SpeakerSimilarity:
    pytest.importorskip("resemblyzer")
    return SpeakerSimilarity()


def test_a_speaker_is_most_similar_to_itself(similarity: SpeakerSimilarity, voices_folder: Path) -> None:
    folders = [
        (voices_folder / "ljspeech", voices_folder / "librispeech" / "1688"),
        (voices_folder / "raw" / "ada", voices_folder / "raw" / "bruno"),
    ]
    own_folder, other_folder = next(pair for pair in folders if pair[0].is_dir())
    own, other = (sorted(folder.glob("*.flac")) for folder in (own_folder, other_folder))
    same = similarity.compare([own[0]], own[1:4])
    different = similarity.compare([other[0]], own[1:4])
    assert same > 0.8 and different < same - 0.1
    assert np.linalg.norm(similarity.mean_embedding(own[1:3])) == pytest.approx(1.0)


def test_silence_and_empty_lists_are_refused_with_a_reason(similarity: SpeakerSimilarity) -> None:
    with pytest.raises(SvcError, match="is silent"):
        similarity.embed(Audio(np.zeros(16000, np.float32), 16000))
    with pytest.raises(SvcError, match="no recordings"):
        similarity.compare([], [])
