"""Promises of the variations of training clips: they stay what they say, and they repeat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb.audio.audio import read_audio
from svcnb.audio.loudness import volume_envelope
from svcnb.data.augmentation import Augmentation, change_loudness, shift_key
from svcnb.data.dataset import Item
from svcnb.features.pitch.estimator import PitchEstimator

RATE_HZ, HOP = 22050, 256
GRID = {"sample_rate_hz": RATE_HZ, "hop_samples": HOP}


@pytest.fixture(scope="module")
def estimate() -> PitchEstimator:
    return PitchEstimator("fcpe", **GRID)


@pytest.fixture(scope="module")
def spoken(recording: Path, estimate: PitchEstimator) -> Item:
    """Three seconds of a real recording."""
    samples = read_audio(recording, sample_rate_hz=RATE_HZ).samples[: 258 * HOP]
    track = estimate(samples)
    audio = torch.from_numpy(np.ascontiguousarray(samples))
    return Item(
        name="me/a",
        speaker=0,
        content=torch.arange(258.0).repeat(4, 1),  # the number of the frame, so that its way can be followed
        f0_hz=torch.as_tensor(track.interpolated()[:258], dtype=torch.float32),
        voiced=torch.as_tensor(track.voiced[:258], dtype=torch.float32),
        audio=audio,
        volume=volume_envelope(audio, HOP),
    )


@pytest.mark.parametrize("semitones", [-4.0, -1.3, 2.0, 4.0])
def test_a_shifted_clip_has_the_f0_that_its_item_says(spoken: Item, estimate: PitchEstimator, semitones: float) -> None:
    shifted = shift_key(spoken, semitones, **GRID)
    measured = estimate(shifted.audio.numpy())
    both = measured.voiced[: shifted.n_frames] & (shifted.voiced.numpy() > 0)
    cents = 1200 * np.log2(measured.f0_hz[: shifted.n_frames][both] / shifted.f0_hz.numpy()[both])
    assert both.mean() > 0.4 and abs(np.median(cents)) < 10
    before = np.median(spoken.f0_hz[spoken.voiced > 0])
    assert 12 * np.log2(np.median(shifted.f0_hz[shifted.voiced > 0]) / before) == pytest.approx(semitones, abs=0.3)


@pytest.mark.parametrize("semitones", [-4.0, 3.7])
def test_all_parts_of_a_shifted_clip_have_its_length_and_stay_together(spoken: Item, semitones: float) -> None:
    shifted = shift_key(spoken, semitones, **GRID)
    n_frames = shifted.n_frames
    assert n_frames == pytest.approx(258 / 2 ** (semitones / 12), abs=1.01)
    assert len(shifted.audio) == n_frames * HOP and shifted.content.shape == (4, n_frames)
    assert len(shifted.voiced) == len(shifted.volume) == n_frames
    expected = np.arange(n_frames) * 2 ** (semitones / 12)
    assert np.abs(shifted.content[0].numpy() - expected).max() <= 1.0
    torch.testing.assert_close(shifted.volume, volume_envelope(shifted.audio, HOP))


def test_formants_stay_where_they_were(spoken: Item) -> None:
    """The spectral envelope of the shifted clip is nearer to the original's than that of plain resampling."""
    import soxr

    def envelope(samples: np.ndarray) -> np.ndarray:
        spectra = np.abs(np.fft.rfft(np.lib.stride_tricks.sliding_window_view(samples, 1024)[::256] * np.hanning(1024)))
        bands = np.log(np.maximum(spectra.mean(axis=0), 1e-5))[9:255]  # 200 Hz to 5.5 kHz
        return np.convolve(bands, np.ones(17) / 17, "valid")

    original = envelope(spoken.audio.numpy())
    for semitones in (-4.0, 4.0):
        plain = soxr.resample(spoken.audio.numpy(), RATE_HZ * 2 ** (semitones / 12), RATE_HZ)
        kept = np.abs(envelope(shift_key(spoken, semitones, **GRID).audio.numpy()) - original).mean()
        assert kept < 0.6 * np.abs(envelope(plain) - original).mean()


def test_no_shift_leaves_the_clip_as_it_is(spoken: Item) -> None:
    same = shift_key(spoken, 0.0, **GRID)
    torch.testing.assert_close(same.audio, spoken.audio, atol=1e-4, rtol=0)
    torch.testing.assert_close(same.f0_hz, spoken.f0_hz, atol=1e-2, rtol=0)
    assert torch.equal(same.content, spoken.content)


def test_loudness_changes_audio_and_volume_alike_and_never_clips(spoken: Item) -> None:
    factors = []
    for seed in range(40):
        changed = change_loudness(spoken, np.random.default_rng(seed))
        factors.append(float(changed.audio.abs().max() / spoken.audio.abs().max()))
        torch.testing.assert_close(changed.volume, spoken.volume * factors[-1], rtol=1e-4, atol=1e-7)
        assert changed.audio.abs().max() <= 1.0
    loudest = min(10.0, 1 / float(spoken.audio.abs().max()))
    assert 0.1 <= min(factors) < 0.2 and max(factors) <= loudest * 1.001 and max(factors) > 0.5 * loudest


def test_the_same_generator_gives_the_same_variation_and_half_of_the_clips_keep_their_key(spoken: Item) -> None:
    vary = Augmentation(**GRID, max_frames=270, key_shift_semitones=3.0, loudness=True)
    kept = 0
    for seed in range(20):
        one, two = (vary(spoken, np.random.default_rng(seed)) for _ in range(2))
        assert torch.equal(one.audio, two.audio) and torch.equal(one.f0_hz, two.f0_hz)
        assert one.n_frames <= 270
        kept += torch.equal(one.f0_hz, spoken.f0_hz)
    assert 4 <= kept <= 16


def test_loudness_is_left_alone_where_the_voice_does_not_know_it(spoken: Item) -> None:
    from dataclasses import replace

    deaf = replace(spoken, volume=None)
    vary = Augmentation(**GRID, max_frames=270, loudness=True)
    assert all(vary(deaf, np.random.default_rng(seed)) is deaf for seed in range(10))
