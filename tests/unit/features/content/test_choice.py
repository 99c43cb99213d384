"""The content encoder is chosen by name for feature extraction; training and conversion use the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb import SvcError
from svcnb.audio.audio import read_audio
from svcnb.cli import main as cli
from svcnb.features.content.encoders import ENCODERS, encoder_for_width, load_encoder
from svcnb.files.downloads import weights_for
from svcnb.files.pretrained_table import WEIGHTS
from svcnb.models import sovits
from svcnb.models.sovits.config import Config
from tests.toys.encoder_files import GATED_DISTANCE, Layout, hubert_state
from tests.toys.small_voice import tiny_config
from tests.unit.models.sovits.test_voice import sung_tone

# WavLM Base+'s own width, all else small
WIDE = Layout(width=768, n_heads=12, heads=(tuple(range(12)),), inner=(8,), gated=True)
ORIGINALS = [
    ("vec768l12", 768), ("dphubert", 768), ("wavlmbase+", 768), ("vec256l9", 256), ("hubertsoft", 256),
    ("whisper-ppg", 1024), ("cnhubertlarge", 1024), ("whisper-ppg-large", 1280),
    ("vec768l12-onnx", 768), ("vec768l9-onnx", 768), ("vec256l9-onnx", 256), ("vec256l12-onnx", 256),
    ("hubertsoft-onnx", 256),
]  # fmt: skip


@pytest.mark.parametrize(("name", "width"), ORIGINALS)
def test_each_encoder_of_the_family_sets_the_models_widths(name: str, width: int) -> None:
    config = Config.full()
    config.use_encoder(name, ENCODERS[name].width)
    model = config.model
    assert (model.speech_encoder, model.ssl_dim, model.gin_channels) == (name, width, width)
    assert model.filter_channels == max(768, width)
    assert encoder_for_width(model.ssl_dim, model.speech_encoder) == name


def test_each_encoder_has_its_weights_in_the_table() -> None:
    for name, row in ENCODERS.items():
        assert row.weights in WEIGHTS
        assert row.weights in [weights.name for weights in weights_for([name])]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features, one training step and a conversion by the commands, with a small WavLM."""
    from svcnb.audio.audio import write_audio

    folder = tmp_path_factory.mktemp("wavlm")
    (folder / "pretrain").mkdir()
    cfg = {
        "encoder_attention_heads": 12,
        "layer_norm_first": False,
        "normalize": False,
        "max_distance": GATED_DISTANCE,
    }
    torch.save({"cfg": cfg, "model": hubert_state(WIDE)}, folder / "pretrain" / "WavLM-Base+.pt")
    for i in range(3):
        write_audio(folder / "clips" / "ada" / f"{i}.flac", sung_tone(150 + 10 * i, 1.5))
    config = tiny_config()
    config.save(folder / "tiny.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        own = [
            "--speech_encoder",
            "wavlmbase+",
            "--f0_predictor",
            "dio",
            "--config",
            "tiny.json",
            "-d",
            "cpu",
        ]
        assert cli.main(["features", "clips", "features", *own]) == 0
        assert cli.main(["train", "features", "voice", "--max_steps", "1", "-d", "cpu"]) == 0
        given = ["convert", "voice", "clips/ada/0.flac", "-f0p", "dio", "-o", "out", "-d", "cpu"]
        assert cli.main(given) == 0
    return folder


def test_a_chosen_encoder_is_used_from_features_to_conversion(made: Path) -> None:
    for part in ("features", "voice"):
        model = json.loads((made / part / "config.json").read_text())["model"]
        assert (model["speech_encoder"], model["ssl_dim"]) == ("wavlmbase+", 768)
    (result,) = (made / "out").iterdir()
    converted, source = read_audio(result), read_audio(made / "clips" / "ada" / "0.flac")
    assert converted.duration_s == pytest.approx(source.duration_s, abs=1e-3)
    assert np.isfinite(converted.samples).all() and np.abs(converted.samples).max() > 0


def test_a_model_loads_the_encoder_that_it_needs(made: Path, tmp_path: Path) -> None:
    assert sovits.load_voice(made / "voice", pretrain_folder=made / "pretrain").encoder.name == "wavlmbase+"
    with pytest.raises(SvcError, match=r"WavLM-Base\+\.pt is not there"):
        sovits.load_voice(made / "voice", pretrain_folder=tmp_path)


def test_without_a_name_in_the_config_the_width_selects_the_encoder(made: Path, tmp_path: Path) -> None:
    stored = json.loads((made / "voice" / "config.json").read_text())
    del stored["model"]["speech_encoder"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(SvcError, match=r"checkpoint_best_legacy_500\.pt"):
        sovits.load_voice(made / "voice", config=tmp_path / "config.json", pretrain_folder=tmp_path)


def test_weights_of_another_width_raise_when_the_model_is_loaded(made: Path, tmp_path: Path) -> None:
    cfg = {"encoder_attention_heads": 4, "normalize": False}
    torch.save({"cfg": cfg, "model": hubert_state(Layout(gated=True))}, tmp_path / "WavLM-Base+.pt")
    with pytest.warns(UserWarning, match=r"WavLM-Base\+\.pt gives 32 values per frame, wavlmbase\+ has 768"):
        assert load_encoder("wavlmbase+", folder=tmp_path).width == 32
    with pytest.raises(SvcError, match=r"needs 768 values per frame, .*WavLM-Base\+\.pt gives 32"):
        sovits.load_voice(made / "voice", pretrain_folder=tmp_path)
