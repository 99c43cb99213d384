"""Content encoders: frame alignment, loading of files, and the bundled cepstral encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from svcnb import SvcError
from svcnb.data.feature_store import FeatureSettings, FeatureStore
from svcnb.features.content.encoders import (
    ENCODERS,
    ContentError,
    align_to_frames,
    encoder_for_width,
    load_encoder,
    resolve_encoder,
)
from svcnb.features.content.hubert import hubert_from_state, stored_heads
from svcnb.files.pretrained_table import WEIGHTS
from svcnb.files.unpickling import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore:.*values per frame")  # the files are small ones
RATE_HZ = 16000


def voice_like(n_samples: int, *, seed: int = 0, level: float = 0.1) -> np.ndarray:
    """Noise with slowly varying spectrum and loudness: different units over time without a recording."""
    generator = np.random.default_rng(seed)
    noise = np.cumsum(generator.standard_normal(n_samples)) * 0.02 + generator.standard_normal(n_samples)
    time = np.arange(n_samples) / RATE_HZ
    tilt = np.sin(2 * np.pi * 3 * time)
    sound = np.where(tilt > 0, np.sin(2 * np.pi * 150 * time), 0.3 * noise) * (
        0.6 + 0.4 * np.sin(2 * np.pi * 0.7 * time)
    )
    return (level * sound).astype(np.float32)


# the frame grid


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("left", [0, 0, 1, 1, 2, 2, 3, 3, 4]),
        ("nearest", [0, 0, 1, 1, 2, 2, 3, 3, 4]),
        ("linear", [0, 0.3333, 0.8889, 1.4444, 2, 2.5556, 3.1111, 3.6667, 4]),
    ],
)
def test_stretching_gives_the_originals_values(mode: str, expected: list[float]) -> None:
    ours = align_to_frames(torch.arange(5.0)[None], 9, mode=mode)
    torch.testing.assert_close(ours, torch.tensor([expected], dtype=torch.float32), atol=1e-4, rtol=0)


@pytest.mark.parametrize("n_frames", [1, 3, 50, 87])
def test_stretching_gives_the_wanted_length_and_keeps_the_width(n_frames: int) -> None:
    for mode in ("left", "nearest", "linear"):
        assert align_to_frames(torch.zeros(6, 50), n_frames, mode=mode).shape == (6, n_frames)


def test_invalid_stretching_raises_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"\(4, 0\) to 7 frames"):
        align_to_frames(torch.zeros(4, 0), 7)
    with pytest.raises(ValueError, match=r"\(4, 2\) to 0 frames"):
        align_to_frames(torch.zeros(4, 2), 0)
    with pytest.raises(ValueError, match="left, nearest, linear"):
        align_to_frames(torch.zeros(4, 2), 3, mode="cubic")


# choice of the encoder


def test_auto_is_contentvec_if_its_file_exists_and_else_the_bundled_encoder(tmp_path: Path) -> None:
    assert resolve_encoder("auto", tmp_path) == "svcnb-units"
    (tmp_path / "hubert_base.pt").touch()
    assert resolve_encoder("auto", tmp_path) == "vec768l12"


def test_errors_for_an_unknown_encoder_list_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SvcError) as caught:
        load_encoder("vec1024", folder=tmp_path)
    assert f"expected auto or one of {', '.join(ENCODERS)}" in str(caught.value)
    original = "vec768l12 dphubert wavlmbase+ vec256l9 hubertsoft whisper-ppg cnhubertlarge whisper-ppg-large".split()
    onnx = "vec256l9-onnx vec256l12-onnx vec768l9-onnx vec768l12-onnx hubertsoft-onnx".split()
    assert set(ENCODERS) >= {*original, *onnx}


def test_a_missing_file_is_named_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(SvcError, match=r"checkpoint_best_legacy_500\.pt \(or hubert_base\.pt\) is not there"):
        load_encoder("vec256l9", folder=tmp_path)


@pytest.mark.parametrize(
    ("width", "name"),
    [
        (96, "svcnb-units"),
        (256, "vec256l9"),
        (768, "vec768l12"),
        (1024, "whisper-ppg"),
        (1280, "whisper-ppg-large"),
    ],
)
def test_a_config_without_encoder_is_understood_by_its_width(width: int, name: str) -> None:
    assert encoder_for_width(width) == name


def test_a_named_encoder_must_have_the_models_width() -> None:
    assert encoder_for_width(256, "hubertsoft") == "hubertsoft"
    with pytest.raises(
        SvcError, match="ssl_dim is 256. Set speech_encoder to vec256l9 or hubertsoft or vec256l9-onnx"
    ):
        encoder_for_width(256, "vec768l12")
    with pytest.raises(SvcError, match="no known encoder"):
        encoder_for_width(333)


def test_a_removed_encoder_is_one_line_with_what_to_do() -> None:
    for use in (lambda: load_encoder("soft-units"), lambda: encoder_for_width(200, "soft-units")):
        with pytest.raises(
            ContentError, match="soft-units, which is no longer part of svcnb: extract .* svcnb-units"
        ):
            use()


def test_features_of_a_removed_encoder_say_so_when_they_are_opened(tmp_path: Path) -> None:
    settings = FeatureSettings(encoder="svcnb-units", pitch_method="dio")
    FeatureStore.create(tmp_path, settings)
    path = tmp_path / "settings.json"
    path.write_text(path.read_text().replace("svcnb-units", "soft-units"))
    with pytest.raises(ContentError, match=f"{tmp_path} needs the content encoder soft-units.*--overwrite"):
        FeatureStore.open(tmp_path)
    assert FeatureStore.create(tmp_path, settings, overwrite=True).settings == settings


# HuBERT files


def _random(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        around = (
            1.0
            if name.endswith(("norm.weight", "norm0.weight", "norm1.weight", "norm2.weight", "weight_g"))
            else 0.0
        )
        state[name] = around + torch.randn(shape, generator=generator) * (
            0.05 if around or len(shape) < 2 else 0.2
        )
    return state


def hubert_soft_state(
    *, width: int = 128, conv: int = 16, ffn: int = 32, n_layers: int = 12, units: int = 10
) -> dict[str, Tensor]:
    """A small file in hubert-soft's layout: 2 heads of 64, 3 positions, as torch's encoder layers name things."""
    shapes: dict[str, tuple[int, ...]] = {
        "masked_spec_embed": (width,),
        "feature_extractor.conv0.weight": (conv, 1, 10),
        "feature_extractor.norm0.weight": (conv,),
        "feature_extractor.norm0.bias": (conv,),
        **{f"feature_extractor.conv{i}.weight": (conv, conv, 3 if i < 5 else 2) for i in range(1, 7)},
        "feature_projection.norm.weight": (conv,),
        "feature_projection.norm.bias": (conv,),
        "feature_projection.projection.weight": (width, conv),
        "feature_projection.projection.bias": (width,),
        "positional_embedding.conv.bias": (width,),
        "positional_embedding.conv.weight_g": (1, 1, 4),
        "positional_embedding.conv.weight_v": (width, width // 2, 4),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "proj.weight": (units, width),
        "proj.bias": (units,),
        "label_embedding.weight": (5, units),
    }
    layer = nn.TransformerEncoderLayer(width, 2, ffn).state_dict()
    for i in range(n_layers):
        shapes |= {f"encoder.layers.{i}.{name}": tuple(value.shape) for name, value in layer.items()}
    return _random(shapes)


def hubert_soft_by_hand(state: dict[str, Tensor], samples: Tensor, n_layers: int) -> Tensor:
    """Reference implementation with torch's own layers."""
    width, _, kernel = state["positional_embedding.conv.weight_v"].shape
    x = nn.functional.pad(samples, (40, 40))[None, None]
    x = nn.functional.conv1d(x, state["feature_extractor.conv0.weight"], stride=5)
    norm = [state[f"feature_extractor.norm0.{part}"] for part in ("weight", "bias")]
    x = nn.functional.gelu(nn.functional.group_norm(x, x.shape[1], *norm))
    for i in range(1, 7):
        x = nn.functional.gelu(nn.functional.conv1d(x, state[f"feature_extractor.conv{i}.weight"], stride=2))
    x = x.transpose(1, 2)
    x = nn.functional.layer_norm(
        x, x.shape[2:], *[state[f"feature_projection.norm.{part}"] for part in ("weight", "bias")]
    )
    x = nn.functional.linear(
        x, *[state[f"feature_projection.projection.{part}"] for part in ("weight", "bias")]
    )
    v = state["positional_embedding.conv.weight_v"]
    weight = state["positional_embedding.conv.weight_g"] * v / v.norm(dim=(0, 1), keepdim=True)
    positions = nn.functional.conv1d(
        x.transpose(1, 2), weight, state["positional_embedding.conv.bias"], padding=kernel // 2, groups=2
    )
    x = x + nn.functional.gelu(positions[..., :-1]).transpose(1, 2)
    x = nn.functional.layer_norm(x, (width,), state["norm.weight"], state["norm.bias"])
    ffn = state["encoder.layers.0.linear1.weight"].shape[0]
    for i in range(n_layers):
        layer = nn.TransformerEncoderLayer(width, 2, ffn, activation="gelu", batch_first=True).eval()
        prefix = f"encoder.layers.{i}."
        layer.load_state_dict({n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)})
        x = layer(x)
    return nn.functional.linear(x, state["proj.weight"], state["proj.bias"])[0]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_hubert_soft_file_loads_and_agrees_with_torchs_own_layers(tmp_path: Path, prefix: str) -> None:
    state = hubert_soft_state()
    torch.save({prefix + name: value for name, value in state.items()}, tmp_path / "hubert-soft-0d54a1f4.pt")
    encoder = load_encoder("hubertsoft", folder=tmp_path)
    samples = torch.from_numpy(voice_like(6500))
    ours = encoder.encode(samples)
    assert (encoder.name, encoder.hop_samples, encoder.width) == ("hubertsoft", 320, 10)
    assert ours.shape == (6500 // 320, 10)
    with torch.no_grad():
        torch.testing.assert_close(ours, hubert_soft_by_hand(state, samples, 12), atol=2e-5, rtol=0)
    assert encoder.for_recording(samples) is encoder


def fairseq_state(*, n_layers: int = 3, width: int = 32, with_projection: bool = True) -> dict[str, Tensor]:
    """A small file in fairseq's layout, derived from the soft one."""
    soft = hubert_soft_state(width=width, n_layers=n_layers)
    names = {
        "masked_spec_embed": "mask_emb",
        "feature_extractor.norm0": "feature_extractor.conv_layers.0.2",
        **{f"feature_extractor.conv{i}": f"feature_extractor.conv_layers.{i}.0" for i in range(7)},
        "feature_projection.norm": "layer_norm",
        "feature_projection.projection": "post_extract_proj",
        "positional_embedding.conv": "encoder.pos_conv.0",
        "norm.": "encoder.layer_norm.",
        "proj.": "final_proj.",
    }
    state: dict[str, Tensor] = {}
    for name, value in soft.items():
        name = next((name.replace(old, new, 1) for old, new in names.items() if name.startswith(old)), name)
        name = (
            name.replace("linear", "fc")
            .replace("norm1", "self_attn_layer_norm")
            .replace("norm2", "final_layer_norm")
        )
        if "in_proj" in name:
            state |= {
                name.replace("in_proj_", f"{p}_proj."): v for p, v in zip("qkv", value.chunk(3), strict=True)
            }
        elif with_projection or not name.startswith("post_extract_proj"):
            state[name] = value
    del state["label_embedding.weight"]
    return state


def test_the_layer_and_the_projection_are_the_requested_ones() -> None:
    state = fairseq_state()
    samples = torch.from_numpy(voice_like(4000))[None]
    with torch.no_grad():
        two = hubert_from_state(state, n_layers=2, n_heads=2)(samples)
        projected = hubert_from_state(state, n_layers=2, n_heads=2, projected=True)(samples)
        three = hubert_from_state(state, n_heads=2)(samples)
    assert two.shape == (1, (4000 - 400) // 320 + 1, 32)
    torch.testing.assert_close(
        projected, nn.functional.linear(two, state["final_proj.weight"], state["final_proj.bias"])
    )
    assert not torch.allclose(two, three)


def test_more_layers_than_stored_and_a_missing_projection_are_refused() -> None:
    state = fairseq_state()
    with pytest.raises(CheckpointError, match="has 3 transformer layers, the encoder needs 12"):
        hubert_from_state(state, n_layers=12)
    del state["final_proj.weight"]
    with pytest.raises(CheckpointError, match="no final projection"):
        hubert_from_state(state, projected=True)
    with pytest.raises(CheckpointError, match="no HuBERT weights"):
        hubert_from_state({"emb_g.weight": torch.ones(2)})


def test_a_hubert_without_input_projection_gets_the_identity() -> None:
    state = fairseq_state(width=16, with_projection=False)
    identity = {"post_extract_proj.weight": torch.eye(16), "post_extract_proj.bias": torch.zeros(16)}
    samples = torch.from_numpy(voice_like(2000))[None]
    with torch.no_grad():
        without, given = (
            hubert_from_state(state, n_heads=2)(samples),
            hubert_from_state(state | identity, n_heads=2)(samples),
        )
    assert torch.equal(without, given)


def test_the_heads_are_read_from_either_kind_of_fairseq_settings() -> None:
    assert stored_heads({"cfg": {"model": {"encoder_attention_heads": 4}}, "args": None}) == 4
    assert stored_heads({"cfg": None, "args": {"encoder_attention_heads": 12}}) == 12
    assert stored_heads({"model": {}}) is None


def test_clips_shorter_than_one_frame_give_one_frame(tmp_path: Path) -> None:
    torch.save(hubert_soft_state(), tmp_path / "hubert-soft-0d54a1f4.pt")
    encoder = load_encoder("hubertsoft", folder=tmp_path)
    assert encoder.shortest_samples == 400
    assert encoder.encode(np.zeros(7, np.float32)).shape == (1, 10)
    with pytest.raises(ValueError, match=r"\(0,\), expected \[T\]"):
        encoder.encode(np.zeros(0, np.float32))


def test_every_row_of_the_table_names_a_file_that_can_be_looked_for() -> None:
    for name, row in ENCODERS.items():
        assert row.name == name
        assert row.weights in WEIGHTS
