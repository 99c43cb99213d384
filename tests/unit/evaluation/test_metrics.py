"""Figures about conversions: known cases give known numbers."""

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
def melody() -> np.ndarray:
    f0_hz = 220 * 2 ** (np.sin(np.arange(400) / 30) / 2)
    f0_hz[100:140] = 0
    return f0_hz


def test_a_transposed_melody_correlates_fully_and_the_shift_is_told_in_cents(melody: np.ndarray) -> None:
    result = compare_pitch(track(melody), track(melody * 2 ** (5 / 12)))
    assert result.correlation == pytest.approx(1.0)
    assert result.median_shift_cents == pytest.approx(500)
    assert result.median_error_cents == pytest.approx(0, abs=1e-6)
    assert (result.octave_error_ratio, result.voicing_error_ratio, result.n_common_frames) == (0, 0, 360)


def test_the_rmse_of_a_known_detune_is_that_detune_and_0_without_the_shift(melody: np.ndarray) -> None:
    detuned = track(melody * 2 ** (50 / 1200))
    assert f0_rmse_cents(track(melody), detuned) == pytest.approx(50)
    assert f0_rmse_cents(track(melody), detuned, without_shift=True) == pytest.approx(0, abs=1e-6)


def test_the_rmse_is_the_root_of_the_mean_square(melody: np.ndarray) -> None:
    half = np.arange(len(melody)) % 4 < 1  # a quarter of the frames is 80 cents off, the median frame is not
    result = compare_pitch(track(melody), track(np.where(half, melody * 2 ** (80 / 1200), melody)))
    assert result.rmse_cents == pytest.approx(40) and result.rmse_after_shift_cents == pytest.approx(40)


def test_an_inverted_melody_correlates_negatively(melody: np.ndarray) -> None:
    inverted = np.where(melody > 0, 220**2 / np.maximum(melody, 1), 0)
    assert f0_correlation(track(melody), track(inverted)) == pytest.approx(-1.0)


def test_octave_and_voicing_errors_are_counted_apart(melody: np.ndarray) -> None:
    wrong = melody.copy()
    wrong[:36] *= 2
    wrong[200:220] = 0
    result = compare_pitch(track(melody), track(wrong))
    assert result.octave_error_ratio == pytest.approx(36 / 340)
    assert result.voicing_error_ratio == pytest.approx(20 / 400)
    assert result.median_error_cents == pytest.approx(0, abs=1e-6)


def test_tracks_of_different_hops_are_compared_by_time(melody: np.ndarray) -> None:
    fine = np.repeat(melody, 2)
    assert f0_correlation(track(melody), track(fine, HOP_S / 2)) == pytest.approx(1.0)


def test_a_figure_that_does_not_exist_is_nan_and_null_in_json() -> None:
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


def test_a_voice_resembles_itself_more_than_another(similarity: SpeakerSimilarity, voices_folder: Path) -> None:
    folders = [(voices_folder / "ljspeech", voices_folder / "librispeech" / "1688"),
               (voices_folder / "raw" / "ada", voices_folder / "raw" / "bruno")]  # fmt: skip
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
