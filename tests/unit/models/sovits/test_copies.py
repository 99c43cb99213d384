"""Copy synthesis by posterior and decoder: length, repeatability, networks used, release files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb import SvcError
from svcnb.audio.audio import Audio
from svcnb.models import sovits
from svcnb.models.sovits.checkpoint import read_sovits_checkpoint, save_sovits_checkpoint, slim_sovits
from tests.toys.small_voice import save_small_voice

RATE_HZ = 16000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_voice(tmp_path_factory.mktemp("copies"), speakers=("ada", "bob"))


@pytest.fixture
def voice(folder: Path) -> sovits.Voice:
    return sovits.load_voice(folder)


@pytest.fixture(scope="module")
def recording() -> Audio:
    time_s = np.arange(round(1.237 * RATE_HZ)) / RATE_HZ
    return Audio(0.1 * sum(np.sin(2 * np.pi * 180 * k * time_s) / k for k in range(1, 9)), RATE_HZ)


def test_copy_synthesis_keeps_the_length_and_is_reproducible(voice: sovits.Voice, recording: Audio) -> None:
    first, second = voice.resynthesise(recording), voice.resynthesise(recording)
    assert first.sample_rate_hz == voice.sample_rate_hz
    assert first.n_samples == round(recording.duration_s * voice.sample_rate_hz)
    assert np.array_equal(first.samples, second.samples) and first.peak > 0


def test_copy_synthesis_uses_only_posterior_and_decoder(voice: sovits.Voice, recording: Audio) -> None:
    before = voice.resynthesise(recording)
    with torch.no_grad():
        for part in (voice.generator.enc_p, voice.generator.flow, voice.generator.pre):
            for weight in part.parameters():
                weight.zero_()
    assert np.array_equal(voice.resynthesise(recording).samples, before.samples)
    with torch.no_grad():
        voice.generator.enc_q.proj.bias.add_(1.0)
    assert not np.array_equal(voice.resynthesise(recording).samples, before.samples)


def test_the_speaker_changes_the_result_and_is_checked(voice: sovits.Voice, recording: Audio) -> None:
    ada, bob = (voice.resynthesise(recording, name).samples for name in ("ada", "bob"))
    assert not np.array_equal(ada, bob)
    with pytest.raises(SvcError, match="eve"):
        voice.resynthesise(recording, "eve")


def test_copy_synthesis_from_a_release_file_raises(folder: Path, recording: Audio, tmp_path: Path) -> None:
    state = slim_sovits(read_sovits_checkpoint(folder / "G_0.pth").model)
    save_sovits_checkpoint(tmp_path / "G_0.pth", model_state=state, iteration=1, learning_rate=1e-4)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    released = sovits.load_voice(tmp_path)
    assert not released.has_posterior
    with pytest.raises(SvcError, match="release file"):
        released.resynthesise(recording)
    assert released.convert(recording).n_samples > 0


def test_the_fingerprint_changes_with_weights_and_centres(folder: Path, tmp_path: Path) -> None:
    for name in ("G_0.pth", "config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    voice, same = sovits.load_voice(folder), sovits.load_voice(tmp_path)
    assert voice.fingerprint() == same.fingerprint()
    (tmp_path / "kmeans_10.pt").write_bytes(b"centres")
    assert sovits.load_voice(tmp_path).fingerprint() != voice.fingerprint()
    with torch.no_grad():
        next(same.generator.parameters()).add_(1e-3)
    assert same.fingerprint() != voice.fingerprint()
