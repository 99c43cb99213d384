"""Those who listen while the base voice is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.make_base_voice import choose_listener
from pretrain.moonshine_listener import ROTATED, Listeners, _turned
from svcnb import SvcError
from svcnb.training.perceptual import Hearing


def test_without_moonshine_the_training_chooses_who_listens() -> None:
    assert choose_listener(None, 22050) is None


def test_a_folder_without_moonshine_is_told_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SvcError, match="encoder_model.onnx"):
        choose_listener(tmp_path, 22050)


def test_what_several_hear_is_added_up() -> None:
    own = Hearing.bundled(sample_rate_hz=22050)
    ours, theirs = torch.randn(2, 1, 1, 8000, generator=torch.Generator().manual_seed(0)) * 0.1
    once, twice = (listener.encode_target(theirs).distance(ours) for listener in (own, Listeners(own, own)))
    torch.testing.assert_close(twice, 2 * once)


def test_attention_knows_how_far_frames_are_apart_and_not_where_they_are() -> None:
    frequencies = torch.logspace(0, -4, ROTATED // 2)
    angles = torch.arange(9)[:, None] * frequencies
    cos, sin = (turn.repeat_interleave(2, 1) for turn in (angles.cos(), angles.sin()))
    q, k = torch.randn(2, 1, 1, 1, 36, generator=torch.Generator().manual_seed(0)).expand(2, 1, 1, 9, 36)
    likeness = (_turned(q, cos, sin) @ _turned(k, cos, sin).transpose(2, 3))[0, 0]
    torch.testing.assert_close(likeness[2, 5], likeness[4, 7])
    assert abs(likeness[2, 5] - likeness[2, 6]) > 1e-3
