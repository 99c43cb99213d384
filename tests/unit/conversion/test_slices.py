"""Conversion of long recordings with stubs for a voice: all about timing, nothing about sound."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from svcnb import SvcError
from svcnb.audio.audio import Audio, AudioWriter, read_audio, resample_samples
from svcnb.conversion.long_audio import Chunk, cut_evenly, pad_centered
from svcnb.conversion.result_names import distinct_names, output_name
from svcnb.conversion.settings import ConversionSettings
from svcnb.features.pitch.estimator import PitchEstimator
from svcnb.features.pitch.track import F0Track, looks_sung, sung_score
from svcnb.files.options import options_of
from tests.toys.splitting import convert_by, converted_blocks, same

RATE_HZ = 8000
HOP = 64


def noise(seconds: float, rate_hz: int = RATE_HZ, *, level: float = 0.1) -> np.ndarray:
    generator = np.random.default_rng(1)
    return (level * generator.standard_normal(round(seconds * rate_hz))).astype(np.float32)


def song(rate_hz: int = RATE_HZ) -> Audio:
    """Sound, a short pause, sound, a pause long enough to be a silent slice, sound."""
    parts = [
        noise(6, rate_hz),
        np.zeros(rate_hz),
        noise(6.3, rate_hz),
        np.zeros(12 * rate_hz),
        noise(3, rate_hz),
    ]
    return Audio(np.concatenate(parts).astype(np.float32), rate_hz)


def convert(audio: Audio, voice=same, *, output_hz: int = RATE_HZ, **choices) -> Audio:
    return convert_by(audio, voice, ConversionSettings(**choices), output_hz=output_hz, hop_samples=HOP)


# ---------------------------------------------------------------------------------------------- length

GRID = list(itertools.product((0.0, 0.7, 1.5), (0.0, 0.25), (0.0, 0.5), (-60.0, -40.0, -10.0)))


@pytest.mark.filterwarnings("ignore:nothing in this recording")
@pytest.mark.parametrize("clip_s, crossfade_s, pad_s, slice_db", GRID)
def test_every_pair_of_options_gives_the_exact_length_and_the_same_sound(
    clip_s, crossfade_s, pad_s, slice_db
) -> None:
    audio = song()
    result = convert(
        audio, clip_seconds=clip_s, crossfade_seconds=crossfade_s, pad_seconds=pad_s, slice_db=slice_db
    )
    assert result.n_samples == audio.n_samples
    assert result.samples.dtype == np.float32
    if slice_db < -20:
        assert np.abs(result.samples - audio.samples).max() <= 1e-6


@pytest.mark.parametrize("rate_hz", [7999, 11025, 16000, 22050, 44100, 48001])
@pytest.mark.parametrize("output_hz", [8000, 22050])
def test_odd_rates_keep_the_duration_to_the_sample(rate_hz: int, output_hz: int) -> None:
    audio = Audio(noise(1.37, rate_hz), rate_hz)
    result = convert(audio, output_hz=output_hz, clip_seconds=0.5, crossfade_seconds=0.1)
    assert result.sample_rate_hz == output_hz
    assert result.n_samples == round(audio.n_samples * output_hz / rate_hz)


@pytest.mark.parametrize("n_samples", [0, 1, 2, HOP - 1, HOP, HOP + 1, 400])
@pytest.mark.parametrize("pad_s", [0.0, 0.5])
def test_the_shortest_inputs_work(n_samples: int, pad_s: float) -> None:
    audio = Audio(np.full(n_samples, 0.1, np.float32), RATE_HZ)
    assert np.array_equal(convert(audio, pad_seconds=pad_s).samples, audio.samples)


def test_a_cross_fade_in_seconds_is_equally_long_at_every_rate() -> None:
    settings = {
        "clip_seconds": 2.0,
        "crossfade_seconds": 0.5,
        "crossfade_keep_ratio": 1.0,
        "pad_seconds": 0.0,
    }
    lengths = []
    for rate_hz in (8000, 16000):
        counter = itertools.count()
        result = convert(
            Audio(np.full(4 * rate_hz, 0.1, np.float32), rate_hz),
            lambda chunk, counter=counter: np.full(len(chunk.samples), next(counter), np.float32),
            **settings,
        )
        lengths.append(int(((result.samples > 0) & (result.samples < 1)).sum()))
    assert lengths[0] == lengths[1] == pytest.approx(0.5 * RATE_HZ, abs=2)


def test_blocks_can_be_streamed_into_a_file(tmp_path: Path) -> None:
    audio = song()
    with AudioWriter(tmp_path / "result.wav", RATE_HZ, subtype="FLOAT") as writer:
        for block in converted_blocks(
            audio, same, ConversionSettings(max_chunk_s=2), output_hz=RATE_HZ, hop_samples=HOP
        ):
            assert len(block) <= 12 * RATE_HZ
            writer.append(block)
    assert np.abs(read_audio(tmp_path / "result.wav").samples - audio.samples).max() <= 1e-6


# ---------------------------------------------------------------------------------------------- chunks


@pytest.mark.parametrize("clip_s, crossfade_s", [(0.0, 0.0), (1.0, 0.3), (100.0, 0.0)])
def test_chunks_are_within_the_limit_and_have_whole_frames(clip_s: float, crossfade_s: float) -> None:
    seen: list[Chunk] = []

    def record(chunk: Chunk) -> np.ndarray:
        seen.append(chunk)
        return chunk.samples

    convert(
        Audio(noise(21), RATE_HZ),
        record,
        clip_seconds=clip_s,
        crossfade_seconds=crossfade_s,
        max_chunk_s=4,
        pad_seconds=0.5,
    )
    assert len(seen) > 4
    for chunk in seen:
        assert len(chunk.samples) <= (4 + 2 * 0.5) * RATE_HZ + HOP
        assert len(chunk.samples) % HOP == 0
        assert chunk.n_pad_samples == RATE_HZ // 2
        assert chunk.duration_s <= 4


def test_context_is_the_real_sound_inside_and_silence_at_the_ends() -> None:
    seen: list[Chunk] = []

    def record(chunk: Chunk) -> np.ndarray:
        seen.append(chunk)
        return chunk.samples

    audio = Audio(noise(4), RATE_HZ)
    convert(audio, record, clip_seconds=2, pad_seconds=0.5)
    pad = RATE_HZ // 2
    assert not seen[0].samples[:pad].any()
    assert np.array_equal(seen[0].samples[pad : pad + 2 * RATE_HZ + pad], audio.samples[: 2 * RATE_HZ + pad])
    assert np.array_equal(seen[1].samples[:pad], audio.samples[2 * RATE_HZ - pad : 2 * RATE_HZ])
    assert not seen[1].samples[pad + 2 * RATE_HZ :].any()


def test_joins_of_a_voice_with_its_own_phase_do_not_click() -> None:
    """Each chunk is converted to another constant: the automatic cross-fade must ramp between them."""
    counter = itertools.count()
    result = convert(
        Audio(noise(9), RATE_HZ),
        lambda chunk: np.full(len(chunk.samples), next(counter) / 10, np.float32),
        max_chunk_s=2,
    )
    assert next(counter) > 4
    assert np.abs(np.diff(result.samples)).max() < 0.01


@pytest.mark.parametrize(
    "n_samples, length, overlap, even", [(100, 30, 7, True), (100, 30, 7, False), (5, 30, 7, True)]
)
def test_forced_cuts_cover_everything_with_the_wanted_overlap(n_samples, length, overlap, even) -> None:
    spans = cut_evenly(n_samples, length, overlap, even=even)
    assert spans[0][0] == 0 and spans[-1][1] == n_samples
    for (_, end), (start, _) in itertools.pairwise(spans):
        assert start == end - overlap
    assert max(b - a for a, b in spans) <= length + overlap


def test_a_voice_that_returns_too_little_is_an_error_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="returned 100 samples"):
        convert(Audio(noise(1), RATE_HZ), lambda chunk: np.zeros(100, np.float32))


# ------------------------------------------------------------------------------------- silence, loudness


def test_silence_stays_silence_and_is_not_converted() -> None:
    def loud(chunk: Chunk) -> np.ndarray:
        return np.ones(len(chunk.samples), np.float32)

    assert not convert(Audio(np.zeros(3 * RATE_HZ, np.float32), RATE_HZ), loud).samples.any()
    result = convert(song(), loud).samples
    middle = slice(round(19 * RATE_HZ), round(19.6 * RATE_HZ))  # more than 5 s from sound on both sides
    assert not result[middle].any()
    assert result[: 6 * RATE_HZ].all()


def test_a_threshold_above_the_whole_recording_warns() -> None:
    with pytest.warns(UserWarning, match=r"louder than -10 dB.*slice_db \(-sd\)"):
        convert(Audio(noise(8, level=0.01), RATE_HZ), slice_db=-10)


def test_loudness_ratio_0_gives_the_loudness_of_the_source() -> None:
    audio = Audio(np.concatenate([noise(3, level=0.02), noise(3, level=0.2)]), RATE_HZ)

    def even(chunk: Chunk) -> np.ndarray:
        return noise(len(chunk.samples) / RATE_HZ, level=0.1)[: len(chunk.samples)]

    followed = convert(audio, even, loudness_envelope_ratio=0.0, slice_db=-60.0).samples
    kept = convert(audio, even, slice_db=-60.0).samples
    ratio = [np.std(x[-2 * RATE_HZ :]) / np.std(x[: 2 * RATE_HZ]) for x in (followed, kept)]
    assert ratio[0] == pytest.approx(10, rel=0.15) and ratio[1] == pytest.approx(1, rel=0.05)


# ------------------------------------------------------------------------------------------ like_original


def test_like_original_rounds_to_16_bits_clips_and_drops_the_last_part_of_a_frame() -> None:
    audio = Audio(np.array([0.3, 1.5, -2.0] * 1000 + [0.25], np.float32), RATE_HZ)

    def whole_frames(chunk: Chunk) -> np.ndarray:
        return chunk.samples[: len(chunk.samples) // HOP * HOP]

    result = convert(audio, whole_frames, like_original=True, pad_seconds=0.0625)
    assert result.n_samples == 3001
    missing = (3001 + 1000) % HOP
    left = missing // 2  # a short result is centered between zeros, so it is late by half of what is missing
    assert not result.samples[:left].any()
    assert result.samples[left] == pytest.approx(0.3, abs=1 / 32768) and result.samples[left] != np.float32(
        0.3
    )
    assert result.samples.max() <= 1.0


def test_like_original_counts_output_by_rounding_every_slice_up() -> None:
    audio = Audio(noise(1.0, 7001), 7000)
    assert convert(audio, like_original=True).n_samples == 8002  # 7001 * 8 / 7 = 8001.1


@pytest.mark.parametrize("length, left, right", [(8, 1, 2), (9, 2, 2), (5, 0, 0), (3, 0, 0)])
def test_centered_padding_puts_the_odd_zero_right(length: int, left: int, right: int) -> None:
    samples = np.arange(1, 6)
    assert pad_centered(samples, length).tolist() == [0] * left + samples.tolist() + [0] * right


# ----------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "choices, message",
    [
        ({"transpose_semitones": 99}, r"transpose_semitones \(-t\) is 99: expected from -36 to 36"),
        ({"crossfade_keep_ratio": 0}, r"crossfade_keep_ratio \(-lgr\) is 0: expected above 0 to 1"),
        ({"cluster_ratio": -0.1}, r"\(-cr\) is -0.1: expected from 0 to 1"),
        ({"f0_method": "yin"}, r"\(-f0p\) is 'yin': expected .*'fcpe'.*'pm'"),
        ({"slice_db": "quiet"}, r"\(-sd\) is 'quiet': expected a valid number"),
        ({"noise_scale": float("nan")}, r"\(-ns\) is nan: expected a finite number"),
        ({"audio_format": "aiff"}, r"\(-wf\) is 'aiff'.*'flac'"),
        (
            {"clip_seconds": 1.0, "crossfade_seconds": 0.8},
            r"\(-lg\) is 0.8: at most half of clip_seconds \(-cl\) 1",
        ),
        ({"clip_seconds": 0.01}, r"\(-cl\) is 0.01: 0 \(off\) or at least 0.1"),
        ({"crossfade_seconds": 20.0}, r"at most half of max_chunk_s"),
        ({"transpose": 3}, "transpose is none of ConversionSettings: known are speaker, transpose_semitones"),
    ],
)
def test_a_wrong_setting_is_one_line_with_its_flag(choices: dict, message: str) -> None:
    with pytest.raises(SvcError, match=message) as caught:
        ConversionSettings(**choices)
    assert "\n" not in str(caught.value)


def test_every_setting_is_an_option_with_a_flag_of_its_own() -> None:
    options = options_of(ConversionSettings)
    assert list(options) == list(ConversionSettings.model_fields)
    flags = [flag for option in options.values() for flag in (*option.flags, *option.aliases)]
    assert len(flags) == len(set(flags))


# -------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "choices, version, expected",
    [
        ({}, "4.1", "song.wav_0key_ada_sovits_pm.flac"),
        ({"transpose_semitones": 12, "cluster_ratio": 0.5}, "4.1", "song.wav_12key_ada_0.5_sovits_pm.flac"),
        ({"transpose_semitones": -1.5, "audio_format": "wav"}, "4.1", "song.wav_-1.5key_ada_sovits_pm.wav"),
        ({"auto_predict_f0": True}, "4.1", "song.wav_auto_ada_sovits_pm.flac"),
        ({"transpose_semitones": 3, "cluster_ratio": 0.5}, "4.0", "song.wav_3key_ada_0.5.flac"),
    ],
)
def test_results_are_named_as_in_the_original(choices: dict, version: str, expected: str) -> None:
    settings = ConversionSettings(speaker="ada", f0_method="pm", **choices)
    assert output_name("song.wav", settings, version=version) == expected


def test_a_name_never_leaves_the_folder() -> None:
    name = output_name("song.wav", ConversionSettings(), speaker="../AC\\DC", f0_method="fcpe")
    assert name == "song.wav_0key_..-AC-DC_sovits_fcpe.flac"


def test_two_sources_with_one_name_do_not_overwrite_each_other() -> None:
    assert distinct_names(["x.flac", "y.flac", "X.flac", "x.flac"]) == [
        "x.flac",
        "y.flac",
        "X_2.flac",
        "x_3.flac",
    ]
    assert distinct_names(["x.flac", "x.flac", "x_2.flac"]) == ["x.flac", "x_3.flac", "x_2.flac"]


# --------------------------------------------------------------------------------------------------- sung


def f0_contour(*, vibrato_semitones: float, slide_semitones: float) -> F0Track:
    """Eight notes of half a second; each slides by `slide_semitones` while it sounds."""
    time_s = np.arange(0, 4, 0.0116)
    note = (time_s // 0.5) % 4 * 2
    slide = slide_semitones * (time_s % 0.5) / 0.5
    semitones = note + slide + vibrato_semitones * np.sin(2 * np.pi * 5.5 * time_s)
    f0_hz = 220 * 2 ** (semitones / 12)
    return F0Track(np.where(time_s % 0.5 < 0.42, f0_hz, 0), 0.0116)


def test_held_notes_with_vibrato_look_sung_and_slides_do_not() -> None:
    assert looks_sung(f0_contour(vibrato_semitones=0.4, slide_semitones=0.0))
    assert not looks_sung(f0_contour(vibrato_semitones=0.0, slide_semitones=7.0))
    assert not looks_sung(F0Track(np.full(400, 50.0), 0.0116)), "mains hum is not a song"
    assert sung_score(F0Track(np.zeros(0), 0.0116)) == 0.0


def test_real_singing_looks_sung_and_real_speech_does_not(voices_folder: Path, project: Path) -> None:
    pytest.importorskip("pyworld")
    sung = [
        path
        for path in (voices_folder / "singing/vocadito_10.flac", project / "data/demo/song/melody.flac")
        if path.is_file()
    ]
    spoken = [
        path
        for folder in ("ljspeech", "raw/ada", "raw/bruno")
        for path in sorted((voices_folder / folder).glob("*1.flac"))
    ]
    estimate = PitchEstimator("dio", sample_rate_hz=16000, hop_samples=186)
    for path in sung + spoken[:4]:
        audio = read_audio(path)
        track = estimate(
            resample_samples(audio.samples[: 8 * audio.sample_rate_hz], audio.sample_rate_hz, 16000)
        )
        assert looks_sung(track) == (path in sung), f"{path.name}: {sung_score(track):.2f}"


def test_cuts_at_silence_are_cross_faded_and_runs_fade_into_silence() -> None:
    """With another constant for each chunk every join is visible."""
    levels = iter((0.2, 0.6, 0.4, 0.8, 0.5, 0.7))

    def constant(chunk: Chunk) -> np.ndarray:
        return np.full(len(chunk.samples), next(levels), np.float32)

    loud, pause, silence = noise(6), np.zeros(RATE_HZ // 2, np.float32), np.zeros(12 * RATE_HZ, np.float32)
    audio = Audio(np.concatenate([loud, pause, loud, silence, loud]), RATE_HZ)
    result = convert(audio, constant)
    steps = np.abs(np.diff(result.samples))
    assert result.n_samples == audio.n_samples
    assert {0.2, 0.6, 0.4} <= set(np.round(result.samples.astype(float), 3).tolist()), "expected three chunks"
    assert steps.max() < 0.02
