"""Tests of svcnb.audio.slicing (positions) and svcnb.data.clips (cutting)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from svcnb.audio.audio import Audio, read_audio, write_audio
from svcnb.audio.slicing import (
    CutSettings,
    SliceSettings,
    SlicingError,
    find_clips,
    find_slices,
    join_with_overlap,
)
from svcnb.data.clips import cut_folder
from svcnb.files.options import SettingsError
from tests.places import PROJECT

RATE_HZ = 16000
SETTINGS = CutSettings(sample_rate_hz=RATE_HZ)


def bursts(*parts: tuple[float, float], rate_hz: int = RATE_HZ, seed: int = 0) -> np.ndarray:
    """Noise of (level, seconds) one after the other, float32."""
    noise = np.random.default_rng(seed)
    return np.concatenate([noise.standard_normal(round(rate_hz * s)) * level for level, s in parts]).astype(
        np.float32
    )


def record(path: Path, *parts: tuple[float, float], rate_hz: int = RATE_HZ, seed: int = 0) -> Path:
    return write_audio(path, Audio(bursts(*parts, rate_hz=rate_hz, seed=seed), rate_hz))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ------------------------------------------------------------------------------------------- find_slices


def test_slices_of_the_known_signal_are_at_the_known_samples():
    noise = np.random.RandomState(0)
    rate_hz = 44100
    samples = np.concatenate(
        [
            noise.randn(6 * rate_hz) * 0.1,
            np.zeros(rate_hz),
            noise.randn(6 * rate_hz) * 0.1,
            np.zeros(12 * rate_hz),
            noise.randn(3 * rate_hz) * 0.1,
        ]
    )
    found = [(part.start, part.end, part.silent) for part in find_slices(samples, rate_hz)]
    assert found == [
        (0, 266364, False),
        (266364, 575064, False),
        (575064, 881118, True),
        (881118, 1234800, False),
    ]


@pytest.mark.parametrize("seed", range(12))
def test_slices_cover_everything_once(seed):
    choose = np.random.default_rng(seed)
    parts = [
        (float(choose.choice([0.2, 0.05, 1e-5, 0.0])), float(choose.uniform(0.01, 9.0))) for _ in range(8)
    ]
    rate_hz = int(choose.choice([8000, 11025, 16000]))
    samples = bursts(*parts, rate_hz=rate_hz, seed=seed)
    settings = SliceSettings(
        min_length_ms=float(choose.choice([500, 2000, 5000])),
        max_kept_silence_ms=float(choose.choice([200, 1000, 5000])),
    )
    slices = find_slices(samples, rate_hz, settings)
    assert (slices[0].start, slices[-1].end) == (0, len(samples))
    assert all(a.end == b.start for a, b in zip(slices, slices[1:], strict=False))
    assert all(part.n_samples > 0 for part in slices)


@pytest.mark.parametrize("n_samples", [0, 1, 100, 5000])
def test_very_short_recordings_are_one_slice(n_samples):
    slices = find_slices(np.ones(n_samples, np.float32), RATE_HZ)
    assert [(part.start, part.end) for part in slices] == ([(0, n_samples)] if n_samples else [])


def test_digital_silence_is_one_silent_slice():
    slices = find_slices(np.zeros(30 * RATE_HZ, np.float32), RATE_HZ)
    assert [(part.silent, part.n_samples) for part in slices] == [(True, 30 * RATE_HZ)]


def test_impossible_slice_settings_are_named():
    with pytest.raises(SlicingError, match="min_length >= min_interval >= hop"):
        SliceSettings(min_length_ms=100, min_interval_ms=300)


# ------------------------------------------------------------------------------------------ fixed chunks


@pytest.mark.parametrize(
    ("n_samples", "length", "overlap"), [(1000, 300, 50), (900, 300, 0), (10, 300, 50), (601, 300, 299)]
)
@pytest.mark.parametrize("keep_ratio", [0.0, 0.5, 0.75, 1.0])
def test_joined_fixed_chunks_equal_the_input(n_samples, length, overlap, keep_ratio):
    samples = np.random.default_rng(1).standard_normal(n_samples).astype(np.float32)
    chunks = [samples[max(0, start - overlap) : start + length] for start in range(0, n_samples, length)]
    joined = join_with_overlap(chunks, overlap, keep_ratio)
    np.testing.assert_allclose(joined, samples, atol=1e-6)


# -------------------------------------------------------------------------------------------- find_clips


@pytest.mark.parametrize("seed", range(8))
def test_no_clip_is_longer_than_the_cap_or_shorter_than_the_minimum_and_none_overlap(seed):
    choose = np.random.default_rng(seed)
    parts = [(float(choose.choice([0.2, 1e-5])), float(choose.uniform(0.02, 8.0))) for _ in range(12)]
    settings = CutSettings(sample_rate_hz=RATE_HZ, max_clip_s=float(choose.choice([2.0, 3.5, 12.0])))
    samples = bursts(*parts, seed=seed)
    plan = find_clips(samples, settings)
    lengths_s = [clip.n_samples / RATE_HZ for clip in plan.clips]
    assert lengths_s
    assert max(lengths_s) <= settings.max_clip_s
    assert min(lengths_s) >= settings.min_clip_s
    assert all(a.end <= b.start for a, b in zip(plan.clips, plan.clips[1:], strict=False))
    assert sum(lengths_s) + plan.silent_s + plan.dropped_s == pytest.approx(len(samples) / RATE_HZ)


def test_a_song_without_pauses_is_cut_at_its_quietest_point():
    samples = bursts((0.2, 8.0), (0.02, 0.3), (0.2, 7.0))  # 0.02 is above the threshold
    clips = find_clips(samples, SETTINGS).clips
    assert len(clips) == 2
    assert clips[0].end == clips[1].start
    assert 8.0 <= clips[0].end / RATE_HZ <= 8.3


def test_a_short_word_joins_its_nearer_neighbour():
    samples = bursts((0.2, 3.0), (0.0, 2.0), (0.2, 0.3), (0.0, 0.7), (0.2, 3.0))
    clips = find_clips(samples, SETTINGS).clips
    assert [round(clip.n_samples / RATE_HZ, 1) for clip in clips] == [3.2, 4.2]


def test_a_lone_click_is_dropped_and_counted():
    plan = find_clips(bursts((0.2, 2.0), (0.0, 4.0), (0.5, 0.02), (0.0, 4.0), (0.2, 2.0)), SETTINGS)
    assert len(plan.clips) == 2
    assert 0.3 < plan.dropped_s < 0.6


def test_clips_keep_a_little_silence_at_their_ends():
    (clip,) = find_clips(bursts((0.0, 3.0), (0.2, 2.0), (0.0, 3.0)), SETTINGS).clips
    assert 2.79 <= clip.start / RATE_HZ <= 2.81
    assert 5.19 <= clip.end / RATE_HZ <= 5.23


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_clip_s": 1.5}, "at least twice min_clip_s"),
        ({"level": "loud"}, r"level \(--level\) is .loud.: expected .off., .peak. or .lufs."),
        ({"threshold_db": 3.0}, "expected from -100 to -1"),
        ({"sample_rate_hz": 100}, "8000 to 192000"),
    ],
)
def test_impossible_cut_settings_are_named(setting, message):
    with pytest.raises(SettingsError, match=message):
        CutSettings(**setting)


# -------------------------------------------------------------------------------------------- cut_folder


def test_a_folder_of_speakers_becomes_clips_and_a_report(tmp_path):
    record(tmp_path / "raw/ada/one.wav", (0.2, 4.0), (0.0, 3.0), (0.2, 15.0))
    record(tmp_path / "raw/bruno/two.ogg", (0.1, 3.0), rate_hz=44100)
    report = cut_folder(tmp_path / "raw", tmp_path / "clips", SETTINGS)
    assert set(report.kept_s) == {"ada", "bruno"}
    assert report.kept_s["ada"] == pytest.approx(19.4, abs=0.1)
    assert [path.relative_to(tmp_path).as_posix() for path in report.clips] == [
        "clips/ada/one_001.flac",
        "clips/ada/one_002.flac",
        "clips/ada/one_003.flac",
        "clips/bruno/two_001.flac",
    ]
    assert all(read_audio(path).sample_rate_hz == RATE_HZ for path in report.clips)
    for start_s, end_s, path in report.files[0].clips:
        assert read_audio(path).duration_s == pytest.approx(end_s - start_s, abs=1e-4)
        assert end_s - start_s <= 12.0
    lines = str(report).splitlines()
    assert len(lines) == 3 and "bruno" in lines[2] and "SNR" in lines[0]


def test_recordings_directly_in_the_folder_belong_to_its_name(tmp_path):
    record(tmp_path / "carla/one.wav", (0.2, 3.0))
    report = cut_folder(tmp_path / "carla", tmp_path / "clips", SETTINGS)
    assert report.clips == [tmp_path / "clips/carla/one_001.flac"]


def test_clips_are_the_samples_of_the_recording(tmp_path):
    source = record(tmp_path / "raw/ada/one.wav", (0.0, 1.0), (0.2, 3.0), (0.0, 1.0))
    report = cut_folder(tmp_path / "raw", tmp_path / "clips", SETTINGS)
    ((start_s, end_s, path),) = report.files[0].clips
    np.testing.assert_array_equal(
        read_audio(path).samples, read_audio(source).slice_s(start_s, end_s).samples
    )


def test_two_runs_write_the_same_and_the_second_reuses(tmp_path):
    for number in range(3):
        record(tmp_path / f"raw/ada/{number}.wav", (0.2, 2.0), (0.0, 1.0), (0.1, 2.0), seed=number)
    first = cut_folder(tmp_path / "raw", tmp_path / "clips", SETTINGS)
    files = snapshot(tmp_path / "clips")
    second = cut_folder(tmp_path / "raw", tmp_path / "clips", SETTINGS)
    assert (first.n_reused, second.n_reused) == (0, 3)
    assert snapshot(tmp_path / "clips") == files
    assert second.clips == first.clips and str(second) == str(first)
    again = cut_folder(tmp_path / "raw", tmp_path / "clips", SETTINGS, overwrite=True)
    assert again.n_reused == 0 and snapshot(tmp_path / "clips") == files


def test_other_settings_a_changed_or_a_removed_recording_leave_no_stale_clip(tmp_path):
    record(tmp_path / "raw/ada/a.wav", (0.2, 10.0))
    record(tmp_path / "raw/ada/b.wav", (0.2, 4.0))
    cut_folder(tmp_path / "raw", tmp_path / "clips", CutSettings(sample_rate_hz=RATE_HZ, max_clip_s=2.0))
    assert len(list((tmp_path / "clips/ada").glob("*.flac"))) > 5
    report = cut_folder(tmp_path / "raw", tmp_path / "clips", SETTINGS)
    assert report.n_reused == 0
    assert sorted(report.clips) == sorted((tmp_path / "clips/ada").glob("*.flac"))
    record(tmp_path / "raw/ada/a.wav", (0.2, 3.0))
    (tmp_path / "raw/ada/b.wav").unlink()
    report = cut_folder(tmp_path / "raw", tmp_path / "clips", SETTINGS)
    assert (
        sorted((tmp_path / "clips/ada").glob("*.flac")) == report.clips == [tmp_path / "clips/ada/a_001.flac"]
    )
    assert report.kept_s["ada"] == pytest.approx(3.0, abs=0.05)


def test_a_deleted_clip_comes_back(tmp_path):
    record(tmp_path / "raw/ada/a.wav", (0.2, 3.0))
    (clip,) = cut_folder(tmp_path / "raw", tmp_path / "clips", SETTINGS).clips
    clip.unlink()
    assert cut_folder(tmp_path / "raw", tmp_path / "clips", SETTINGS).n_reused == 0
    assert clip.is_file()


def test_a_killed_run_is_continued(tmp_path):
    for number in range(40):
        record(tmp_path / f"raw/ada/{number}.wav", (0.2, 2.0), (0.0, 1.0), (0.1, 2.0), seed=number)
    expected = cut_folder(tmp_path / "raw", tmp_path / "expected", SETTINGS)
    program = (
        "import svcnb.data.clips as s, time; write = s.write_audio; s.SAVE_EVERY_S = 0\n"
        "def slow(*a, **k): time.sleep(0.05); return write(*a, **k)\n"
        "s.write_audio = slow\n"
        f"s.cut_folder({str(tmp_path / 'raw')!r}, {str(tmp_path / 'clips')!r}, s.CutSettings(sample_rate_hz={RATE_HZ}))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL, cwd=PROJECT)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "clips").rglob("*.flac"))) < 6 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = len(json.loads((tmp_path / "clips/ada/cuts.json").read_text())["sources"])
    assert 1 <= done < 40
    report = cut_folder(tmp_path / "raw", tmp_path / "clips", SETTINGS)
    assert report.n_reused == done
    clips = [snapshot(folder) for folder in (tmp_path / "clips", tmp_path / "expected")]
    assert {n: b for n, b in clips[0].items() if n.endswith(".flac")} == {
        n: b for n, b in clips[1].items() if n.endswith(".flac")
    }
    assert len(report.clips) == len(expected.clips)


def test_bad_recordings_are_skipped_with_their_reason(tmp_path):
    raw = tmp_path / "raw/ada"
    record(raw / "good.wav", (0.2, 3.0))
    (raw / "list.wav").write_text("eggs, milk")
    record(raw / "quiet.wav", (0.001, 3.0))
    record(raw / "short.wav", (0.2, 0.3))
    (tmp_path / "raw/empty").mkdir()
    (tmp_path / "raw/.ipynb_checkpoints").mkdir()
    report = cut_folder(tmp_path / "raw", tmp_path / "clips", SETTINGS)
    assert report.clips == [tmp_path / "clips/ada/good_001.flac"]
    reasons = {path.name: reason for path, reason in report.skipped}
    assert set(reasons) == {"list.wav", "quiet.wav", "short.wav", "empty"}
    assert "not readable as audio" in reasons["list.wav"]
    assert "nothing louder than -40 dB" in reasons["quiet.wav"] and "threshold_db" in reasons["quiet.wav"]
    assert "no sound of 1 s or longer" in reasons["short.wav"]
    assert "skipped" in str(report)


def test_peak_normalization_makes_a_quiet_recording_usable(tmp_path):
    record(tmp_path / "raw/ada/quiet.wav", (0.001, 3.0))
    settings = CutSettings(sample_rate_hz=RATE_HZ, level="peak", level_db=-3)
    report = cut_folder(tmp_path / "raw", tmp_path / "clips", settings)
    assert read_audio(report.clips[0]).peak == pytest.approx(10 ** (-3 / 20), abs=1e-3)


def test_nothing_usable_is_an_error_that_names_the_fix(tmp_path):
    with pytest.raises(SlicingError, match="no such folder"):
        cut_folder(tmp_path / "raw", tmp_path / "clips")
    (tmp_path / "raw/ada").mkdir(parents=True)
    with pytest.raises(SlicingError, match=r"no audio files; put wav, flac, mp3"):
        cut_folder(tmp_path / "raw", tmp_path / "clips")
    (tmp_path / "raw/ada/bad.wav").write_text("no")
    with pytest.raises(
        SlicingError, match=r"none of 1 audio files gave a clip; first: bad.wav: not readable"
    ):
        cut_folder(tmp_path / "raw", tmp_path / "clips")
    with pytest.raises(SlicingError, match="choose another folder"):
        cut_folder(tmp_path / "raw", tmp_path / "raw" / "clips")


def test_a_broken_cuts_file_is_named_with_the_fix(tmp_path):
    record(tmp_path / "raw/ada/a.wav", (0.2, 3.0))
    cut_folder(tmp_path / "raw", tmp_path / "clips", SETTINGS)
    (tmp_path / "clips/ada/cuts.json").write_text("{")
    with pytest.raises(SlicingError, match="not valid JSON .*delete it"):
        cut_folder(tmp_path / "raw", tmp_path / "clips", SETTINGS)


def test_equal_stems_do_not_overwrite_each_other(tmp_path):
    record(tmp_path / "raw/ada/take.wav", (0.2, 2.0), seed=1)
    record(tmp_path / "raw/ada/take.flac", (0.2, 3.0), seed=2)
    record(tmp_path / "raw/ada/more/TAKE.wav", (0.2, 4.0), seed=3)
    report = cut_folder(tmp_path / "raw", tmp_path / "clips", SETTINGS)
    assert len(set(report.clips)) == 3
    assert sorted(round(read_audio(path).duration_s) for path in report.clips) == [2, 3, 4]


@pytest.mark.parametrize(
    "name", ["two words", 'it\'s "quoted" [1]', "歌声", "🎤🎶", "#$()&;%", "x" * 200, "声" * 83, "voice2"]
)
def test_any_file_and_speaker_name_works(tmp_path, name):
    record(tmp_path / "raw" / name[:60] / f"{name}.wav", (0.2, 2.0))
    report = cut_folder(tmp_path / "raw", tmp_path / "clips", SETTINGS)
    assert list(report.kept_s) == [name[:60]]
    assert report.clips[0].is_file()
    assert cut_folder(tmp_path / "raw", tmp_path / "clips", SETTINGS).n_reused == 1


def test_clipping_and_noise_are_measured(tmp_path):
    write_audio(tmp_path / "raw/ada/hot.wav", Audio(np.clip(10 * bursts((0.2, 3.0)), -1, 1), RATE_HZ))
    record(tmp_path / "raw/ada/clean.wav", (1e-3, 1.0), (0.1, 3.0), (1e-3, 1.0))
    files = {
        cuts.source.stem: cuts for cuts in cut_folder(tmp_path / "raw", tmp_path / "clips", SETTINGS).files
    }
    assert files["hot"].clipped_ratio > 0.5 and files["clean"].clipped_ratio == 0
    assert files["clean"].noise_floor_db == pytest.approx(-60, abs=2)
    assert files["clean"].snr_db == pytest.approx(40, abs=3)
