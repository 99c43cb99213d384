"""The perceptual loss on the bundled content encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from svcnb.models import sovits
from svcnb.models.sovits.step import StepParts
from svcnb.training.perceptual import EncoderFeatures, resampled

RATE_HZ = 22050


@pytest.fixture(scope="module")
def loss_network() -> EncoderFeatures:
    return EncoderFeatures.bundled(sample_rate_hz=RATE_HZ)


def segment(seed: int, *, f0_hz: float = 180.0, seconds: float = 0.75) -> Tensor:
    """A hummed tone with a noise burst, [1, 1, T]; the seed chooses burst and time."""
    rng = np.random.default_rng(seed)
    phase = 2 * np.pi * f0_hz * np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    samples = sum(np.sin(k * phase) / k for k in range(1, 12)) * 0.05
    start = int(rng.integers(2000, len(samples) - 4000))
    samples[start : start + 1500] = 0.2 * rng.standard_normal(1500)
    return torch.from_numpy(samples.astype(np.float32))[None, None]


def test_a_sound_has_distance_0_to_itself(loss_network: EncoderFeatures) -> None:
    sound = segment(0)
    assert float(loss_network.encode_target(sound).distance(sound)) == 0


def test_another_consonant_is_farther_away_than_another_pitch(loss_network: EncoderFeatures) -> None:
    target = loss_network.encode_target(segment(0))
    assert float(target.distance(segment(0, f0_hz=190.0))) < 0.7 * float(target.distance(segment(1)))


def test_the_gradient_reaches_the_sound_and_not_the_frozen_network(loss_network: EncoderFeatures) -> None:
    sound = segment(1).requires_grad_()
    loss_network.encode_target(segment(0)).distance(sound).backward()
    assert (
        sound.grad is not None
        and bool(torch.isfinite(sound.grad).all())
        and float(sound.grad.abs().sum()) > 0
    )
    assert all(p.grad is None and not p.requires_grad for p in loss_network.parameters())


def test_a_gradient_step_reduces_the_distance(loss_network: EncoderFeatures) -> None:
    target, sound = loss_network.encode_target(segment(0)), segment(1).requires_grad_()
    before = target.distance(sound)
    before.backward()
    after = target.distance(sound.detach() - 0.001 * sound.grad / sound.grad.abs().max())
    assert after.item() < before.item()


@pytest.mark.parametrize("rate_hz", [22050, 32000, 44100])
def test_resampling_to_16_khz_keeps_pitch_and_level(rate_hz: int) -> None:
    n = rate_hz // 2
    found = resampled(torch.sin(2 * torch.pi * 1000 * torch.arange(n) / rate_hz)[None], rate_hz)[0]
    expected = torch.sin(2 * torch.pi * 1000 * torch.arange(len(found)) / 16000)
    assert len(found) == 8000 and float((found - expected).abs().max()) < 0.01


def test_only_configs_that_ask_for_it_have_a_perceptual_loss() -> None:
    assert StepParts(sovits.Config.full()).perceptual_loss is None
    assert StepParts(sovits.Config.small()).perceptual_loss is not None
