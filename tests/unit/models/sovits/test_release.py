"""Mixing several voices into one, and compressing a voice to a release file."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb import SvcError
from svcnb.cli.main import main
from svcnb.files.checkpoint import read_checkpoint
from svcnb.models import sovits
from svcnb.models.sovits.checkpoint import save_sovits_checkpoint
from svcnb.models.sovits.release import compress_voice, mixing_weights
from tests.toys.tiny_voice import tiny_config as family_config


def write_voice(folder: Path, *, seed: int, config: sovits.Config | None = None, iteration: int = 7) -> Path:
    """A tiny voice: real decoder, shared flow, loudness embedding, two speakers, trained optimiser."""
    config = config or family_config()
    config.model.speech_encoder, config.model.ssl_dim = "vec768l12", 768
    config.save(folder / "config.json")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = sovits.build(config).generator
        optimizer = torch.optim.AdamW(generator.parameters())
        sum(parameter.sum() for parameter in generator.parameters()).backward()
        optimizer.step()
    save_sovits_checkpoint(
        folder / "G_20.pth",
        model_state=generator.state_dict(),
        iteration=iteration,
        learning_rate=3e-4,
        optimizer_state=optimizer.state_dict(),
    )
    return folder


def changed(folder: Path, other: Path, change) -> Path:
    """A copy of a voice with another config."""
    shutil.copytree(folder, other)
    config = sovits.Config.load(other / "config.json")
    change(config)
    config.save(other / "config.json")
    return other


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("voices")
    return write_voice(folder / "one", seed=1), write_voice(folder / "two", seed=2, iteration=9)


def model_of(path: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(path)["model"]


# ------------------------------------------------------------------------------------------------- mixing


def test_rates_become_weights_as_in_the_original() -> None:
    assert mixing_weights([70, 30], "linear") == [0.7, 0.3]
    np.testing.assert_allclose(mixing_weights([100, 0], "convex"), np.exp([1, 0]) / np.exp([1, 0]).sum())
    assert sum(mixing_weights([500, -40, 12], "convex")) == pytest.approx(1)
    with pytest.raises(SvcError, match="convex or linear"):
        mixing_weights([1, 1], "average")
    with pytest.raises(SvcError, match="expected numbers"):
        mixing_weights([1, float("nan")], "linear")


def test_every_tensor_is_the_weighted_sum_and_the_rest_is_the_first_ones(voices, tmp_path: Path) -> None:
    report = sovits.mix_voices(voices, tmp_path / "mixed", rates=[70, 30], mode="linear")
    assert report.path == tmp_path / "mixed" / "G_20.pth" and list(report.weights.values()) == [0.7, 0.3]
    one, two, mixed = (model_of(folder / "G_20.pth") for folder in (*voices, tmp_path / "mixed"))
    assert list(mixed) == list(one)
    for name in mixed:
        torch.testing.assert_close(mixed[name], 0.7 * one[name] + 0.3 * two[name], atol=1e-6, rtol=1e-5)
    stored = read_checkpoint(report.path)
    assert stored["iteration"] == 7 and stored["learning_rate"] == 3e-4 and stored["optimizer"]["state"]
    assert (
        mixed["flow.wn.in_layers.0.point_conv.bias"].data_ptr()
        == mixed["flow.flows.2.enc.in_layers.0.point_conv.bias"].data_ptr()
    )
    assert report.path.stat().st_size < 1.02 * (voices[0] / "G_20.pth").stat().st_size, (
        "shared layers are stored once"
    )
    assert "0.700 x one/G_20.pth + 0.300 x two/G_20.pth; speakers: ada, bob" in str(report)


def test_a_mix_of_one_voice_with_itself_is_that_voice(voices, tmp_path: Path) -> None:
    shutil.copytree(voices[0], tmp_path / "copy")
    sovits.mix_voices([voices[0], tmp_path / "copy"], tmp_path / "mixed")
    one, mixed = model_of(voices[0] / "G_20.pth"), model_of(tmp_path / "mixed" / "G_20.pth")
    assert all(torch.allclose(one[name], mixed[name], atol=1e-7) for name in one)


def test_a_mixed_voice_loads_and_synthesizes(voices, tmp_path: Path) -> None:
    assert main(["mix", *map(str, voices), "--weights", "60", "40", "-o", str(tmp_path / "mixed")]) == 0
    _, generator, report = read_generator(tmp_path / "mixed")
    assert not report.missing
    audio = generator.infer(*inputs()).audio
    assert audio.shape == (1, 1, 30 * 64) and torch.isfinite(audio).all() and audio.abs().max() > 0


def read_generator(folder: Path):
    from svcnb.models.sovits.voice import read_generator

    return read_generator(*sorted(folder.glob("G_*.pth")), folder / "config.json")


def inputs() -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    f0_hz = torch.full((1, 30), 150.0)
    return torch.randn(1, 768, 30, generator=draw), f0_hz, torch.ones(1, 30), torch.tensor([[1]])


def test_voices_that_cannot_be_mixed_are_refused_by_name(voices, tmp_path: Path) -> None:
    one, two = voices
    with pytest.raises(SvcError, match="two different checkpoints"):
        sovits.mix_voices([one, one], tmp_path / "mixed")
    with pytest.raises(SvcError, match="3 rates for 2 checkpoints"):
        sovits.mix_voices(voices, tmp_path / "mixed", rates=[1, 2, 3])
    other = changed(one, tmp_path / "other", lambda config: setattr(config.data, "sampling_rate", 16000))
    with pytest.raises(SvcError, match="data.sampling_rate is 8000 for .*, 16000 for"):
        sovits.mix_voices([two, other], tmp_path / "mixed")
    encoder = changed(
        one, tmp_path / "encoder", lambda config: setattr(config.model, "speech_encoder", "wavlmbase+")
    )
    with pytest.raises(SvcError, match="model.speech_encoder is 'vec768l12' .*'wavlmbase[+]'"):
        sovits.mix_voices([two, encoder], tmp_path / "mixed")
    compress_voice(one, tmp_path / "released")
    with pytest.raises(SvcError, match=r"enc_q\.\S+ is in .*two/G_20.pth, not in .*released/G_20.pth"):
        sovits.mix_voices([two, tmp_path / "released"], tmp_path / "mixed")
    state = model_of(one / "G_20.pth")
    state["emb_g.weight"] = torch.zeros(5, 8)
    shutil.copytree(one, tmp_path / "wide")
    save_sovits_checkpoint(tmp_path / "wide" / "G_20.pth", model_state=state, iteration=0, learning_rate=1e-4)
    with pytest.raises(SvcError, match=r"emb_g.weight is \(2, 8\) in .*, \(5, 8\) in"):
        sovits.mix_voices([two, tmp_path / "wide"], tmp_path / "mixed")
    assert not (tmp_path / "mixed").exists(), "nothing was written"


def test_no_voice_is_overwritten_by_a_mix(voices, tmp_path: Path) -> None:
    before = (voices[0] / "G_20.pth").read_bytes()
    with pytest.raises(SvcError, match="is one of the files to be mixed"):
        sovits.mix_voices(voices, voices[0])
    stranger = changed(voices[0], tmp_path / "stranger", lambda config: setattr(config, "spk", {"eve": 0}))
    with pytest.raises(SvcError, match="holds another voice"):
        sovits.mix_voices(voices, stranger)
    assert (voices[0] / "G_20.pth").read_bytes() == before


# ------------------------------------------------------------------------------------------------- release files


def test_a_release_file_has_no_posterior_and_a_fresh_optimiser_of_the_whole_network(
    voices, tmp_path: Path
) -> None:
    report = compress_voice(voices[0], tmp_path / "small.pth")
    stored = read_checkpoint(report.path)
    assert list(stored) == ["model", "iteration", "optimizer", "learning_rate"]
    assert (stored["iteration"], stored["learning_rate"], stored["optimizer"]["state"]) == (0, 1e-4, {})
    whole = model_of(voices[0] / "G_20.pth")
    assert list(stored["model"]) == [name for name in whole if not name.startswith("enc_q.")]
    # so-vits-svc builds the whole network and lets torch compare the number of its parameters with the file's
    network = sovits.build(sovits.Config.load(voices[0] / "config.json")).generator
    torch.optim.AdamW(network.parameters()).load_state_dict(stored["optimizer"])
    assert report.n_bytes < report.n_bytes_before / 2 and f"{report.n_bytes / 1e6:.1f} MB" in str(report)
    assert (tmp_path / "config.json").read_bytes() == (voices[0] / "config.json").read_bytes()


def test_a_release_file_gives_the_same_audio_and_in_float16_nearly_the_same(voices, tmp_path: Path) -> None:
    compress_voice(voices[0], tmp_path / "whole")
    assert main(["compress", str(voices[0]), "-o", str(tmp_path / "half"), "-hf"]) == 0
    audio = [
        read_generator(folder)[1].infer(*inputs(), noise=fixed_noise()).audio
        for folder in (voices[0], tmp_path / "whole", tmp_path / "half")
    ]
    assert torch.equal(audio[0], audio[1])
    assert 0 < (audio[0] - audio[2]).abs().max() < 0.02 * audio[0].abs().max()
    sizes = [(tmp_path / name / "G_20.pth").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.75 * sizes[0]
    half = model_of(tmp_path / "half" / "G_20.pth")
    assert half["flow.wn.cond_layer.bias"].data_ptr() == half["flow.flows.0.enc.cond_layer.bias"].data_ptr()


def fixed_noise():
    from svcnb.nn.layers import Noise

    return Noise(torch.Generator().manual_seed(1))


def test_a_release_file_beside_a_checkpoint_is_not_taken_for_the_newest(voices, tmp_path: Path) -> None:
    folder = tmp_path / "voice"
    shutil.copytree(voices[0], folder)
    report = compress_voice(folder)
    assert report.path == folder / "G_20_release.pth"
    from svcnb.models.sovits.files import locate_voice

    assert locate_voice(folder, None)[0].name == "G_20.pth"
    with pytest.raises(SvcError, match="would be overwritten"):
        compress_voice(folder, folder / "G_20.pth")
