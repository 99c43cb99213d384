"""F0Track, gap rules, filters, CSV, and the choice of a method."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from svcnb import SvcError
from svcnb.features.pitch.classical import PitchError, PitchSettings
from svcnb.features.pitch.estimator import METHODS, PitchEstimator, resolve_method
from svcnb.features.pitch.track import F0Track, fill_gaps

HOP_S = 512 / 44100


def track(*f0_hz: float, hop_s: float = HOP_S) -> F0Track:
    return F0Track(np.array(f0_hz, np.float64), hop_s)


def test_gaps_are_interpolated_linearly_and_ends_are_constant():
    filled = track(0, 0, 100, 0, 0, 0, 200, 0).interpolated()
    assert filled == pytest.approx([100, 100, 100, 125, 150, 175, 200, 200], rel=1e-6)


def test_gaps_of_40_reach_the_next_value_one_frame_early():
    filled = track(0, 100, 0, 0, 0, 200, 0, 300, 0).interpolated(rule="4.0")
    assert filled == pytest.approx([100, 100, 100 + 100 / 3, 100 + 200 / 3, 200, 200, 300, 300, 300])


def test_gaps_of_40_keep_the_value_when_only_the_last_frame_is_voiced_again():
    assert track(100, 0, 0, 200).interpolated(rule="4.0").tolist() == [100, 100, 100, 200]


@pytest.mark.parametrize("rule", ["4.0", "4.1"])
@pytest.mark.parametrize("position", [0, 2, 4])
def test_one_voiced_frame_fills_everything_with_its_own_f0(rule, position):
    f0_hz = np.zeros(5)
    f0_hz[position] = 220.0
    assert fill_gaps(f0_hz, HOP_S, rule=rule).tolist() == [220.0] * 5


@pytest.mark.parametrize("rule", ["4.0", "4.1"])
def test_nothing_voiced_stays_zero(rule):
    silent = F0Track(np.zeros(7), HOP_S)
    assert silent.interpolated(rule=rule).tolist() == [0.0] * 7
    assert silent.median_hz() == 0.0
    assert silent.mean_filtered().f0_hz.tolist() == [0.0] * 7


def test_no_frames_are_a_track_too():
    empty = F0Track(np.zeros(0), HOP_S)
    assert empty.interpolated().shape == empty.mean_filtered().f0_hz.shape == (0,)


def test_a_track_refuses_nan_and_negative_values():
    with pytest.raises(PitchError, match="NaN or negative"):
        track(100, np.nan)
    with pytest.raises(PitchError, match="NaN or negative"):
        track(100, -1)


def test_transposing_by_an_octave_doubles_voiced_frames_only():
    assert track(0, 110, 220).transposed(12).f0_hz == pytest.approx([0, 220, 440])
    assert track(0, 110, 220).transposed(-12).f0_hz == pytest.approx([0, 55, 110])


def test_filters_keep_unvoiced_frames_unvoiced_and_ignore_them():
    ragged = track(0, 100, 110, 0, 0, 300, 0)
    filtered = ragged.mean_filtered(3)
    assert filtered.voiced.tolist() == ragged.voiced.tolist()
    assert filtered.f0_hz[5] == 300
    assert filtered.f0_hz[1] == pytest.approx(105)


def test_filters_want_an_odd_width():
    with pytest.raises(ValueError, match="odd"):
        track(100, 100).mean_filtered(2)


def test_filters_leave_the_original_alone():
    original = track(100, 200, 300)
    original.mean_filtered()
    assert original.f0_hz.tolist() == [100, 200, 300]


def test_median_counts_voiced_frames_only():
    assert track(0, 0, 0, 100, 200, 300).median_hz() == 200


def test_csv_round_trip_keeps_every_frame(tmp_path: Path):
    original = F0Track(
        np.r_[np.zeros(5), np.linspace(100, 400, 50), np.zeros(3), np.full(10, 123.4567)], HOP_S
    )
    path = original.to_csv(tmp_path / "f0.csv")
    assert path.read_text(encoding="utf-8").splitlines()[0] == "time_s,f0_hz"
    again = F0Track.from_csv(path, hop_s=HOP_S, n_frames=original.n_frames)
    assert again.voiced.tolist() == original.voiced.tolist()
    assert again.f0_hz == pytest.approx(original.f0_hz, rel=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == ["f0.csv"]
    assert F0Track.from_csv(path).n_frames == original.n_frames


def test_csv_of_another_grid_is_resampled(tmp_path: Path):
    fine = F0Track(220 * 2 ** (np.arange(400) / 400), 0.005)
    coarse = F0Track.from_csv(fine.to_csv(tmp_path / "fine.csv"), hop_s=HOP_S, n_frames=170)
    assert coarse.f0_hz == pytest.approx(220 * 2 ** (np.arange(170) * HOP_S / 2), rel=1e-5)


def test_csv_rows_left_out_are_unvoiced(tmp_path: Path):
    path = tmp_path / "voiced_only.csv"
    rows = [f"{n / 100:.2f},200" for n in (*range(10), *range(50, 60))]
    path.write_text("\n".join(["time_s,f0_hz", *rows]), encoding="utf-8")
    read = F0Track.from_csv(path, hop_s=0.01)
    assert read.n_frames == 60
    assert read.voiced[:10].all() and read.voiced[50:].all() and not read.voiced[12:48].any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,pitch\n0,100\n", r"line 1: found 'time,pitch', expected the header"),
        ("", r"line 1: found 'nothing'"),
        ("time_s,f0_hz\n", "no rows below the header"),
        ("time_s,f0_hz\n0,100\n0.01,loud\n", r"line 3: found '0.01,loud', expected two numbers"),
        ("time_s,f0_hz\n0,100\n0.01,100,7\n", r"line 3: found '0.01,100,7'"),
        ("time_s,f0_hz\n0,100\n0.02,100\n0.01,100\n", r"line 4: time 0.01 s does not come after 0.02 s"),
        ("time_s,f0_hz\n0,-5\n", r"line 2: f0 -5.0 Hz, expected 0 \(unvoiced\) to"),
        ("time_s,f0_hz\n0,nan\n", r"line 2: f0 nan Hz"),
    ],
)
def test_csv_errors_name_the_line(tmp_path: Path, text: str, message: str):
    path = tmp_path / "f0.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PitchError, match=message):
        F0Track.from_csv(path)


def test_a_missing_csv_is_named(tmp_path: Path):
    with pytest.raises(SvcError, match="none.csv"):
        F0Track.from_csv(tmp_path / "none.csv")


def test_auto_is_rmvpe_where_its_file_is_and_fcpe_elsewhere(tmp_path: Path):
    assert resolve_method("auto", tmp_path) == "fcpe"
    (tmp_path / "rmvpe.pt").touch()
    assert resolve_method("auto", tmp_path) == "rmvpe"
    assert [resolve_method(name, tmp_path) for name in METHODS] == list(METHODS)


def test_an_unknown_method_lists_the_valid_names():
    with pytest.raises(
        PitchError, match="'yin' is unknown: choose one of auto, fcpe, rmvpe, crepe, dio, harvest, pm"
    ):
        PitchEstimator("yin", sample_rate_hz=44100, hop_samples=512)


def test_a_missing_rmvpe_file_is_named_with_what_to_do(tmp_path: Path):
    with pytest.raises(PitchError) as error:
        PitchEstimator(
            "rmvpe", sample_rate_hz=44100, hop_samples=512, settings=PitchSettings(pretrain_folder=tmp_path)
        )
    assert str(tmp_path / "rmvpe.pt") in str(error.value)
    assert "put it at" in str(error.value) and '"fcpe"' in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"f0_min_hz": 500, "f0_max_hz": 400}, "500-400 Hz"),
        ({"f0_min_hz": 0}, "0-1100 Hz"),
        ({"threshold": 1.5}, "threshold 1.5"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, message: str):
    with pytest.raises(PitchError, match=message):
        PitchSettings(**settings)


def test_no_threshold_means_the_default():
    assert PitchSettings(threshold=None).threshold == PitchSettings().threshold == 0.05
