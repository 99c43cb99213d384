"""Perceptual-loss networks of the base model's training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.make_base_voice import choose_perceptual_network
from pretrain.moonshine_features import ROTATED, PerceptualNetworks, _rotated
from svcnb import SvcError
from svcnb.training.perceptual import EncoderFeatures


def test_without_moonshine_the_default_of_the_training_is_used() -> None:
    assert choose_perceptual_network(None, 22050) is None


def test_the_error_for_a_folder_without_moonshine_names_the_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SvcError, match="encoder_model.onnx"):
        choose_perceptual_network(tmp_path, 22050)


def test_distances_of_several_networks_are_summed() -> None:
    own = EncoderFeatures.bundled(sample_rate_hz=22050)
    ours, theirs = torch.randn(2, 1, 1, 8000, generator=torch.Generator().manual_seed(0)) * 0.1
    once, twice = (
        network.encode_target(theirs).distance(ours) for network in (own, PerceptualNetworks(own, own))
    )
    torch.testing.assert_close(twice, 2 * once)


def test_rotary_attention_depends_on_relative_positions_only() -> None:
    frequencies = torch.logspace(0, -4, ROTATED // 2)
    angles = torch.arange(9)[:, None] * frequencies
    cos, sin = (turn.repeat_interleave(2, 1) for turn in (angles.cos(), angles.sin()))
    q, k = torch.randn(2, 1, 1, 1, 36, generator=torch.Generator().manual_seed(0)).expand(2, 1, 1, 9, 36)
    scores = (_rotated(q, cos, sin) @ _rotated(k, cos, sin).transpose(2, 3))[0, 0]
    torch.testing.assert_close(scores[2, 5], scores[4, 7])
    assert abs(scores[2, 5] - scores[2, 6]) > 1e-3
