"""Perturbed content: aligned to the recording's frames, and of a different voice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb.audio.audio import read_audio
from svcnb.conversion.self_conversion import LARGEST_RATIO, PerturbedEncoder, draw_ratio
from svcnb.features.content.encoders import load_encoder
from svcnb.models.sovits import load_voice
from tests.places import DEMO_VOICES
from tests.toys.small_voice import save_small_voice

RATE_HZ = 16000


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    recording = sorted(DEMO_VOICES.rglob("*.flac"))[0]
    return read_audio(recording, sample_rate_hz=RATE_HZ).samples[: 4 * RATE_HZ]


class CenterOfFrames:
    """Content that encodes the frame's position in the recording: the mean of |samples| around it."""

    name, width, hop_samples, network = "centres", 1, 320, None

    def for_recording(self, *clips: np.ndarray) -> CenterOfFrames:
        return self

    def encode(self, samples: np.ndarray) -> torch.Tensor:
        n = max(1, len(samples) // self.hop_samples)
        return torch.from_numpy(np.abs(samples[: n * self.hop_samples]).reshape(n, -1).mean(1, keepdims=True))


@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.2])
def test_perturbed_content_is_aligned_to_the_recordings_frames(ratio: float) -> None:
    ramp = (np.sin(0.5 * np.arange(3 * RATE_HZ + 100)) * np.linspace(0, 1, 3 * RATE_HZ + 100)).astype(
        np.float32
    )
    plain = CenterOfFrames().encode(ramp)
    perturbed = PerturbedEncoder(CenterOfFrames(), ratio).for_recording(ramp).encode(ramp)
    assert perturbed.shape == plain.shape
    torch.testing.assert_close(perturbed[2:-2], plain[2:-2], atol=0.012, rtol=0)


def test_a_short_sound_has_one_frame() -> None:
    assert PerturbedEncoder(CenterOfFrames(), 1.2).encode(np.zeros(200, np.float32)).shape == (1, 1)


def test_a_perturbation_changes_content_less_than_another_sound_does(samples: np.ndarray) -> None:
    encoder = load_encoder("svcnb-units")
    plain = encoder.for_recording(samples).encode(samples)
    apart = [
        (PerturbedEncoder(encoder, ratio).for_recording(samples).encode(samples) - plain)
        .square()
        .mean()
        .item()
        for ratio in (1.0, 1.1, 1 / 1.1, LARGEST_RATIO)
    ]
    another = (plain.roll(len(plain) // 2, 0) - plain).square().mean().item()
    assert apart[0] == pytest.approx(0, abs=1e-6)
    assert 0.01 < min(apart[1:3]) and max(apart[1:3]) < apart[3] < 0.8 * another, (apart, another)


def test_with_encoder_changes_a_copy_of_the_voice_only(tmp_path: Path) -> None:
    voice = load_voice(save_small_voice(tmp_path))
    encoder = voice.encoder
    perturbed = voice.with_encoder(PerturbedEncoder(encoder, 1.1))
    assert voice.encoder is encoder and perturbed.encoder.ratio == 1.1
    assert perturbed.generator is voice.generator and perturbed.name == voice.name


def test_ratios_are_log_uniform_around_one() -> None:
    rng = np.random.default_rng(1)
    logs = np.log([draw_ratio(rng) for _ in range(2000)]) / np.log(LARGEST_RATIO)
    assert (
        abs(logs.mean()) < 0.05 and logs.min() > -1 and logs.max() < 1 and 0.45 < np.abs(logs).mean() < 0.55
    )
