"""RVC's step 2a: also a test for every way in which the original loses or damages clips."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from svcnb import SvcError
from svcnb.audio.audio import Audio, write_audio
from svcnb.models.rvc.experiment import COARSE_FOLDER, GT_FOLDER, WAV16_FOLDER
from svcnb.models.rvc.preprocess import (
    CutSettings as RvcCutSettings,
)
from svcnb.models.rvc.preprocess import (
    cut_at_silence,
    cut_recordings,
    cut_samples,
    fixed_windows,
    high_pass,
    level,
    why_dropped,
)

RATE_HZ = 40000
SETTINGS = RvcCutSettings()


def tone(seconds: float, peak: float = 0.5) -> np.ndarray:
    return (peak * np.sin(2 * np.pi * 220 * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE_HZ), np.float32)


def save(path: Path, *parts: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_audio(path, Audio(np.concatenate(parts), RATE_HZ), subtype="FLOAT")


def wavs(experiment: Path, folder: str = GT_FOLDER) -> set[str]:
    return {path.name for path in (experiment / folder).iterdir()}


# ---------------------------------------------------------------- the steps


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(4.0, [4.0]), (4.01, [3.7, 0.61]), (7.4, [3.7, 4.0]), (7.41, [3.7, 3.7, 0.61]), (10.0, [3.7, 3.7, 3.2])],
)
def test_windows_are_those_of_the_fact_sheet(seconds: float, expected: list[float]) -> None:
    windows = fixed_windows(round(seconds * RATE_HZ), SETTINGS)
    assert [window.n_samples / RATE_HZ for window in windows] == pytest.approx(expected, abs=1e-4)
    assert windows[0].start == 0 and windows[-1].end == round(seconds * RATE_HZ)


def test_high_pass_is_causal_and_removes_only_low_frequencies() -> None:
    click = np.zeros(1000)
    click[500] = 1
    assert not high_pass(click, RATE_HZ)[:500].any()
    for hz, expected_db in ((10, -68), (20, -38), (48, -3), (100, 0)):
        wave = np.sin(2 * np.pi * hz * np.arange(4 * RATE_HZ) / RATE_HZ)
        gain_db = 20 * np.log10(np.abs(high_pass(wave, RATE_HZ)[-RATE_HZ:]).max())
        assert gain_db == pytest.approx(expected_db, abs=0.6)


@pytest.mark.parametrize("peak", [0.1, 0.5, 1.0, 2.0])
def test_level_gives_the_peak_of_the_formula(peak: float) -> None:
    assert np.abs(level(tone(1, peak), SETTINGS)).max() == pytest.approx(0.675 + 0.25 * peak, rel=1e-4)


def test_long_silence_is_removed() -> None:
    samples = np.concatenate([tone(2), silence(3), tone(2)])
    slices = cut_at_silence(samples, SETTINGS)
    assert len(slices) == 2
    assert slices[0].n_samples / RATE_HZ == pytest.approx(2.5, abs=0.55)
    assert slices[1].start > 4 * RATE_HZ


# ---------------------------------------------------------------- what the original loses


def test_no_clip_is_written_over_another(tmp_path: Path) -> None:
    """Slices of 2.3, 2.7, 10.4, 3.1 s: the original writes 1, 2, 2, 3, 5, 6 and loses the second."""
    parts = [part for seconds in (2.3, 2.7, 10.4, 3.1) for part in (tone(seconds), silence(0.6))]
    save(tmp_path / "raw" / "a.wav", *parts)
    report = cut_recordings(tmp_path / "raw", tmp_path / "exp")
    names = [span.name for span in report.kept]
    assert names == [f"0_{n}" for n in range(len(names))] and len(names) >= 6
    assert wavs(tmp_path / "exp") == wavs(tmp_path / "exp", WAV16_FOLDER) == {f"{name}.wav" for name in names}
    starts = [span.start_s for span in report.kept]
    assert starts == sorted(set(starts))
    for span in report.kept:
        length = soundfile.info(tmp_path / "exp" / GT_FOLDER / f"{span.name}.wav").duration
        assert length == pytest.approx(span.end_s - span.start_s, abs=1e-3)


def test_files_are_float32_at_both_rates(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "a.wav", tone(2))
    cut_recordings(tmp_path / "raw", tmp_path / "exp")
    for folder, rate_hz in ((GT_FOLDER, RATE_HZ), (WAV16_FOLDER, 16000)):
        info = soundfile.info(tmp_path / "exp" / folder / "0_0.wav")
        assert (info.samplerate, info.channels, info.subtype) == (rate_hz, 1, "FLOAT")
        assert info.frames == 2 * rate_hz


def test_silent_recording_is_dropped_with_a_reason_and_not_nan(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "a.wav", silence(2))
    save(tmp_path / "raw" / "b.wav", tone(2))
    save(tmp_path / "raw" / "c.wav", 1e-5 * tone(2))
    report = cut_recordings(tmp_path / "raw", tmp_path / "exp")
    reasons = [(span.source, span.reason.split(":")[0]) for span in report.dropped]
    assert reasons == [("a.wav", "silent"), ("c.wav", "silent")]
    assert wavs(tmp_path / "exp") == {"1_0.wav"}
    samples, _ = soundfile.read(tmp_path / "exp" / GT_FOLDER / "1_0.wav")
    assert np.isfinite(samples).all()


def test_silent_windows_of_a_non_silent_slice_are_dropped_and_not_nan() -> None:
    settings = RvcCutSettings(max_kept_silence_ms=5000)
    fading = np.linspace(1e-4, 0, round(5.2 * RATE_HZ)) * np.random.default_rng(0).standard_normal(
        round(5.2 * RATE_HZ)
    )
    cut = cut_samples(np.concatenate([tone(3), fading]), settings)
    assert [reason.split(":")[0] for _, _, reason in cut] == ["", "silent", "silent"]
    assert why_dropped(np.zeros(RATE_HZ), settings).startswith("silent")
    assert why_dropped(np.zeros(RATE_HZ), RvcCutSettings(min_peak=0.0)).startswith("silent")
    assert "NaN" in why_dropped(np.full(RATE_HZ, np.nan), settings)


def test_too_short_and_empty_spans_are_dropped_with_a_reason() -> None:
    ((_, _, reason),) = cut_samples(tone(0.05), SETTINGS)
    assert reason.startswith("empty")
    assert cut_samples(np.zeros(0, np.float32), SETTINGS) == []


def test_too_loud_spans_are_reported(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "a.wav", tone(2, peak=4.0))
    save(tmp_path / "raw" / "b.wav", tone(2, peak=2.0))
    report = cut_recordings(tmp_path / "raw", tmp_path / "exp")
    (span,) = report.dropped
    assert span.source == "a.wav" and span.reason.startswith("too loud") and "too loud" in str(report)
    assert wavs(tmp_path / "exp") == {"1_0.wav"}


def test_folders_are_not_read_but_reported(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "a.wav", tone(2))
    save(tmp_path / "raw" / "more" / "b.wav", tone(2))
    (tmp_path / "raw" / "notes.txt").write_text("no sound")
    report = cut_recordings(tmp_path / "raw", tmp_path / "exp")
    assert [span.source for span in report.kept] == ["a.wav"]
    assert [name for name, _ in report.skipped] == ["more", "notes.txt"]
    assert "recursive=True" in report.skipped[0][1]
    report = cut_recordings(tmp_path / "raw", tmp_path / "all", recursive=True)
    assert [span.source for span in report.kept] == ["a.wav", "more/b.wav"]


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "a.wav", silence(2))
    with pytest.raises(SvcError, match=r"none of 1 entries gave a clip(.|\n)*silent"):
        cut_recordings(tmp_path / "raw", tmp_path / "exp")
    with pytest.raises(SvcError, match="no such folder"):
        cut_recordings(tmp_path / "absent", tmp_path / "exp")


# ---------------------------------------------------------------- a second run


def test_second_run_reuses_clips_and_restores_missing_ones(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "a.wav", tone(6))
    save(tmp_path / "raw" / "b.wav", tone(2))
    first = cut_recordings(tmp_path / "raw", tmp_path / "exp")
    (tmp_path / "exp" / WAV16_FOLDER / "0_1.wav").unlink()
    untouched = (tmp_path / "exp" / GT_FOLDER / "1_0.wav").stat().st_mtime_ns
    second = cut_recordings(tmp_path / "raw", tmp_path / "exp")
    assert second.kept == first.kept and (first.n_reused, second.n_reused) == (0, 1)
    assert (tmp_path / "exp" / WAV16_FOLDER / "0_1.wav").is_file()
    assert (tmp_path / "exp" / GT_FOLDER / "1_0.wav").stat().st_mtime_ns == untouched


def test_a_killed_run_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from svcnb.models.rvc import preprocess as rvc_clips

    for name in "ab":
        save(tmp_path / "raw" / f"{name}.wav", tone(2))
    read = rvc_clips.read_audio

    def interrupted(path: Path, **rate: int) -> Audio:
        if Path(path).name == "b.wav":
            raise KeyboardInterrupt
        return read(path, **rate)

    monkeypatch.setattr(rvc_clips, "read_audio", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cut_recordings(tmp_path / "raw", tmp_path / "exp")
    monkeypatch.setattr(rvc_clips, "read_audio", read)
    report = cut_recordings(tmp_path / "raw", tmp_path / "exp")
    assert [span.name for span in report.kept] == ["0_0", "1_0"] and report.n_reused == 1


@pytest.mark.parametrize("change", ["settings", "recordings"])
def test_clips_of_other_recordings_or_settings_are_never_mixed(tmp_path: Path, change: str) -> None:
    save(tmp_path / "raw" / "a.wav", tone(2))
    save(tmp_path / "raw" / "b.wav", tone(2))
    experiment = tmp_path / "exp"
    cut_recordings(tmp_path / "raw", experiment)
    stale = experiment / COARSE_FOLDER / "1_0.wav.npy"
    stale.parent.mkdir()
    stale.touch()
    (stale.parent / "mine.txt").touch()
    settings = RvcCutSettings(window_s=3.0) if change == "settings" else SETTINGS
    if change == "recordings":
        (tmp_path / "raw" / "b.wav").unlink()
    before = wavs(experiment)
    with pytest.raises(SvcError, match=f"other {change}.*overwrite=True"):
        cut_recordings(tmp_path / "raw", experiment, settings)
    assert wavs(experiment) == before and stale.is_file()
    report = cut_recordings(tmp_path / "raw", experiment, settings, overwrite=True)
    assert wavs(experiment) == {f"{span.name}.wav" for span in report.kept}
    assert not stale.exists() and (stale.parent / "mine.txt").is_file()


def test_clips_of_unknown_origin_are_kept(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "a.wav", tone(2))
    save(tmp_path / "exp" / GT_FOLDER / "0_0.wav", tone(1))
    with pytest.raises(SvcError, match=r"unknown origin.*overwrite=True"):
        cut_recordings(tmp_path / "raw", tmp_path / "exp")


def test_manifest_lists_kept_and_dropped(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "a.wav", tone(2))
    save(tmp_path / "raw" / "b.wav", silence(2))
    cut_recordings(tmp_path / "raw", tmp_path / "exp")
    manifest = json.loads((tmp_path / "exp" / "clips.json").read_text(encoding="utf-8"))
    assert manifest["entries"]["a.wav"]["pieces"][0]["name"] == "0_0"
    assert manifest["entries"]["b.wav"]["pieces"][0]["reason"].startswith("silent")


@pytest.mark.parametrize(
    "wrong", [{"overlap_s": 4.0}, {"hop_ms": 0.0}, {"level_ratio": 2.0}, {"sample_rate_hz": 40}]
)
def test_wrong_settings_raise(wrong: dict) -> None:
    with pytest.raises(SvcError, match="expected"):
        RvcCutSettings(**wrong)
