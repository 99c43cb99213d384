"""Long recordings need no more memory than short ones, and every setting gives exactly the input's length."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from svcnb.audio import recording as audio_file
from svcnb.audio import slicing as silence
from svcnb.audio.audio import Audio, AudioError, read_audio, resample
from svcnb.audio.recording import open_audio
from svcnb.audio.slicing import SliceSettings, find_slices, find_slices_in
from svcnb.conversion.settings import ConversionSettings
from svcnb.files.disk import WriteError
from tests.covering import all_pairs, covering_rows, pairs_of
from tests.places import PROJECT
from tests.toys.small_voice import save_small_voice
from tests.toys.splitting import convert_by, converted_blocks, same

RATE_HZ = 44100


def write_song(path: Path, minutes: float, *, rate_hz: int = RATE_HZ, n_channels: int = 1, **format) -> Path:
    """Verses of ten seconds, each a tone with vibrato and some noise, then half a second of silence."""
    rng = np.random.default_rng(0)
    times_s = np.arange(10 * rate_hz) / rate_hz
    tone = 0.2 * np.sin(2 * np.pi * 180 * times_s + 2 * np.sin(2 * np.pi * 5 * times_s))
    with soundfile.SoundFile(path, "w", rate_hz, n_channels, **format) as file:
        for _ in range(round(6 * minutes)):
            verse = tone + 0.01 * rng.standard_normal(len(tone))
            verse[-rate_hz // 2 :] = 0
            verse = np.stack([verse * (1 + 0.1 * channel) for channel in range(n_channels)], axis=1).astype(
                np.float32
            )
            for start in range(0, len(verse), 65536):
                file.write(verse[start : start + 65536])
    return path


# ---------------------------------------------------------------------------------------------- memory

CONVERSION = """
import resource, sys
from svcnb.conversion import ConversionSettings
from svcnb.models import sovits
voice_folder, source, folder, extra = sys.argv[1:]
voice = sovits.load_voice(voice_folder)
settings = ConversionSettings(f0_method="dio", audio_format="wav", auto_predict_f0=extra == "automatic")
voice.convert_file(source, folder, settings)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kb(*arguments: object) -> int:
    """Peak memory of a process that loads a voice and converts one file."""
    command = [sys.executable, "-W", "ignore", "-c", CONVERSION, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB on Linux only")
def test_ten_minutes_convert_with_the_memory_of_one(tmp_path: Path) -> None:
    pytest.importorskip("pyworld")
    voice = save_small_voice(tmp_path / "voice")
    sources = {minutes: write_song(tmp_path / f"{minutes}.flac", minutes) for minutes in (1, 10)}
    peaks = {minutes: peak_kb(voice, source, tmp_path / "out", "") for minutes, source in sources.items()}
    assert peaks[10] <= 1.10 * peaks[1], peaks
    results = {
        minutes: soundfile.info(tmp_path / "out" / f"{minutes}.flac_0key_ada_sovits_dio.wav")
        for minutes in peaks
    }
    assert {minutes: info.frames for minutes, info in results.items()} == {m: m * 60 * 22050 for m in (1, 10)}


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB on Linux only")
def test_detecting_singing_needs_no_more_memory_either(tmp_path: Path) -> None:
    pytest.importorskip("pyworld")
    voice = save_small_voice(tmp_path / "voice")
    sources = {
        minutes: write_song(tmp_path / f"{minutes}.flac", minutes, rate_hz=22050) for minutes in (1, 2)
    }
    peaks = {
        minutes: peak_kb(voice, source, tmp_path / "out", "automatic") for minutes, source in sources.items()
    }
    assert peaks[2] <= 1.10 * peaks[1], peaks


FORMATS = {
    "song.wav": {"subtype": "PCM_24", "n_channels": 2},
    "song.flac": {"subtype": "PCM_16", "n_channels": 1},
    "song.mp3": {"format": "MP3", "n_channels": 1},
    "song.ogg": {"subtype": "VORBIS", "n_channels": 1},
}


@pytest.mark.parametrize("name", FORMATS)
def test_cutting_a_song_at_silence_needs_a_few_megabytes(name: str, tmp_path: Path) -> None:
    path = write_song(tmp_path / name, 5, rate_hz=22050, **FORMATS[name])  # 26 MB as numbers
    tracemalloc.start()
    try:
        with open_audio(path) as recording:
            slices = find_slices_in(recording.resampled(16000))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(slices) > 25
    assert peak_bytes < 13e6


# --------------------------------------------------------------------------------- the same as in memory


@pytest.mark.parametrize("name", [*FORMATS, "film.m4a"])
@pytest.mark.parametrize("rate_hz", [RATE_HZ, 22050, 48000])
def test_a_file_read_in_parts_has_the_samples_of_the_whole_to_the_bit(
    name, rate_hz, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(audio_file, "BLOCK_SAMPLES", 10_007)
    if name == "film.m4a":
        if shutil.which("ffmpeg") is None:
            pytest.skip("ffmpeg is not installed")
        source = write_song(tmp_path / "a.wav", 1 / 3)
        path = tmp_path / name
        subprocess.run(["ffmpeg", "-v", "error", "-i", source, path], check=True)
    else:
        path = write_song(tmp_path / name, 1 / 3, **FORMATS[name])
    whole = read_audio(path)
    with open_audio(path) as recording:
        assert (recording.n_samples, recording.sample_rate_hz) == (whole.n_samples, whole.sample_rate_hz)
        np.testing.assert_array_equal(recording.read(-50, 10**9), whole.samples)
        np.testing.assert_array_equal(recording.slice_s(1.5, 2.25).samples, whole.slice_s(1.5, 2.25).samples)
        expected = resample(whole, rate_hz)
        part = recording.resampled(rate_hz)
        assert part.n_samples == expected.n_samples
        np.testing.assert_array_equal(part.read(0, part.n_samples), expected.samples)
        assert len(part.read(100, 100)) == len(part.read(part.n_samples, part.n_samples + 5)) == 0


def test_an_mp3_read_in_parts_is_what_libsndfile_reads_at_once(tmp_path: Path) -> None:
    path = write_song(tmp_path / "song.mp3", 1, format="MP3")
    at_once, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(read_audio(path).samples, at_once)


@pytest.mark.parametrize("block", [997, 44100, 1_000_000])
def test_slices_do_not_depend_on_the_blocks_they_are_found_in(block: int, monkeypatch) -> None:
    rng = np.random.default_rng(3)
    parts = [
        rng.standard_normal(6 * RATE_HZ) * 0.1,
        np.zeros(RATE_HZ),
        rng.standard_normal(6 * RATE_HZ) * 0.1,
        np.zeros(12 * RATE_HZ + 77),
        rng.standard_normal(3 * RATE_HZ) * 0.1,
    ]
    audio = Audio(np.concatenate(parts), RATE_HZ)
    monkeypatch.setattr(silence, "BLOCK_SAMPLES", 10**9)
    at_once = find_slices(audio.samples, RATE_HZ)
    monkeypatch.setattr(silence, "BLOCK_SAMPLES", block)
    assert find_slices_in(audio) == at_once and len(at_once) == 4


@pytest.mark.parametrize(
    "choices", [{}, {"clip_seconds": 1.0, "crossfade_seconds": 0.2}, {"like_original": True}]
)
def test_a_file_converts_to_the_samples_of_the_recording_in_memory(choices: dict, tmp_path: Path) -> None:
    path = write_song(tmp_path / "song.wav", 1 / 2)
    settings, frames = ConversionSettings(**choices), {"output_hz": 22050, "hop_samples": 256}
    in_memory = convert_by(read_audio(path), same, settings, **frames)
    with open_audio(path) as recording:
        in_parts = np.concatenate(list(converted_blocks(recording, same, settings, **frames)))
    np.testing.assert_array_equal(in_parts, in_memory.samples)


def test_reading_in_parts_has_the_errors_of_reading_at_once(tmp_path: Path) -> None:
    (tmp_path / "list.wav").write_text("milk, eggs")
    soundfile.write(tmp_path / "nan.wav", np.array([0, np.nan, np.inf, 0.5]), RATE_HZ, subtype="FLOAT")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE_HZ)
    for name in ("list.wav", "nan.wav", "empty.wav", "absent.wav"):
        with pytest.raises(AudioError) as at_once:
            read_audio(tmp_path / name)
        with pytest.raises(AudioError) as in_parts, open_audio(tmp_path / name):
            pass
        assert str(in_parts.value) == str(at_once.value) and name in str(at_once.value)


@pytest.mark.skipif(sys.platform == "win32", reason="limits on file sizes are POSIX")
def test_no_disk_space_for_the_temporary_copy_raises_with_its_folder_and_the_variable(tmp_path: Path) -> None:
    path = write_song(tmp_path / "song.flac", 1 / 2)
    script = (
        "import resource, sys; from svcnb.audio.recording import open_audio; from svcnb import SvcError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n    open_audio(sys.argv[1]).__enter__()\n"
        "except SvcError as error:\n    print(type(error).__name__, error)"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script, path], env=environment, capture_output=True, text=True
    )
    assert done.stdout.startswith(WriteError.__name__), done.stderr
    assert "song.flac" in done.stdout and str(tmp_path) in done.stdout and "TMPDIR" in done.stdout
    assert [entry.name for entry in tmp_path.iterdir()] == ["song.flac"]


def test_the_temporary_copy_has_no_name_that_a_kill_could_leave_behind(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = write_song(tmp_path / "song.flac", 1 / 6)
    with open_audio(path) as recording:
        recording.resampled(16000).read(0, 10)
        assert [entry.name for entry in tmp_path.iterdir()] == ["song.flac"]


# ---------------------------------------------------------------------------------------------- length

CHOICES = {
    "clip_seconds": (0.0, 0.7, 1.5),
    "crossfade_seconds": (0.0, 0.1, 0.3),
    "crossfade_keep_ratio": (0.01, 0.75, 1.0),
    "pad_seconds": (0.0, 0.013, 0.5),
    "slice_db": (-60.0, -40.0, -25.0),
    "max_chunk_s": (1.0, 2.3, 30.0),
    "loudness_envelope_ratio": (0.0, 0.5, 1.0),
    "like_original": (False, True),
    "input_hz": (16000, 22050, 44100, 48000, 96000),
    "output_hz": (16000, 22050, 44100, 48000, 96000),
    "odd_samples": (0, 1, 63, 10_007),
    "hop_samples": (64, 512),
}


ROWS = list(covering_rows(CHOICES))


def long_pauses(rate_hz: int, odd_samples: int) -> Audio:
    """Tone, short pause, tone, a pause long enough to be its own slice, tone."""
    noise = 0.1 * np.random.default_rng(1).standard_normal(6 * rate_hz).astype(np.float32)
    parts = [
        noise,
        np.zeros(rate_hz // 2),
        noise[: rate_hz // 3],
        np.zeros(11 * rate_hz + odd_samples),
        noise[:rate_hz],
    ]
    return Audio(np.concatenate(parts), rate_hz)


def test_the_rows_contain_every_pair_of_choices() -> None:
    assert set().union(*map(pairs_of, ROWS)) == all_pairs(CHOICES)
    assert len(ROWS) < 80


@pytest.mark.filterwarnings("ignore:nothing in this recording")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: json.dumps(list(row.values())))
def test_every_pair_of_choices_gives_exactly_the_inputs_length(row: dict) -> None:
    """The exception is `like_original`: it has the original's length, including its rounding errors."""
    row = dict(row)
    input_hz, output_hz, hop = (row.pop(name) for name in ("input_hz", "output_hz", "hop_samples"))
    audio = long_pauses(input_hz, row.pop("odd_samples"))
    result = convert_by(audio, same, ConversionSettings(**row), output_hz=output_hz, hop_samples=hop)
    assert np.isfinite(result.samples).all()
    if row["like_original"]:
        if input_hz <= output_hz or not row["crossfade_seconds"]:  # else overlaps can exceed chunks
            lengths = lengths_of_the_original(audio, output_hz, ConversionSettings(**row))
            # Context rounded at one rate and removed at another leaves up to three samples per chunk.
            longest = sum(lengths) + (0 if input_hz == output_hz else 3 * len(lengths))
            assert sum(lengths) <= result.n_samples <= longest
    else:
        assert result.n_samples == round(audio.n_samples * output_hz / input_hz)


def lengths_of_the_original(audio: Audio, output_hz: int, settings: ConversionSettings) -> list[int]:
    """Every slice and every chunk is rounded up; overlaps are counted in samples of the input's rate."""
    lengths, rate_hz = [], audio.sample_rate_hz
    per, overlap = int(settings.clip_seconds * rate_hz), int(settings.crossfade_seconds * rate_hz)
    for part in find_slices(audio.samples, rate_hz, SliceSettings(threshold_db=settings.slice_db)):
        starts = range(0, part.n_samples, per) if per and not part.silent else [0]
        for start in starts:
            end = min(part.n_samples, start + per) if len(starts) > 1 else part.n_samples
            n_piece = end - start + (overlap if start else 0)
            lengths.append(math.ceil(n_piece / rate_hz * output_hz) - (overlap if start else 0))
    return lengths
