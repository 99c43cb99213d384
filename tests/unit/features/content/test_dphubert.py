"""DPHuBERT: small files with individually pruned layers, compared with a reference implementation."""

from __future__ import annotations

import re
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from svcnb.features.content.encoders import load_encoder
from svcnb.files.unpickling import CheckpointError
from tests.toys.encoder_files import (
    GATED_BUCKETS,
    GATED_DISTANCE,
    KERNELS,
    STRIDES,
    Layout,
    hubert_by_hand,
    hubert_state,
)
from tests.unit.features.content.test_encoders import voice_like

pytestmark = pytest.mark.filterwarnings("ignore:.*values per frame")  # the files are small ones
FILE = "DPHuBERT-sp0.75.pth"
# three layers: narrow, without attention, without feed-forward
PRUNED = Layout(heads=((0, 1, 2), (), (0,)), inner=(20, 7, 0))
GATED = replace(PRUNED, heads=((1, 3), (), (0, 2, 3)), gated=True)

NAMES = (
    (r"^(feature_extractor\.conv_layers\.\d)\.0\.", r"\1.conv."),
    (r"^(feature_extractor\.conv_layers\.\d)\.2\.(1\.)?", r"\1.layer_norm."),
    (r"^layer_norm", "encoder.feature_projection.layer_norm"),
    (r"^post_extract_proj", "encoder.feature_projection.projection"),
    (r"^encoder\.pos_conv\.0", "encoder.transformer.pos_conv_embed.conv"),
    (r"^encoder\.(layer_norm|layers)", r"encoder.transformer.\1"),
    ("self_attn_layer_norm", "layer_norm"),
    ("self_attn", "attention"),
    ("fc1", "feed_forward.intermediate_dense"),
    ("fc2", "feed_forward.output_dense"),
    ("relative_attention_bias", "rel_attn_embed"),
    ("grep_linear", "gru_rel_pos_linear"),
    ("grep_a", "gru_rel_pos_const"),
)


def their_name(name: str) -> str:
    for ours, theirs in NAMES:
        name = re.sub(ours, theirs, name)
    return name


def config_of(layout: Layout, **changes: object) -> dict[str, object]:
    """The keys of a DPHuBERT config; dropout and layer drop at rates that would change the output."""
    heads = {"encoder_num_heads": [len(own) for own in layout.heads], "encoder_head_dim": layout.head_width}
    if layout.gated:
        heads = {
            "encoder_total_num_heads": [layout.n_heads] * len(layout.heads),
            "encoder_remaining_heads": [list(own) for own in layout.heads],
            "encoder_num_buckets": GATED_BUCKETS,
            "encoder_max_distance": GATED_DISTANCE,
        }
    return {
        "extractor_mode": "layer_norm" if layout.norm_everywhere else "group_norm",
        "extractor_conv_layer_config": [
            (layout.conv, *sizes) for sizes in zip(KERNELS, STRIDES, strict=True)
        ],
        "extractor_conv_bias": layout.conv_bias,
        "encoder_embed_dim": layout.width,
        "encoder_projection_dropout": 0.5,
        "encoder_pos_conv_kernel": 4,
        "encoder_pos_conv_groups": 2,
        "encoder_num_layers": len(layout.heads),
        "encoder_use_attention": [bool(own) for own in layout.heads],
        "encoder_use_feed_forward": [own > 0 for own in layout.inner],
        **heads,
        "encoder_attention_dropout": 0.5,
        "encoder_ff_interm_features": list(layout.inner),
        "encoder_ff_interm_dropout": 0.5,
        "encoder_dropout": 0.5,
        "encoder_layer_norm_first": layout.pre_norm,
        "encoder_layer_drop": 0.9,
        "aux_num_out": None,
        "normalize_waveform": False,
        "encoder_prune_attention_heads": False,
        **changes,
    }


def save_dphubert(path: Path, layout: Layout, **changes: object) -> dict[str, Tensor]:
    """Write the file; the weights are returned under fairseq's names, with the channels' scale."""
    state = hubert_state(layout)
    del state["mask_emb"]
    scale = 1 + 0.1 * torch.arange(layout.conv)
    theirs = {their_name(name): value for name, value in state.items()} | {
        "feature_extractor.dummy_weight": scale
    }
    torch.save({"config": config_of(layout, **changes), "state_dict": theirs}, path)
    return state | {"dummy_weight": scale}


LARGE = replace(PRUNED, pre_norm=True, norm_everywhere=True, conv_bias=True)
LAYOUTS = {
    "hubert": PRUNED,
    "large hubert": LARGE,
    "wavlm": GATED,
    "pre-norm wavlm": replace(GATED, pre_norm=True),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_pruned_layers_agree_with_the_network_by_hand(tmp_path: Path, layout: Layout) -> None:
    state = save_dphubert(tmp_path / FILE, layout)
    encoder = load_encoder("dphubert", folder=tmp_path)
    samples = torch.from_numpy(voice_like(16000))
    ours = encoder.encode(samples)
    assert (encoder.name, encoder.width, encoder.hop_samples) == ("dphubert", 32, 320)
    assert ours.shape == ((16000 - 400) // 320 + 1, 32)
    torch.testing.assert_close(ours, hubert_by_hand(state, samples, layout), atol=2e-5, rtol=0)


def test_dropout_rates_in_the_file_have_no_effect(tmp_path: Path) -> None:
    save_dphubert(tmp_path / FILE, PRUNED)
    encoder = load_encoder("dphubert", folder=tmp_path)
    samples = voice_like(4000)
    assert torch.equal(encoder.encode(samples), encoder.encode(samples))
    assert not any(module.training for module in encoder.network.modules())


def test_a_pruned_network_is_the_whole_one_without_those_heads_and_units(tmp_path: Path) -> None:
    """Removing heads whose output weights are zero changes nothing, also for the gates."""
    whole = Layout(heads=((0, 1, 2, 3),) * 3, inner=(20, 7, 0), gated=True)
    state = save_dphubert(tmp_path / FILE, whole)
    kept = torch.cat([torch.arange(8, 16), torch.arange(24, 32)])  # heads 1 and 3 of width 8
    muted, cut = dict(state), dict(state)
    for i in range(3):
        prefix = f"encoder.layers.{i}.self_attn."
        cut[f"{prefix}out_proj.weight"] = passed = state[f"{prefix}out_proj.weight"][:, kept]
        muted[f"{prefix}out_proj.weight"] = torch.zeros(32, 32).index_copy(1, kept, passed)
        for name in ("q", "k", "v"):
            cut[f"{prefix}{name}_proj.weight"] = state[f"{prefix}{name}_proj.weight"][kept]
            cut[f"{prefix}{name}_proj.bias"] = state[f"{prefix}{name}_proj.bias"][kept]
    contents = []
    for layout, weights in ((whole, muted), (replace(whole, heads=((1, 3),) * 3), cut)):
        scale = {"feature_extractor.dummy_weight": weights["dummy_weight"]}
        theirs = {their_name(name): value for name, value in weights.items() if name != "dummy_weight"}
        torch.save({"config": config_of(layout), "state_dict": theirs | scale}, tmp_path / FILE)
        contents.append(load_encoder("dphubert", folder=tmp_path).encode(voice_like(9000)))
    torch.testing.assert_close(*contents)


def test_the_waveform_is_normalised_if_the_config_asks_for_it(tmp_path: Path) -> None:
    state = save_dphubert(tmp_path / FILE, PRUNED, normalize_waveform=True)
    samples = torch.from_numpy(voice_like(4000)) + 0.02
    normalised = (samples - samples.mean()) / (samples.var(unbiased=False) + 1e-5).sqrt()
    ours = load_encoder("dphubert", folder=tmp_path).encode(samples)
    torch.testing.assert_close(ours, hubert_by_hand(state, normalised, PRUNED), atol=2e-5, rtol=0)


def test_a_file_that_was_never_pruned_has_no_scale_of_its_channels(tmp_path: Path) -> None:
    state = save_dphubert(tmp_path / FILE, PRUNED)
    stored = torch.load(tmp_path / FILE, weights_only=True)
    del stored["state_dict"]["feature_extractor.dummy_weight"], state["dummy_weight"]
    torch.save(stored, tmp_path / FILE)
    samples = torch.from_numpy(voice_like(4000))
    ours = load_encoder("dphubert", folder=tmp_path).encode(samples)
    torch.testing.assert_close(ours, hubert_by_hand(state, samples, PRUNED), atol=2e-5, rtol=0)


def test_weights_on_an_accelerator_load_on_this_machine(tmp_path: Path) -> None:
    """The file says cuda:0; where there is none, the original cannot read it."""
    save_dphubert(tmp_path / FILE, PRUNED)
    here, there = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
    with zipfile.ZipFile(tmp_path / FILE) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    assert any(here in content for content in entries.values())
    with zipfile.ZipFile(tmp_path / FILE, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content.replace(here, there))
    assert load_encoder("dphubert", folder=tmp_path).encode(voice_like(2000)).device.type == "cpu"


# files that are not what they should be


def test_another_programs_file_is_named(tmp_path: Path) -> None:
    torch.save({"cfg": {}, "model": {}}, tmp_path / FILE)
    with pytest.raises(CheckpointError, match="expected 'config' and 'state_dict' as in a DPHuBERT file"):
        load_encoder("dphubert", folder=tmp_path)


def test_config_keys_that_are_missing_or_unknown_are_all_named(tmp_path: Path) -> None:
    save_dphubert(tmp_path / FILE, PRUNED, encoder_rotary=True, aux_num_out=32, extractor_mode="batch_norm")
    stored = torch.load(tmp_path / FILE, weights_only=True)
    del stored["config"]["encoder_head_dim"]
    torch.save(stored, tmp_path / FILE)
    with pytest.raises(CheckpointError) as caught:
        load_encoder("dphubert", folder=tmp_path)
    for message in (
        "missing encoder_head_dim",
        "unknown encoder_rotary",
        "aux_num_out is 32",
        "extractor_mode is 'batch_",
    ):
        assert message in str(caught.value)


def test_tensors_that_do_not_fit_the_config_are_all_named(tmp_path: Path) -> None:
    save_dphubert(tmp_path / FILE, PRUNED, encoder_ff_interm_features=[21, 7, 0])
    stored = torch.load(tmp_path / FILE, weights_only=True)
    stored["state_dict"]["encoder.transformer.layers.0.hard_concrete.log_alpha"] = torch.ones(3)
    del stored["state_dict"]["encoder.transformer.layer_norm.weight"]
    torch.save(stored, tmp_path / FILE)
    with pytest.raises(CheckpointError) as caught:
        load_encoder("dphubert", folder=tmp_path)
    for message in (
        "intermediate_dense.weight is (20, 32), expected (21, 32)",
        "unexpected encoder.transformer.layers.0.hard_concrete",
        "missing encoder.transformer.layer_norm.weight",
    ):
        assert message in str(caught.value)
