"""HuBERT large (Chinese) and WavLM: small files in the real layouts against reference implementations."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from svcnb import MissingExtra, SvcError
from svcnb.features.content.dphubert import relative_buckets
from svcnb.features.content.encoders import load_encoder
from svcnb.features.content.hubert import stored_settings, wavlm_from_state
from svcnb.files.unpickling import CheckpointError, UnsafePickle
from tests.toys.encoder_files import GATED_DISTANCE, Layout, bucket_by_hand, hubert_by_hand, hubert_state
from tests.unit.features.content.test_encoders import voice_like

pytestmark = pytest.mark.filterwarnings("ignore:.*values per frame")  # the files are small ones
CHINESE, WAVLM = "chinese-hubert-large-fairseq-ckpt.pt", "WavLM-Base+.pt"
LARGE = Layout(norm_everywhere=True, conv_bias=True, pre_norm=True)
GATED = Layout(gated=True)


def save_fairseq(path: Path, layout: Layout, *, kind: str = "cfg") -> dict[str, torch.Tensor]:
    """A file as fairseq writes it, with training-only entries; returns the weights."""
    state = hubert_state(layout)
    settings = {
        "encoder_attention_heads": layout.n_heads,
        "layer_norm_first": layout.pre_norm,
        "final_dim": 5,
    }
    training = {"final_proj.weight": torch.ones(5, layout.width), "final_proj.bias": torch.ones(5)}
    training["label_embs_concat"] = torch.ones(9, 5)
    own = {"cfg": {"model": settings, "task": {"normalize": True}}, "args": None}
    if kind == "args":
        own = {"cfg": None, "args": Namespace(**settings)}
    torch.save({"model": state | training, **own, "optimizer_history": [{"num_updates": 3}]}, path)
    return state


def save_wavlm(path: Path, layout: Layout, **cfg: object) -> dict[str, torch.Tensor]:
    state = hubert_state(layout)
    settings = {
        "encoder_attention_heads": layout.n_heads,
        "layer_norm_first": layout.pre_norm,
        "normalize": False,
        "relative_position_embedding": True,
        "max_distance": GATED_DISTANCE,
    }
    torch.save({"cfg": settings | cfg, "model": state}, path)
    return state


@pytest.mark.parametrize("kind", ["cfg", "args"])
def test_hubert_large_ends_with_its_norm_and_keeps_the_waveform(tmp_path: Path, kind: str) -> None:
    state = save_fairseq(tmp_path / CHINESE, LARGE, kind=kind)
    encoder = load_encoder("cnhubertlarge", folder=tmp_path)
    samples = torch.from_numpy(voice_like(5000))
    ours = encoder.encode(samples)
    assert (encoder.width, encoder.hop_samples, ours.shape) == (32, 320, ((5000 - 400) // 320 + 1, 32))
    torch.testing.assert_close(ours, hubert_by_hand(state, samples, LARGE), atol=2e-5, rtol=0)


def test_convolutions_without_bias_or_with_one_norm_are_recognised(tmp_path: Path) -> None:
    samples = torch.from_numpy(voice_like(3000))
    for layout in (replace(LARGE, conv_bias=False), replace(LARGE, norm_everywhere=False)):
        state = save_fairseq(tmp_path / CHINESE, layout)
        ours = load_encoder("cnhubertlarge", folder=tmp_path).encode(samples)
        torch.testing.assert_close(ours, hubert_by_hand(state, samples, layout), atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "layout", [GATED, replace(GATED, norm_everywhere=True, pre_norm=True)], ids=["base", "large"]
)
def test_wavlm_agrees_with_gated_relative_positions_by_hand(tmp_path: Path, layout: Layout) -> None:
    state = save_wavlm(tmp_path / WAVLM, layout)
    encoder = load_encoder("wavlmbase+", folder=tmp_path)
    samples = torch.from_numpy(voice_like(16000))  # 49 frames: distances beyond the last bucket
    ours = encoder.encode(samples)
    assert ours.shape == ((16000 - 400) // 320 + 1, 32)
    torch.testing.assert_close(ours, hubert_by_hand(state, samples, layout), atol=2e-5, rtol=0)
    assert encoder.for_recording(samples) is encoder


def test_our_layout_has_as_many_tensors_as_wavlm_base() -> None:
    assert len(hubert_state(replace(GATED, heads=GATED.heads * 6, inner=GATED.inner * 6))) == 248


def test_wavlm_normalises_the_waveform_if_its_settings_ask_for_it(tmp_path: Path) -> None:
    state = save_wavlm(tmp_path / WAVLM, GATED, normalize=True)
    samples = torch.from_numpy(voice_like(4000)) + 0.02
    normalised = (samples - samples.mean()) / (samples.var(unbiased=False) + 1e-5).sqrt()
    ours = load_encoder("wavlmbase+", folder=tmp_path).encode(samples)
    torch.testing.assert_close(ours, hubert_by_hand(state, normalised, GATED), atol=2e-5, rtol=0)


def test_our_buckets_are_the_formulas_ones() -> None:
    distances = torch.arange(-900, 901)
    for n_buckets, largest in ((12, 20), (320, 800)):
        by_hand = [bucket_by_hand(d, n_buckets, largest) for d in distances.tolist()]
        assert relative_buckets(distances, n_buckets=n_buckets, max_distance=largest).tolist() == by_hand


def test_the_network_is_transformers_own_with_the_files_weights(tmp_path: Path) -> None:
    state = save_wavlm(tmp_path / WAVLM, GATED)
    encoder = load_encoder("wavlmbase+", folder=tmp_path)
    theirs = encoder.network.hubert
    assert type(theirs).__name__ == "WavLMModel"
    taken = theirs.encoder.layers[1].attention
    assert torch.equal(taken.gru_rel_pos_const, state["encoder.layers.1.self_attn.grep_a"])
    assert torch.equal(
        theirs.encoder.layers[0].attention.rel_attn_embed.weight,
        state["encoder.layers.0.self_attn.relative_attention_bias.weight"],
    )
    assert isinstance(theirs.feature_extractor.conv_layers[0].layer_norm, nn.GroupNorm)


# files that are not what they should be


@pytest.mark.parametrize(
    ("name", "file_name", "layout", "message"),
    [
        ("wavlmbase+", WAVLM, Layout(), "holds a HuBERT without relative positions, expected a WavLM"),
        ("cnhubertlarge", CHINESE, GATED, "holds a WavLM, expected a HuBERT: use the encoder wavlmbase"),
        ("vec768l12", "hubert_base.pt", LARGE, "has 2 transformer layers, the encoder needs 12"),
    ],
)
def test_another_networks_file_is_named(
    tmp_path: Path, name: str, file_name: str, layout: Layout, message: str
) -> None:
    save_wavlm(tmp_path / file_name, layout)
    with pytest.raises(CheckpointError, match=message):
        load_encoder(name, folder=tmp_path)


def test_missing_and_unexpected_tensors_are_all_listed(tmp_path: Path) -> None:
    state = hubert_state(GATED)
    del state["encoder.layers.1.fc2.bias"], state["encoder.layers.1.self_attn.grep_a"]
    state["encoder.layers.0.adapter.weight"] = torch.ones(3)
    with pytest.raises(CheckpointError) as caught:
        wavlm_from_state(state)
    for message in (
        "missing encoder.layers.1.feed_forward.output_dense.bias (32,)",
        "missing encoder.layers.1.attention.gru_rel_pos_const",
        "unexpected encoder.layers.0.adapter.weight (3,)",
        "3 differences",
    ):
        assert message in str(caught.value)


def test_a_truncated_file_is_distinguished_from_another_models() -> None:
    state = {
        name: value for name, value in hubert_state(GATED).items() if not name.startswith("encoder.layers.")
    }
    with pytest.raises(CheckpointError, match="tensors are missing.*encoder.layers.0.feed_forward"):
        wavlm_from_state(state)
    with pytest.raises(CheckpointError, match="no HuBERT weights"):
        wavlm_from_state({"emb_g.weight": torch.ones(2)})


def test_a_wavlm_file_without_settings_is_refused(tmp_path: Path) -> None:
    torch.save(hubert_state(GATED), tmp_path / WAVLM)
    with pytest.raises(CheckpointError, match="expected 'cfg' and 'model' of a WavLM file"):
        load_encoder("wavlmbase+", folder=tmp_path)


class Payload:
    """A pickle that would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("name", "file_name"),
    [
        ("cnhubertlarge", CHINESE),
        ("wavlmbase+", WAVLM),
        ("dphubert", "DPHuBERT-sp0.75.pth"),
        ("whisper-ppg", "medium.pt"),
        ("whisper-ppg-large", "large-v2.pt"),
        ("whisper-ppg-small", "small.pt"),
    ],
)
def test_a_file_that_would_run_code_is_refused_before_anything_runs(
    tmp_path: Path, name: str, file_name: str
) -> None:
    torch.save({"model": {}, "cfg": Payload(tmp_path / "ran")}, tmp_path / file_name)
    with pytest.raises(UnsafePickle, match="asks for builtins.getattr, pathlib.*which could run code"):
        load_encoder(name, folder=tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["cnhubertlarge", "wavlmbase+", "dphubert", "whisper-ppg", "vec256l12-onnx"])
def test_an_absent_file_is_named_with_its_source(tmp_path: Path, name: str) -> None:
    with pytest.raises(SvcError, match=r"is not there.*Source: "):
        load_encoder(name, folder=tmp_path)


def test_without_transformers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_wavlm(tmp_path / WAVLM, GATED)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r'pip install "svcnb\[content\]"'):
        load_encoder("wavlmbase+", folder=tmp_path)


def test_settings_are_found_in_each_layout() -> None:
    assert stored_settings({"cfg": {"model": {"a": 1}}, "args": None}) == {"a": 1}
    assert stored_settings({"cfg": {"a": 1}}) == {"a": 1}
    assert stored_settings({"cfg": None, "args": {"a": 1}}) == {"a": 1}
    assert stored_settings({"model": {}}) == {}
