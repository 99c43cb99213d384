"""Tests of svcnb.audio: reading, writing, resampling, loudness normalization."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from svcnb import MissingExtra
from svcnb.audio.audio import (
    Audio,
    AudioError,
    AudioWriter,
    find_audio_files,
    player_bytes,
    read_audio,
    resample,
    resample_samples,
    write_audio,
)
from svcnb.audio.loudness import level, loudness_lufs
from svcnb.audio.slicing import crossfade_join

RATE_HZ = 44100


def tone(seconds: float = 1.0, rate_hz: int = RATE_HZ, f0_hz: float = 440.0, peak: float = 0.5) -> Audio:
    times_s = np.arange(int(seconds * rate_hz)) / rate_hz
    return Audio((peak * np.sin(2 * np.pi * f0_hz * times_s)).astype(np.float32), rate_hz)


# ------------------------------------------------------------------------------------------------ Audio


def test_audio_has_length_duration_and_peak():
    audio = tone(0.5)
    assert (audio.n_samples, audio.duration_s) == (22050, 0.5)
    assert audio.peak == pytest.approx(0.5, abs=1e-4)
    assert Audio(np.zeros(0), RATE_HZ).peak == 0.0


def test_slice_s_cuts_by_time_and_is_limited_to_the_recording():
    audio = tone(1.0)
    assert audio.slice_s(0.25, 0.75).n_samples == 22050
    assert audio.slice_s(-1, 99).n_samples == audio.n_samples


def test_audio_refuses_two_channels_and_impossible_rates():
    with pytest.raises(ValueError, match=r"\(2, 5\)"):
        Audio(np.zeros((2, 5)), RATE_HZ)
    with pytest.raises(ValueError, match="sample_rate_hz is 0"):
        Audio(np.zeros(5), 0)


# -------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize(
    ("suffix", "tolerance"), [(".wav", 2e-5), (".flac", 2e-5), (".ogg", 0.05), (".mp3", 0.05)]
)
def test_a_minute_of_audio_round_trips_through_every_format(tmp_path, suffix, tolerance):
    audio = tone(60.0)
    back = read_audio(write_audio(tmp_path / f"minute{suffix}", audio))
    assert back.sample_rate_hz == RATE_HZ
    assert abs(back.n_samples - audio.n_samples) <= (0 if suffix != ".mp3" else 2304)
    if suffix != ".mp3":  # mp3 shifts by its coder's delay
        assert np.abs(back.samples - audio.samples).max() <= tolerance
    assert back.peak == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_writing_what_was_read_changes_nothing(tmp_path, subtype):
    noise = Audio(np.random.default_rng(0).uniform(-1, 1, 5000), RATE_HZ)
    once = read_audio(write_audio(tmp_path / "once.flac", noise, subtype=subtype))
    twice = read_audio(write_audio(tmp_path / "twice.flac", once, subtype=subtype))
    np.testing.assert_array_equal(once.samples, twice.samples)
    assert np.abs(once.samples - noise.samples).max() <= (
        1.01 / 32768 if subtype == "PCM_16" else 1.3 / 2**23
    )


def test_samples_beyond_full_scale_are_clipped_not_wrapped(tmp_path):
    back = read_audio(write_audio(tmp_path / "loud.wav", Audio(np.array([2.0, -2.0, 0.5]), RATE_HZ)))
    np.testing.assert_allclose(back.samples, [1, -1, 0.5], atol=1e-4)


def test_float_wav_keeps_what_it_is_given(tmp_path):
    audio = Audio(np.array([2.0, -2.0, 0.1]), RATE_HZ)
    back = read_audio(write_audio(tmp_path / "f.wav", audio, subtype="FLOAT"))
    np.testing.assert_array_equal(back.samples, audio.samples)


def test_stereo_96_khz_24_bit_becomes_the_mean_of_its_channels(tmp_path):
    left, right = tone(0.5, 96000).samples, tone(0.5, 96000, f0_hz=1000).samples
    soundfile.write(tmp_path / "hires.wav", np.stack([left, right], axis=1), 96000, subtype="PCM_24")
    audio = read_audio(tmp_path / "hires.wav")
    assert audio.sample_rate_hz == 96000
    np.testing.assert_allclose(audio.samples, (left + right) / 2, atol=1e-6)
    assert read_audio(tmp_path / "hires.wav", sample_rate_hz=RATE_HZ).n_samples == 22050


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_a_video_soundtrack_is_decoded_by_ffmpeg(tmp_path):
    write_audio(tmp_path / "a.wav", tone(1.0))
    film = tmp_path / "-film: take 'one'.m4a"
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(tmp_path / "a.wav"), f"file:{film}"], check=True)
    audio = read_audio(film)
    assert audio.sample_rate_hz == RATE_HZ
    assert audio.duration_s == pytest.approx(1.0, abs=0.1)
    assert audio.slice_s(0.2, 0.8).peak == pytest.approx(0.5, abs=0.05)  # AAC rings where a tone breaks off


@pytest.mark.parametrize(
    "name",
    [
        "two words.flac",
        'it\'s "quoted".flac',
        "歌声.flac",
        "🎤🎶.flac",
        "#$()&;%.flac",
        "-rf.flac",
        "שיר.flac",
        "cafe\u0301.flac",
        "voice2.flac",
        "x" * 250 + ".flac",
        "声" * 83 + ".flac",
    ],
)
def test_any_file_name_works(tmp_path, name):
    path = write_audio(tmp_path / name, tone(0.1))
    assert read_audio(path).n_samples == 4410
    assert find_audio_files(tmp_path) == [path]


# -------------------------------------------------------------------------------------------------- errors


def test_a_missing_file_a_folder_and_text_are_named(tmp_path):
    (tmp_path / "notes.wav").write_text("this is a shopping list, not a recording")
    with pytest.raises(AudioError, match="absent.wav: no such file"):
        read_audio(tmp_path / "absent.wav")
    with pytest.raises(AudioError, match="is a folder"):
        read_audio(tmp_path)
    with pytest.raises(AudioError, match="notes.wav: not readable as audio") as caught:
        read_audio(tmp_path / "notes.wav")
    assert "\n" not in str(caught.value)


def test_without_ffmpeg_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "song.m4a").write_bytes(bytes(100))
    with pytest.raises(AudioError, match=r"\.m4a needs ffmpeg, which is not installed"):
        read_audio(tmp_path / "song.m4a")


def test_files_without_samples_and_with_nan_are_refused_with_the_count(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE_HZ)
    soundfile.write(tmp_path / "nan.wav", np.array([0, np.nan, np.inf, 0.5]), RATE_HZ, subtype="FLOAT")
    with pytest.raises(AudioError, match="holds no samples"):
        read_audio(tmp_path / "empty.wav")
    with pytest.raises(AudioError, match="2 of 4 samples are NaN or infinite"):
        read_audio(tmp_path / "nan.wav")


def test_errors_for_unknown_output_formats_list_the_valid_ones(tmp_path):
    with pytest.raises(AudioError, match=r"cannot write \.aiff; use one of \.wav \.flac \.ogg \.mp3"):
        write_audio(tmp_path / "a.aiff", tone())
    with pytest.raises(AudioError, match="no subtype 'PCM_99'; valid: .*PCM_24"):
        write_audio(tmp_path / "a.wav", tone(), subtype="PCM_99")
    with pytest.raises(AudioError, match="mp3 cannot hold 96000 Hz"):
        write_audio(tmp_path / "a.mp3", tone(0.1, 96000))
    assert list(tmp_path.iterdir()) == []


def test_nan_and_nothing_are_not_written(tmp_path):
    with pytest.raises(AudioError, match="1 of 3 samples are NaN"):
        write_audio(tmp_path / "a.wav", Audio(np.array([0, np.nan, 0]), RATE_HZ))
    with pytest.raises(AudioError, match="no samples"):
        write_audio(tmp_path / "a.wav", Audio(np.zeros(0), RATE_HZ))
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------- writing


def test_a_writer_gives_the_same_file_as_one_call(tmp_path):
    audio = tone(3.0)
    write_audio(tmp_path / "whole.flac", audio)
    with AudioWriter(tmp_path / "parts.flac", RATE_HZ) as writer:
        for chunk in np.array_split(audio.samples, 7):
            writer.append(chunk)
    assert (tmp_path / "parts.flac").read_bytes() == (tmp_path / "whole.flac").read_bytes()


def test_an_interrupted_writer_leaves_the_old_file_and_no_other(tmp_path):
    write_audio(tmp_path / "a.wav", tone(0.1))
    before = (tmp_path / "a.wav").read_bytes()
    with pytest.raises(KeyboardInterrupt), AudioWriter(tmp_path / "a.wav", RATE_HZ) as writer:
        writer.append(np.ones(1000))
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["a.wav"]
    assert (tmp_path / "a.wav").read_bytes() == before


@pytest.mark.parametrize("format", ["mp3", "ogg", "flac"])
def test_player_bytes_are_a_small_playable_file(format):
    data = player_bytes(tone(2.0, 96000), format=format)
    samples, rate_hz = soundfile.read(io.BytesIO(data))
    assert len(samples) / rate_hz == pytest.approx(2.0, abs=0.1)
    assert format == "flac" or len(data) < 80_000


# -------------------------------------------------------------------------------------------------- finding


def test_audio_files_come_in_natural_order_without_hidden_ones(tmp_path):
    for name in (
        "b/take10.wav",
        "b/take2.wav",
        "a.MP3",
        ".hidden.wav",
        ".ipynb_checkpoints/x.wav",
        "__MACOSX/y.wav",
        "Thumbs.db",
        "notes.txt",
        "c/film.mkv",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    names = [path.relative_to(tmp_path).as_posix() for path in find_audio_files(tmp_path)]
    assert names == ["a.MP3", "b/take2.wav", "b/take10.wav", "c/film.mkv"]
    assert find_audio_files(tmp_path, recursive=False) == [tmp_path / "a.MP3"]
    with pytest.raises(AudioError, match="no such folder"):
        find_audio_files(tmp_path / "absent")


# ------------------------------------------------------------------------------------------------- changing


@pytest.mark.parametrize("n_samples", [1, 7, 1000, 44100, 44101, 99999])
@pytest.mark.parametrize(
    ("from_hz", "to_hz"), [(44100, 16000), (16000, 44100), (48000, 44100), (22050, 44100)]
)
def test_resampled_length_is_exact(n_samples, from_hz, to_hz):
    assert len(resample_samples(np.ones(n_samples, np.float32), from_hz, to_hz)) == round(
        n_samples * to_hz / from_hz
    )


def test_resampling_keeps_the_tone_and_its_timing():
    there = resample(tone(1.0, 48000, 1000.0), 44100)
    expected = tone(1.0, 44100, 1000.0).samples
    np.testing.assert_allclose(there.samples[500:-500], expected[500:-500], atol=1e-4)


def test_peak_level_is_reached_and_never_clips():
    assert level(tone(peak=0.1), mode="peak", target_db=-6.0).peak == pytest.approx(10 ** (-6 / 20), rel=1e-5)
    assert level(tone(peak=0.1), mode="peak", target_db=3.0).peak <= 10 ** (-0.1 / 20) + 1e-6


def test_lufs_level_is_reached_where_the_peak_allows():
    pytest.importorskip("pyloudnorm")
    assert loudness_lufs(level(tone(2.0), mode="lufs", target_db=-23.0)) == pytest.approx(-23.0, abs=0.05)
    click = Audio(np.eye(1, RATE_HZ, 100)[0] * 0.5 + 1e-3 * tone().samples, RATE_HZ)
    assert level(click, mode="lufs", target_db=-14.0).peak <= 10 ** (-0.1 / 20) + 1e-6
    assert np.isfinite(loudness_lufs(tone(0.1)))  # shorter than one block of the measure


def test_silence_and_mode_off_are_unchanged():
    silence = Audio(np.zeros(1000), RATE_HZ)
    assert level(silence, mode="peak", target_db=-3.0) is silence
    audio = tone()
    assert level(audio, mode="off", target_db=-3.0) is audio
    with pytest.raises(AudioError, match="expected off, peak or lufs"):
        level(audio, mode="loud", target_db=-3.0)


def test_a_missing_loudness_package_names_the_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyloudnorm", None)
    with pytest.raises(MissingExtra, match=r'pip install "svcnb\[loudness\]"'):
        loudness_lufs(tone())


def test_crossfade_starts_old_and_ends_new():
    faded = crossfade_join(np.ones(5), np.zeros(5))
    np.testing.assert_allclose(faded, [1, 0.75, 0.5, 0.25, 0])
    assert len(crossfade_join(np.ones(0), np.ones(0))) == 0
    with pytest.raises(ValueError, match="3 and 4"):
        crossfade_join(np.ones(3), np.ones(4))


def test_paths_may_be_strings(tmp_path):
    path = write_audio(str(tmp_path / "new" / "a.wav"), tone(0.1))
    assert isinstance(path, Path) and read_audio(str(path)).n_samples == 4410
