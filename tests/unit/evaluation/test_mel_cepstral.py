"""Mel-cepstral distance: known pairs have known distances; silence and level are ignored."""

from __future__ import annotations

import numpy as np
import pytest

from svcnb import SvcError
from svcnb.audio.audio import Audio, resample
from svcnb.evaluation.mel_cepstral import HOP_S, distance_over_time, mel_cepstra, mel_cepstral_distance

RATE_HZ = 16000
VOWELS = ((700, 1200), (300, 2300), (350, 800), (500, 1700))  # first and second formant in Hz


def vowel(formants_hz: tuple[float, float], seconds: float, f0_hz: float = 120.0) -> np.ndarray:
    """Harmonics under a spectrum with two peaks."""
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    harmonics = f0_hz * np.arange(1, int(7500 / f0_hz))
    gains = sum(1 / (1 + ((harmonics - hz) / 120) ** 2) for hz in formants_hz) + 1e-3
    return 0.1 * (gains[:, None] * np.sin(2 * np.pi * harmonics[:, None] * time_s)).sum(axis=0)


def spoken(seconds_per_vowel: float, *, f0_hz: float = 120.0) -> Audio:
    return Audio(np.concatenate([vowel(formants, seconds_per_vowel, f0_hz) for formants in VOWELS]), RATE_HZ)


def test_a_recording_is_0_db_from_itself_with_and_without_alignment() -> None:
    audio = spoken(0.3)
    assert mel_cepstral_distance(audio, audio, align=False).mean_db == 0
    assert mel_cepstral_distance(audio, audio).mean_db == pytest.approx(0, abs=1e-9)


def test_slower_speech_is_close_when_aligned_and_far_frame_by_frame() -> None:
    quick, slow = spoken(0.3), spoken(0.45)
    cut = Audio(slow.samples[: quick.n_samples], RATE_HZ)
    assert mel_cepstral_distance(quick, slow).mean_db < 1
    assert mel_cepstral_distance(quick, cut, align=False).mean_db > 5


def test_the_distance_is_that_of_kubichek() -> None:
    first, second = Audio(vowel(VOWELS[0], 1.0), RATE_HZ), Audio(vowel(VOWELS[1], 1.0), RATE_HZ)
    a, b = mel_cepstra(first).coefficients, mel_cepstra(second).coefficients
    by_hand = np.mean([10 / np.log(10) * np.sqrt(2 * sum((x - y) ** 2)) for x, y in zip(a, b, strict=True)])
    found = mel_cepstral_distance(first, second, align=False)
    assert found.mean_db == pytest.approx(by_hand) and found.mean_db > 5
    assert (found.n_coefficients, found.n_frames, found.aligned) == (13, len(a), False)


def test_all_coefficients_together_are_the_rms_difference_of_the_mel_spectra_in_db() -> None:
    rng = np.random.default_rng(0)
    noise = Audio(0.1 * rng.standard_normal(RATE_HZ), RATE_HZ)
    tilted = Audio(np.convolve(noise.samples, [1, 0.7], "same"), RATE_HZ)
    found = mel_cepstral_distance(noise, tilted, align=False, n_coefficients=39).mean_db
    gain_db = 20 * np.log10(np.abs(1 + 0.7 * np.exp(-1j * np.pi * np.linspace(0, 1, 513))))
    from librosa.filters import mel

    bands = mel(sr=RATE_HZ, n_fft=1024, n_mels=40, norm=None)
    per_band_db = bands @ gain_db / bands.sum(axis=1)
    assert found == pytest.approx(np.std(per_band_db), rel=0.15)


def test_level_and_sample_rate_are_ignored() -> None:
    audio = spoken(0.4)
    assert mel_cepstral_distance(audio, Audio(audio.samples * 0.1, RATE_HZ), align=False).mean_db < 1e-3
    assert mel_cepstral_distance(audio, resample(audio, 44100), align=False).mean_db < 0.3


def test_f0_alone_counts_little_with_13_coefficients_and_much_with_24() -> None:
    low, high = spoken(0.4, f0_hz=120), spoken(0.4, f0_hz=240)
    few, many = (mel_cepstral_distance(low, high, n_coefficients=n).mean_db for n in (13, 24))
    other_vowels = mel_cepstral_distance(
        Audio(vowel(VOWELS[0], 1), RATE_HZ), Audio(vowel(VOWELS[1], 1), RATE_HZ)
    ).mean_db
    assert few < 0.75 * many and few < other_vowels


def test_silence_is_ignored() -> None:
    audio = spoken(0.3)
    pause = np.zeros(RATE_HZ, np.float32)
    paused = Audio(np.concatenate([pause, audio.samples, pause]), RATE_HZ)
    rng = np.random.default_rng(1)
    noisy = Audio(paused.samples + 1e-4 * rng.standard_normal(paused.n_samples), RATE_HZ)
    assert mel_cepstral_distance(audio, paused).mean_db < 0.5
    assert mel_cepstral_distance(paused, noisy, align=False).mean_db < 1
    times_s, distance_db = distance_over_time(paused, noisy)
    assert np.isnan(distance_db[: round(0.9 / HOP_S)]).all() and np.isfinite(
        distance_db[times_s.searchsorted(1.1)]
    )


def test_lost_sound_counts() -> None:
    audio = spoken(0.3)
    half = audio.samples.copy()
    half[len(half) // 2 :] = 0
    assert mel_cepstral_distance(audio, Audio(half, RATE_HZ), align=False).mean_db > 4


@pytest.mark.parametrize(("samples", "message"), [(np.zeros(RATE_HZ), "silent"), (np.ones(100), "too short")])
def test_recordings_without_a_spectrum_are_refused(samples: np.ndarray, message: str) -> None:
    with pytest.raises(SvcError, match=message):
        mel_cepstral_distance(Audio(samples, RATE_HZ), spoken(0.2))


def test_different_lengths_are_refused_without_alignment() -> None:
    with pytest.raises(SvcError, match="1.20 and 2.00 s.*align=True"):
        mel_cepstral_distance(spoken(0.3), spoken(0.5), align=False)
    with pytest.raises(ValueError, match="expected 1 to 39"):
        mel_cepstra(spoken(0.3), n_coefficients=40)


def test_alignment_of_long_recordings_stops_after_half_a_minute() -> None:
    audio = Audio(np.tile(spoken(0.5).samples, 20), RATE_HZ)
    assert audio.duration_s == 40
    assert mel_cepstral_distance(audio, audio).n_frames <= 30 / HOP_S + 1
