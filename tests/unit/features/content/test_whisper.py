"""Whisper encoder: small files in OpenAI's layout against a reference implementation, and long audio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from svcnb.features.content.encoders import load_encoder
from svcnb.features.content.whisper import WhisperEncoder, WhisperNetwork, window_starts
from svcnb.files.unpickling import CheckpointError
from tests.toys.encoder_files import log_mel_by_hand, whisper_by_hand, whisper_dims, whisper_state
from tests.unit.features.content.test_encoders import voice_like

pytestmark = pytest.mark.filterwarnings("ignore:.*values per frame")  # the files are small ones
HOP = 320


def save_whisper(path: Path, **changes: int) -> tuple[dict[str, int], dict[str, torch.Tensor]]:
    dims = whisper_dims(**changes)
    state = whisper_state(dims)
    torch.save({"dims": dims, "model_state_dict": state}, path)
    return dims, state


FILES = [
    ("whisper-ppg", "medium.pt"),
    ("whisper-ppg-large", "large-v2.pt"),
    ("whisper-ppg-small", "small.pt"),
]


@pytest.mark.parametrize(("name", "file_name"), FILES)
def test_up_to_a_window_the_content_is_the_originals(tmp_path: Path, name: str, file_name: str) -> None:
    dims, state = save_whisper(tmp_path / file_name)
    encoder = load_encoder(name, folder=tmp_path)
    assert (encoder.name, encoder.width, encoder.hop_samples) == (name, 16, HOP)
    for n_samples in (HOP, 9000, 60 * HOP, 60 * HOP + HOP - 1):
        samples = voice_like(n_samples)
        mel = log_mel_by_hand(samples[: 60 * HOP], 60 * HOP, dims["n_mels"])
        expected = whisper_by_hand(state, torch.from_numpy(mel).float(), n_heads=2)[: n_samples // HOP]
        ours = encoder.encode(samples)
        assert ours.shape == (n_samples // HOP, 16)
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_the_log_mel_spectrum_is_whispers(tmp_path: Path) -> None:
    """At its own size: 30 s, 80 bands."""
    save_whisper(tmp_path / "medium.pt", n_mels=80, n_audio_ctx=1500, n_audio_layer=1)
    network = load_encoder("whisper-ppg", folder=tmp_path).network
    samples = voice_like(3 * 16000)
    ours = network.log_mel(torch.from_numpy(samples)[None])[0]
    expected = log_mel_by_hand(samples, 480000, 80)
    assert ours.shape == expected.shape == (80, 3000)
    np.testing.assert_allclose(ours.numpy(), expected, atol=2e-4)


def test_transformers_feature_extractor_gives_the_same_spectrum(tmp_path: Path) -> None:
    from transformers import WhisperFeatureExtractor

    save_whisper(tmp_path / "medium.pt", n_mels=80, n_audio_ctx=1500, n_audio_layer=1)
    network = load_encoder("whisper-ppg", folder=tmp_path).network
    samples = voice_like(2 * 16000)
    theirs = WhisperFeatureExtractor()(samples, sampling_rate=16000, return_tensors="pt").input_features
    torch.testing.assert_close(network.log_mel(torch.from_numpy(samples)[None]), theirs, atol=2e-4, rtol=0)


# longer than a window


@pytest.mark.parametrize("n_frames", [1, 59, 60, 61, 70, 110, 111, 163, 500])
def test_every_frame_of_a_long_recording_comes_out(tmp_path: Path, n_frames: int) -> None:
    save_whisper(tmp_path / "medium.pt")
    encoder = load_encoder("whisper-ppg", folder=tmp_path)
    content = encoder.encode(voice_like(n_frames * HOP + 17))
    assert content.shape == (n_frames, 16)
    assert torch.isfinite(content).all()


@pytest.mark.parametrize("n_frames", [1, 1500, 1501, 2750, 2751, 10_000])
def test_windows_are_full_evenly_spread_and_overlap_by_five_seconds(n_frames: int) -> None:
    starts = window_starts(n_frames, 1500)
    steps = np.diff(starts)
    assert starts[0] == 0 and starts[-1] + 1500 == max(1500, n_frames)
    assert all(step <= 1250 for step in steps) and max(steps, default=0) - min(steps, default=0) <= 1
    assert len(starts) == 1 + -(-max(0, n_frames - 1500) // 1250)


def test_in_the_middle_of_each_window_the_content_is_that_windows(tmp_path: Path) -> None:
    save_whisper(tmp_path / "medium.pt")
    encoder = load_encoder("whisper-ppg", folder=tmp_path)
    samples = voice_like(160 * HOP)
    whole = encoder.encode(samples)
    starts = window_starts(160, 60)
    assert starts == [0, 50, 100]
    for start in starts:
        window = encoder.encode(samples[start * HOP : (start + 60) * HOP])
        torch.testing.assert_close(whole[start + 6 : start + 54], window[6:54])
    torch.testing.assert_close(whole[:6], encoder.encode(samples[: 60 * HOP])[:6])


def test_audio_after_thirty_seconds_is_encoded(tmp_path: Path) -> None:
    save_whisper(tmp_path / "medium.pt", n_audio_ctx=1500, n_audio_layer=1)
    encoder = load_encoder("whisper-ppg", folder=tmp_path)
    samples = voice_like(40 * 16000)
    silenced = samples.copy()
    silenced[36 * 16000 : 37 * 16000] = 0
    difference = (encoder.encode(samples) - encoder.encode(silenced)).abs().amax(1)
    assert len(difference) == 2000
    assert difference[1800:1850].min() > 100 * difference[:500].max()


class LocalNetwork(nn.Module):
    """Content is the loudness of each frame plus the window number, so that the seams are visible."""

    width, window_frames = 1, 1500

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", torch.zeros(1))
        self.n_calls = 0

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        self.n_calls += 1
        loudness = waveform.unflatten(1, (1500, HOP)).abs().mean(2)
        return (loudness + self.n_calls - 1)[..., None]


def test_windows_are_cross_faded_over_a_second_where_both_have_context() -> None:
    samples = torch.from_numpy(voice_like(4500 * HOP))
    content = WhisperEncoder(LocalNetwork(), name="local").encode(samples)[:, 0]
    offset = content - samples.unflatten(0, (4500, HOP)).abs().mean(1)
    steps = offset.diff()
    assert abs(float(offset[0])) < 1e-5 and abs(float(offset[-1]) - 3) < 1e-5
    assert steps.min() > -1e-5 and steps.max() < 1 / 50 + 1e-5
    starts = window_starts(4500, 1500)
    fading = (steps > 1e-4).nonzero()[:, 0]
    for before, start in zip(starts, starts[1:], strict=False):
        own = fading[(fading > start) & (fading < before + 1500)]
        assert own.min() - start >= 100 and before + 1500 - own.max() >= 100  # 2 s


# files that are not what they should be


def test_another_programs_file_is_named(tmp_path: Path) -> None:
    torch.save({"model": {}, "cfg": {}}, tmp_path / "medium.pt")
    with pytest.raises(
        CheckpointError, match=r"keys \['cfg', 'model'\], expected 'model_state_dict' and 'dims'"
    ):
        load_encoder("whisper-ppg", folder=tmp_path)
    torch.save({"dims": {"n_mels": 80}, "model_state_dict": {}}, tmp_path / "medium.pt")
    with pytest.raises(CheckpointError, match="'dims' with n_mels, n_audio_ctx"):
        load_encoder("whisper-ppg", folder=tmp_path)


def test_weights_that_do_not_fit_their_dims_are_listed(tmp_path: Path) -> None:
    dims, state = save_whisper(tmp_path / "medium.pt")
    del state["encoder.ln_post.bias"]
    state["encoder.extra"] = torch.ones(2)
    torch.save({"dims": dims | {"n_mels": 40}, "model_state_dict": state}, tmp_path / "medium.pt")
    with pytest.raises(CheckpointError) as caught:
        load_encoder("whisper-ppg", folder=tmp_path)
    mels = "conv1.weight is (16, 20, 3), expected (16, 40, 3)"
    for message in ("missing layer_norm.bias (16,)", "unexpected extra (2,)", mels):
        assert message in str(caught.value)
    torch.save(
        {"dims": dims, "model_state_dict": {"decoder.ln.weight": torch.ones(1)}}, tmp_path / "medium.pt"
    )
    with pytest.raises(CheckpointError, match="no encoder.blocks.0.mlp.0.weight among the weights"):
        load_encoder("whisper-ppg", folder=tmp_path)


def test_samples_must_be_one_waveform(tmp_path: Path) -> None:
    save_whisper(tmp_path / "medium.pt")
    encoder = load_encoder("whisper-ppg", folder=tmp_path)
    assert isinstance(encoder.network, WhisperNetwork)
    with pytest.raises(ValueError, match=r"\(2, 5\), expected \[T\]"):
        encoder.encode(np.zeros((2, 5), np.float32))
    assert encoder.encode(np.zeros(3, np.float32)).shape == (1, 16)
