"""After the generator: the loudness envelope."""

from __future__ import annotations

import numpy as np
import pytest

from svcnb.audio.audio import Audio
from svcnb.audio.loudness import follow_loudness, match_loudness_envelope
from svcnb.conversion.long_audio import Chunk
from svcnb.conversion.settings import ConversionSettings
from tests.toys.splitting import convert_by

RATE_HZ, HOP = 8000, 64


def steady_voice(chunk: Chunk) -> np.ndarray:
    """Constant loudness, whatever the source; the same sound at the same time in every chunk."""
    first = round(chunk.start_s * RATE_HZ) - chunk.n_pad_samples
    return (0.1 * np.sin(np.arange(first, first + len(chunk.samples)))).astype(np.float32)


def swelling_song(seconds: float = 12.0) -> Audio:
    """A tone whose loudness rises and falls by 20 dB every six seconds."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    level = 0.1 * 10 ** (0.5 * np.sin(2 * np.pi * time / 6))
    return Audio((level * np.sin(2 * np.pi * 200 * time)).astype(np.float32), RATE_HZ)


def loudness(samples: np.ndarray, window_s: float = 0.1) -> np.ndarray:
    n = round(window_s * RATE_HZ)
    return np.sqrt(np.square(samples[: len(samples) // n * n]).reshape(-1, n).mean(axis=1))


def adjusted(audio: Audio, ratio: float, voice=steady_voice, **choices) -> np.ndarray:
    settings = ConversionSettings(loudness_envelope_ratio=ratio, **choices)
    return convert_by(audio, voice, settings, output_hz=RATE_HZ, hop_samples=HOP).samples


# ------------------------------------------------------------------------------------------------- loudness


def test_ratio_0_follows_the_source_as_closely_as_a_window_of_a_second_can() -> None:
    song = swelling_song()
    followed_db = 20 * np.log10(loudness(adjusted(song, 0.0)) / loudness(song.samples))
    inside = followed_db[10:-10]  # the windows at the ends see less of the curve
    assert np.abs(inside).max() < 1.2


def test_ratio_half_takes_half_of_the_decibels() -> None:
    song = swelling_song()
    whole, half = (
        20 * np.log10(loudness(adjusted(song, ratio)) / loudness(adjusted(song, 1.0))) for ratio in (0.0, 0.5)
    )
    np.testing.assert_allclose(half, whole / 2, atol=0.05)


def test_chunks_join_without_a_step_in_loudness() -> None:
    song = swelling_song()
    whole, chunks = adjusted(song, 0.0), adjusted(song, 0.0, max_chunk_s=2.0)
    steps_db = 20 * np.log10(loudness(chunks) / loudness(whole))
    assert np.abs(steps_db[5:-5]).max() < 0.1


def test_a_pause_of_the_source_is_silent_and_a_silent_voice_stays_silent() -> None:
    tone = swelling_song(6.0).samples
    source = tone.copy()
    source[2 * RATE_HZ : 4 * RATE_HZ] = 0
    noise = 0.1 * np.random.default_rng(0).standard_normal(len(source)).astype(np.float32)
    result = follow_loudness(source, noise, RATE_HZ, 0.0)
    assert not result[round(2.51 * RATE_HZ) : round(3.49 * RATE_HZ)].any(), "sound in the middle of the pause"
    hardly = 1e-5 * noise
    assert np.abs(follow_loudness(tone, hardly, RATE_HZ, 0.0)).max() < 0.01, "noise at -120 dB is amplified"
    assert np.abs(match_loudness_envelope(tone, RATE_HZ, hardly, RATE_HZ, 0.0)).max() > 0.1


def test_like_original_gives_the_originals_values() -> None:
    """0.1 for a second, then 0.5, against a steady output: the known values of its half-second grid."""
    source = Audio(np.repeat(np.float32([0.1, 0.5]), 44100), 44100)
    settings = ConversionSettings(
        loudness_envelope_ratio=0.0, like_original=True, pad_seconds=0.0, slice_db=-60
    )
    result = convert_by(
        source, lambda chunk: np.full(88000, 0.2, np.float32), settings, output_hz=44100, hop_samples=512
    ).samples
    start = (88200 - 88000) // 2  # a short result is centered between zeros
    found = result[start + np.array([0, 22050, 44100, 66150, 87999])]
    np.testing.assert_allclose(found, [0.1, 0.1085916, 0.3613514, 0.4626684, 0.3543578], atol=1 / 32768)


@pytest.mark.parametrize("n_samples", [1, 100, RATE_HZ // 2, 3 * RATE_HZ])
def test_any_length_can_be_adjusted(n_samples: int) -> None:
    source, output = np.full(n_samples, 0.2, np.float32), np.full(n_samples, 0.1, np.float32)
    np.testing.assert_allclose(follow_loudness(source, output, RATE_HZ, 0.0), source, rtol=1e-5)
    np.testing.assert_allclose(follow_loudness(source, output, RATE_HZ, 1.0), output, rtol=1e-6)
