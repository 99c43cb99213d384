"""Promises of the loudness augmentation: audio and volume change alike, and it repeats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb.audio.audio import read_audio
from svcnb.audio.loudness import volume_envelope
from svcnb.data.augmentation import change_loudness, vary_loudness
from svcnb.data.dataset import Item

RATE_HZ, HOP, N_FRAMES = 22050, 256, 258


@pytest.fixture(scope="module")
def spoken(recording: Path) -> Item:
    """Three seconds of a real recording."""
    samples = read_audio(recording, sample_rate_hz=RATE_HZ).samples[: N_FRAMES * HOP]
    audio = torch.from_numpy(np.ascontiguousarray(samples))
    f0_hz, voiced = torch.full((N_FRAMES,), 150.0), torch.ones(N_FRAMES)
    return Item("me/a", 0, torch.zeros(4, N_FRAMES), f0_hz, voiced, audio, volume=volume_envelope(audio, HOP))


def test_loudness_changes_audio_and_volume_alike_and_never_clips(spoken: Item) -> None:
    factors = []
    for seed in range(40):
        changed = change_loudness(spoken, np.random.default_rng(seed))
        factors.append(float(changed.audio.abs().max() / spoken.audio.abs().max()))
        torch.testing.assert_close(changed.volume, spoken.volume * factors[-1], rtol=1e-4, atol=1e-7)
        assert changed.audio.abs().max() <= 1.0
    loudest = min(10.0, 1 / float(spoken.audio.abs().max()))
    assert 0.1 <= min(factors) < 0.2 and max(factors) <= loudest * 1.001 and max(factors) > 0.5 * loudest


def test_the_same_generator_gives_the_same_loudness_and_half_of_the_clips_keep_theirs(spoken: Item) -> None:
    kept = 0
    for seed in range(20):
        one, two = (vary_loudness(spoken, np.random.default_rng(seed)) for _ in range(2))
        assert torch.equal(one.audio, two.audio) and torch.equal(one.volume, two.volume)
        kept += torch.equal(one.audio, spoken.audio)
    assert 4 <= kept <= 16


def test_loudness_is_left_alone_where_the_voice_does_not_know_it(spoken: Item) -> None:
    deaf = replace(spoken, volume=None)
    assert all(vary_loudness(deaf, np.random.default_rng(seed)) is deaf for seed in range(10))
