"""Vocoders: their files and paths, the length of their output, the enhancer."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb import SvcError
from svcnb.files.checkpoint import to_plain_names
from svcnb.files.unpickling import CheckpointError, UnsafePickle
from svcnb.models.vocoder.enhancer import Enhancer
from svcnb.models.vocoder.files import find_vocoder, load_vocoder
from svcnb.models.vocoder.network import Vocoder, VocoderError, VocoderSettings
from svcnb.nn.layers import Noise

CONFIG = {
    "sampling_rate": 8000,
    "num_mels": 10,
    "n_fft": 256,
    "win_size": 256,
    "hop_size": 64,
    "fmin": 40,
    "fmax": 3500,
    "resblock": "1",
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
    "upsample_rates": [8, 8],
    "upsample_kernel_sizes": [16, 16],
    "upsample_initial_channel": 8,
    "discriminator_periods": [3, 5],
}
FRAME_CONFIG = {key: CONFIG[key] for key in list(CONFIG)[:7]} | {
    "vocoder_name": "svcnb-frame",
    "frame_channels": 16,
    "frame_blocks": 1,
}


def write_vocoder(folder: Path, config: dict = CONFIG) -> Path:
    """Write an untrained vocoder with fixed weights."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    vocoder = Vocoder(VocoderSettings.from_config(config))
    torch.save({"generator": to_plain_names(vocoder.generator.state_dict())}, folder / "model")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def pack(target: Path, members: dict[str, Path | str]) -> Path:
    """A zip file: name inside it -> file, or text."""
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content.read_bytes() if isinstance(content, Path) else content)
    return target


def noise() -> Noise:
    return Noise(torch.Generator().manual_seed(0))


def tone(n_samples: int, rate_hz: int, f0_hz: float = 190.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * f0_hz * np.arange(n_samples) / rate_hz)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_vocoder(tmp_path / "vocoder")


@pytest.fixture(scope="module")
def vocoder(tmp_path_factory: pytest.TempPathFactory) -> Vocoder:
    return load_vocoder(write_vocoder(tmp_path_factory.mktemp("vocoder")))


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("config", [CONFIG, FRAME_CONFIG], ids=["nsf-hifigan", "svcnb-frame"])
def test_vocoder_folder_loads_and_gives_one_hop_per_frame(tmp_path: Path, config: dict) -> None:
    vocoder = load_vocoder(write_vocoder(tmp_path, config))
    waveform = torch.randn(2, 64 * 30) * 0.1
    mel = vocoder.mel(waveform)
    assert mel.shape == (2, 10, 30)
    with torch.no_grad():
        assert vocoder(mel, torch.full((2, 30), 200.0)).shape == (2, 1, 64 * 30)


def test_model_file_and_released_zip_give_the_same_audio_as_the_folder(folder: Path, tmp_path: Path) -> None:
    released = pack(
        tmp_path / "nsf_hifigan_20221211.zip",
        {
            "nsf_hifigan/NOTICE.txt": "licence",
            "nsf_hifigan/NOTICE.zh-CN.txt": "licence",
            "nsf_hifigan/config.json": folder / "config.json",
            "nsf_hifigan/model": folder / "model",
        },
    )
    before = sorted(tmp_path.rglob("*"))
    mel, f0_hz = torch.zeros(1, 10, 20), torch.full((1, 20), 150.0)
    with torch.no_grad():
        paths = (folder, folder / "model", released)
        audio = [load_vocoder(path)(mel, f0_hz, noise=noise()) for path in paths]
    assert torch.equal(audio[0], audio[1]) and torch.equal(audio[0], audio[2])
    assert sorted(tmp_path.rglob("*")) == before, "reading a zip left files behind"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"../model": "x", "../config.json": "{}"}, "outside its folder"),
        ({"/etc/model": "x", "/etc/config.json": "{}"}, "outside its folder"),
        ({"a/model": "x", "b/config.json": "{}"}, "holds 0 vocoders"),
        ({"a/model": "x", "a/config.json": "{}", "b/model": "x", "b/config.json": "{}"}, "holds 2 vocoders"),
        ({"a/model": "x", "a/config.json": "nothing"}, "x.zip/config.json is not a JSON config"),
        ({"a/model": "x", "a/config.json": json.dumps(CONFIG)}, "x.zip/model is not a torch file"),
    ],
)
def test_zip_that_is_no_released_vocoder_is_refused_and_nothing_is_written(
    tmp_path: Path, members: dict, message: str
) -> None:
    (tmp_path / "inner").mkdir()
    path = pack(tmp_path / "inner" / "x.zip", members)
    with pytest.raises(SvcError, match=message):
        load_vocoder(path)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "inner", path]


def test_cut_zip_and_model_that_runs_code_are_refused(folder: Path, tmp_path: Path) -> None:
    whole = pack(
        tmp_path / "whole.zip", {"v/model": folder / "model", "v/config.json": folder / "config.json"}
    )
    cut = tmp_path / "cut.zip"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(SvcError, match="no complete zip file"):
        load_vocoder(cut)
    torch.save({"generator": Noise()}, folder / "model")  # any class stands for one that runs code
    with pytest.raises(UnsafePickle, match="svcnb.nn.layers.Noise"):
        load_vocoder(folder)


@pytest.mark.parametrize("name", ["model", "config.json"])
def test_missing_file_is_named_with_the_expected_files(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(VocoderError, match=f"{name}: no such file.*'model' and 'config.json'"):
        load_vocoder(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_mels": None}, "lacks num_mels"),
        ({"hop_size": 128}, "upsample_rates give 64 samples per frame, hop_size is 128"),
        ({"mini_nsf": True}, "mini_nsf"),
        ({"vocoder_name": "griffin-lim"}, "expected nsf-hifigan or svcnb-frame"),
    ],
)
def test_config_of_something_else_is_refused(folder: Path, change: dict, message: str) -> None:
    config = {key: value for key, value in (CONFIG | change).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(VocoderError, match=message):
        load_vocoder(folder)


def test_weights_of_other_sizes_and_other_models_are_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | {"num_mels": 12}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="conv_pre.weight_v"):
        load_vocoder(folder)
    torch.save({"model": {"emb_g.weight": torch.zeros(1)}}, folder / "model")
    with pytest.raises(VocoderError, match="keys .'model'., expected 'generator'"):
        load_vocoder(folder)


def test_vocoders_are_searched_in_order_named_voice_pretrain_zip(tmp_path: Path) -> None:
    voice, pretrain, named = tmp_path / "voice", tmp_path / "pretrain", tmp_path / "named"
    folders = {"voice_folder": voice, "pretrain_folder": pretrain}
    with pytest.raises(
        VocoderError, match="(?s)nsf_hifigan_20221211.zip.*model and config.json.*svcnb vocoder"
    ):
        find_vocoder(**folders)
    pretrain.mkdir()
    (pretrain / "nsf_hifigan_20221211.zip").touch()
    assert find_vocoder(**folders) == pretrain / "nsf_hifigan_20221211.zip"
    write_vocoder(pretrain / "nsf_hifigan")
    assert find_vocoder(**folders) == pretrain / "nsf_hifigan"
    write_vocoder(voice / "vocoder")
    assert find_vocoder(**folders) == voice / "vocoder"
    with pytest.raises(VocoderError, match="named: no such vocoder"):
        find_vocoder(named, **folders)
    assert find_vocoder(write_vocoder(named), **folders) == named


# ---------------------------------------------------------------- enhancer


@pytest.mark.parametrize("key", [0, 5, -7, 12])
@pytest.mark.parametrize(("rate_hz", "hop"), [(8000, 64), (4000, 32), (11025, 128)])
def test_enhanced_audio_keeps_its_length(vocoder: Vocoder, rate_hz: int, hop: int, key: int) -> None:
    enhancer = Enhancer(vocoder, sample_rate_hz=rate_hz, hop_samples=hop, adaptive_key=key)
    for n_samples in (0, 1, hop - 1, hop * 30, hop * 30 + 10):
        enhanced = enhancer(tone(n_samples, rate_hz), np.full(n_samples // hop + 1, 190.0), noise=noise())
        assert enhanced.shape == (n_samples,) and enhanced.dtype == np.float32
        assert np.isfinite(enhanced).all()


class Recorder(torch.nn.Module):
    """A stub vocoder that records its inputs and returns silence."""

    def __init__(self, vocoder: Vocoder) -> None:
        super().__init__()
        self.settings, self.mel, self.inner = vocoder.settings, vocoder.mel, vocoder

    def forward(self, mel, f0, *, noise=None):
        self.seen_mel, self.seen_f0 = mel, f0
        return torch.zeros(1, 1, mel.shape[-1] * self.settings.hop_size)


def vocoder_inputs(vocoder: Vocoder, *, key: int = 0, rate_hz: int = 8000, hop: int = 64) -> Recorder:
    recorder = Recorder(vocoder)
    enhancer = Enhancer(recorder, sample_rate_hz=rate_hz, hop_samples=hop, adaptive_key=key)
    n_frames = 100
    enhancer(tone(n_frames * hop, rate_hz, 300.0), np.linspace(200, 400, n_frames))
    return recorder


def test_without_a_key_the_vocoder_gets_mel_and_f0_unchanged(vocoder: Vocoder) -> None:
    recorder = vocoder_inputs(vocoder)
    plain = vocoder.mel(torch.from_numpy(tone(6400, 8000, 300.0))[None])
    torch.testing.assert_close(recorder.seen_mel, plain)
    np.testing.assert_allclose(recorder.seen_f0[0].numpy(), np.linspace(200, 400, 100), rtol=1e-6)


def test_an_octave_of_adaptive_key_halves_f0_and_doubles_the_frames(vocoder: Vocoder) -> None:
    recorder = vocoder_inputs(vocoder, key=12)
    assert recorder.seen_f0.shape == (1, 200)
    # two stretched frames per frame of f0; constant after its last value
    expected = np.interp(np.arange(200) / 2, np.arange(100), np.linspace(200, 400, 100)) / 2
    np.testing.assert_allclose(recorder.seen_f0[0].numpy(), expected, rtol=1e-6)
    lower = vocoder.mel(torch.from_numpy(tone(12800, 8000, 150.0))[None])
    assert recorder.seen_mel[0, :, 100].argmax() == lower[0, :, 100].argmax()


def test_a_voice_of_half_the_vocoders_rate_is_resampled_to_the_vocoders_rate(vocoder: Vocoder) -> None:
    recorder = vocoder_inputs(vocoder, rate_hz=4000, hop=32)
    plain = vocoder.mel(torch.from_numpy(tone(6400, 8000, 300.0))[None])
    assert recorder.seen_f0.shape == (1, 100)
    torch.testing.assert_close(recorder.seen_mel[..., 5:-5], plain[..., 5:-5], atol=0.1, rtol=0)


def test_same_seed_same_audio(vocoder: Vocoder) -> None:
    enhancer = Enhancer(vocoder, sample_rate_hz=8000, hop_samples=64)
    results = [enhancer(tone(6400, 8000), np.full(100, 190.0), noise=noise()) for _ in range(2)]
    np.testing.assert_array_equal(*results)
