"""The bundled learned encoder: frame grid, band normalization, file format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb.features.content.bundled import (
    ContentNetwork,
    ContentNetworkSettings,
    LearnedUnits,
    load_network,
    mel_filters,
    save_network,
)
from svcnb.features.content.encoders import load_encoder
from svcnb.files.pretrained_table import BUNDLED_FOLDER
from svcnb.files.unpickling import CheckpointError
from tests.unit.features.content.test_encoders import RATE_HZ, voice_like

SMALL = ContentNetworkSettings(n_bands=20, channels=16, n_blocks=2, kernel_size=5, n_content=6)


@pytest.fixture(scope="module")
def bundled() -> LearnedUnits:
    return load_encoder("svcnb-units", folder=BUNDLED_FOLDER)


@pytest.fixture(scope="module")
def small() -> LearnedUnits:
    torch.manual_seed(0)
    return LearnedUnits(ContentNetwork(SMALL))


def test_the_file_is_found_from_any_folder_and_is_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    encoder = load_encoder("svcnb-units")
    assert (encoder.name, encoder.hop_samples) == ("svcnb-units", 320)
    assert (BUNDLED_FOLDER / "svcnb_units.safetensors").stat().st_size < 12_000_000


def test_frames_are_as_many_as_hops_but_one_and_the_same_each_time(bundled) -> None:
    for n_samples in (1, 319, 641, 2 * RATE_HZ + 100):
        samples = voice_like(n_samples)
        content = bundled.encode(samples)
        assert len(content) == max(1, n_samples // 320)
        assert (content.shape[1], content.dtype) == (bundled.width, torch.float32)
        assert torch.equal(content, bundled.encode(torch.from_numpy(samples)))


def test_a_frame_describes_its_own_20_ms(bundled) -> None:
    """A change in the middle of a recording appears in the frame where it happens."""
    samples = voice_like(2 * RATE_HZ)
    change = bundled.network.bands.power(
        torch.from_numpy(np.where(np.arange(2 * RATE_HZ) < RATE_HZ, samples, 0))[None]
    )
    not_silent = change.sum(2)[0] > 1e-7
    assert not_silent[:100].all()
    assert not not_silent[102:].any()  # 100 frames of 10 ms, and one window that overlaps the change


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(RATE_HZ, np.float32),
        np.full(RATE_HZ, 0.5, np.float32),
        np.zeros(1, np.float32),
        voice_like(RATE_HZ, level=1e-6),
        np.concatenate([np.zeros(RATE_HZ, np.float32), voice_like(RATE_HZ)]),
        np.sin(2 * np.pi * 880 * np.arange(RATE_HZ) / RATE_HZ).astype(np.float32),
    ],
    ids=["digital silence", "constant", "one sample", "almost silent", "half silent", "pure tone"],
)
def test_content_is_finite_and_of_unit_variance_for_any_input(bundled, samples: np.ndarray) -> None:
    for encoder in (bundled, bundled.for_recording(samples)):
        content = encoder.encode(samples)
        assert torch.isfinite(content).all()
        torch.testing.assert_close(
            content.var(1, unbiased=False), torch.ones(len(content)), atol=0.01, rtol=0
        )


def test_content_does_not_depend_on_the_level(bundled) -> None:
    samples = voice_like(2 * RATE_HZ)
    torch.testing.assert_close(bundled.encode(samples), bundled.encode(samples * 0.05), atol=1e-3, rtol=0)


def test_a_bound_encoder_uses_the_whole_recordings_statistics_for_each_chunk(bundled) -> None:
    samples = voice_like(6 * RATE_HZ)
    bound = bundled.for_recording(samples[: 3 * RATE_HZ], samples[3 * RATE_HZ :])
    n = bundled.network.context_frames + 1
    whole, chunk = bound.encode(samples), bound.encode(samples[RATE_HZ : 5 * RATE_HZ])
    torch.testing.assert_close(chunk[n:-n], whole[50 + n : 250 - n], atol=1e-4, rtol=0)
    assert bundled.statistics is None


def test_long_recordings_are_encoded_in_blocks_without_a_seam(small, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = voice_like(3 * RATE_HZ)
    whole = small.encode(samples)
    monkeypatch.setattr("svcnb.features.content.bundled.READ_FRAMES", 17)
    torch.testing.assert_close(small.encode(samples), whole, atol=1e-5, rtol=0)


def test_other_shapes_than_a_waveform_are_refused(small) -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 5\), expected \[T\]"):
        small.encode(np.zeros((2, 5), np.float32))


def test_the_file_keeps_settings_and_weights_and_other_files_are_refused(tmp_path: Path, small) -> None:
    path = save_network(small.network, tmp_path / "units.safetensors", metadata={"data": "a test"})
    again = LearnedUnits(load_network(path))
    assert again.network.settings == SMALL
    samples = voice_like(RATE_HZ)
    torch.testing.assert_close(
        again.encode(samples), small.encode(samples), atol=0.02, rtol=0
    )  # half precision
    with pytest.raises(CheckpointError, match="is no svcnb-units file"):
        load_network(BUNDLED_FOLDER / "base_voice.safetensors")


def test_a_warp_moves_the_bands_and_keeps_half_the_sample_rate_in_place() -> None:
    plain, up = mel_filters(SMALL), mel_filters(SMALL, 1.2)
    hz = torch.linspace(0, 8000, 257)
    middle = [(filters * hz).sum(1) / filters.sum(1) for filters in (plain, up)]
    # the bands respond to frequencies 1.2 times lower
    torch.testing.assert_close(middle[1][:12] * 1.2, middle[0][:12], rtol=0.02, atol=0)
    # above 6 kHz (5 kHz before the warp) 3 kHz are mapped to 2 kHz
    torch.testing.assert_close(middle[1][-1], 5000 + 1.5 * (middle[0][-1] - 6000), rtol=0.02, atol=0)
