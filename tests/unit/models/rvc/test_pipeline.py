"""Steps of RVC's conversion: protection of unvoiced frames, smoothing of harvest's f0, high-pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from svcnb.models.rvc.pipeline import guided_content, smoothed, without_rumble


def test_unvoiced_frames_keep_their_own_content() -> None:
    content, f0_hz = torch.zeros(4, 2), np.array([100.0, 100.0, 0, 0, 100.0, 100.0, 0, 0])
    protected = guided_content(content, f0_hz, n_frames=8, blend=lambda x: x + 1, protect=0.33)
    torch.testing.assert_close(protected[:, 0], torch.tensor([1, 1, 0.33, 0.33, 1, 1, 0.33, 0.33]))
    for off in (
        guided_content(content, f0_hz, n_frames=8, blend=lambda x: x + 1, protect=0.5),
        guided_content(content, None, n_frames=8, blend=lambda x: x + 1, protect=0.33),
    ):
        assert bool((off == 1).all())


def test_a_median_smooths_harvest_only() -> None:
    jumping = np.array([100.0, 100, 200, 100, 100])
    assert smoothed(jumping, "harvest", 3)[2] == 100
    assert smoothed(jumping, "harvest", 2)[2] == smoothed(jumping, "rmvpe", 7)[2] == 200


@pytest.mark.parametrize("n_samples", [1, 20, 700, 16000])
def test_the_high_pass_keeps_the_length_and_removes_low_frequencies(n_samples: int) -> None:
    times_s = np.arange(n_samples) / 16000
    tone = 0.3 * np.sin(2 * np.pi * 220 * times_s)
    filtered = without_rumble(tone + 0.3 * np.sin(2 * np.pi * 10 * times_s) + 0.2)
    assert len(filtered) == n_samples and np.isfinite(filtered).all()
    if n_samples == 16000:
        np.testing.assert_allclose(filtered[4000:-4000], tone[4000:-4000], atol=0.01)
