"""What the bundled encoder hears differently, as a voice's training asks it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from svcnb.models import sovits
from svcnb.models.sovits.step import StepParts
from svcnb.training.perceptual import Hearing, resampled

RATE_HZ = 22050


@pytest.fixture(scope="module")
def hearing() -> Hearing:
    return Hearing.bundled(sample_rate_hz=RATE_HZ)


def segment(seed: int, *, f0_hz: float = 180.0, seconds: float = 0.75) -> Tensor:
    """A hummed tone with a burst of noise in it, [1, 1, T]; another seed, another burst at another place."""
    rng = np.random.default_rng(seed)
    phase = 2 * np.pi * f0_hz * np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    samples = sum(np.sin(k * phase) / k for k in range(1, 12)) * 0.05
    start = int(rng.integers(2000, len(samples) - 4000))
    samples[start : start + 1500] = 0.2 * rng.standard_normal(1500)
    return torch.from_numpy(samples.astype(np.float32))[None, None]


def test_a_sound_is_not_heard_differently_from_itself(hearing: Hearing) -> None:
    sound = segment(0)
    assert float(hearing.remember(sound).distance(sound)) == 0


def test_another_consonant_is_heard_more_than_another_pitch(hearing: Hearing) -> None:
    heard = hearing.remember(segment(0))
    assert float(heard.distance(segment(0, f0_hz=190.0))) < 0.7 * float(heard.distance(segment(1)))


def test_the_distance_leads_back_to_the_sound_and_leaves_the_listener_alone(hearing: Hearing) -> None:
    sound = segment(1).requires_grad_()
    hearing.remember(segment(0)).distance(sound).backward()
    assert sound.grad is not None and bool(torch.isfinite(sound.grad).all()) and float(sound.grad.abs().sum()) > 0
    assert all(p.grad is None and not p.requires_grad for p in hearing.parameters())


def test_following_the_gradient_makes_a_sound_be_heard_more_alike(hearing: Hearing) -> None:
    heard, sound = hearing.remember(segment(0)), segment(1).requires_grad_()
    before = heard.distance(sound)
    before.backward()
    after = heard.distance(sound.detach() - 0.001 * sound.grad / sound.grad.abs().max())
    assert after.item() < before.item()


@pytest.mark.parametrize("rate_hz", [22050, 32000, 44100])
def test_segments_are_heard_at_16_khz_with_their_pitch_and_level(rate_hz: int) -> None:
    n = rate_hz // 2
    heard = resampled(torch.sin(2 * torch.pi * 1000 * torch.arange(n) / rate_hz)[None], rate_hz)[0]
    expected = torch.sin(2 * torch.pi * 1000 * torch.arange(len(heard)) / 16000)
    assert len(heard) == 8000 and float((heard - expected).abs().max()) < 0.01


def test_only_configs_that_ask_for_it_listen() -> None:
    assert StepParts(sovits.Config.full()).listener is None
    assert StepParts(sovits.Config.small()).listener is not None
