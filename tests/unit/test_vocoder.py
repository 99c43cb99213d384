"""The mel vocoder: its folder, its output's length, the enhancer."""

from __future__ import annotations

import json

import pytest
import torch

from svcnb.checkpoint import to_plain_names
from svcnb.models.layers import Noise
from svcnb.vocoder import Vocoder, VocoderError, VocoderSettings, load_vocoder

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


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    vocoder = Vocoder(VocoderSettings.from_config(CONFIG))
    torch.save({"generator": to_plain_names(vocoder.generator.state_dict())}, tmp_path / "model")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return tmp_path


def test_vocoder_folder_loads_and_gives_one_hop_per_frame(folder):
    vocoder = load_vocoder(folder)
    waveform = torch.randn(2, 64 * 30) * 0.1
    mel = vocoder.mel(waveform)
    assert mel.shape == (2, 10, 30)
    with torch.no_grad():
        assert vocoder(mel, torch.full((2, 30), 200.0)).shape == (2, 1, 64 * 30)


@pytest.mark.parametrize("key", [0, 5, -7])
def test_enhancer_keeps_the_length_to_within_a_frame(folder, key):
    vocoder = load_vocoder(folder)
    samples = torch.sin(torch.arange(64 * 30 + 10) * 0.15) * 0.3
    noise = Noise(torch.Generator().manual_seed(0))
    enhanced = vocoder.enhance(samples, torch.full((30,), 190.0), adaptive_key=key, noise=noise)
    assert enhanced.isfinite().all()
    assert len(samples) - 2 * 64 <= len(enhanced) <= len(samples) + 1


def test_missing_model_file_names_what_belongs_there(folder):
    (folder / "model").unlink()
    with pytest.raises(VocoderError, match="no such file.*'model' and 'config.json'"):
        load_vocoder(folder)


def test_config_of_something_else_is_refused(folder):
    (folder / "config.json").write_text(json.dumps({"sampling_rate": 8000}), encoding="utf-8")
    with pytest.raises(VocoderError, match="lacks num_mels"):
        load_vocoder(folder)
