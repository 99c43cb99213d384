"""A voice's diffusion model in a conversion: after the generator, instead of it, and refusals."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from svcnb import SvcError
from svcnb.audio.audio import Audio
from svcnb.conversion.settings import ConversionSettings
from svcnb.models import sovits
from svcnb.models.diffusion.checkpoint import (
    DiffusionFiles,
    read_diffusion_checkpoint,
    save_diffusion_checkpoint,
)
from svcnb.models.diffusion.config import Config as DiffusionConfig
from svcnb.models.diffusion.sampler import DiffusionError
from svcnb.models.sovits.diffusion_voice import load_diffusion_voice
from svcnb.models.sovits.voice import Voice
from svcnb.models.vocoder.network import VocoderError
from tests.toys.small_voice import save_small_voice
from tests.toys.tiny_diffusion import FULL_GRID, SMALL_GRID, write_model, write_vocoder

RATE_HZ = 22050


@pytest.fixture(scope="module")
def song() -> Audio:
    time = np.arange(round(1.3 * RATE_HZ)) / RATE_HZ
    tone = sum(np.sin(2 * np.pi * 180 * k * time) / k for k in range(1, 9))
    noise = np.random.default_rng(0).standard_normal(len(time))
    return Audio((0.1 * tone + 0.01 * noise).astype(np.float32), RATE_HZ)


@pytest.fixture(scope="module")
def small_voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_voice(tmp_path_factory.mktemp("voice"))


@pytest.fixture
def folder(small_voice: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_voice, tmp_path / "ada"))


def settings(**choices) -> ConversionSettings:
    return ConversionSettings(**{"f0_method": "dio", "shallow_diffusion": True, "k_step": 20} | choices)


def convert(folder: Path, song: Audio, **choices) -> np.ndarray:
    return sovits.load_voice(folder).convert(song, settings(**choices)).samples


def vocoder_mel(voice: Voice, song: Audio, **choices) -> torch.Tensor:
    """The vocoder's input mel [1, M, N]; the output of an untrained vocoder hardly depends on it."""
    vocoder = voice.refiners.diffuser().vocoder
    given: list[torch.Tensor] = []
    hop = vocoder.settings.hop_size
    with patch.object(
        vocoder, "forward", lambda mel, f0, noise: given.append(mel) or torch.zeros(1, 1, f0.shape[1] * hop)
    ):
        voice.convert(song, settings(**choices))
    (mel,) = given
    return mel


# ------------------------------------------------------------------------------------------------- shallow


@pytest.mark.parametrize("grid", [SMALL_GRID, FULL_GRID], ids=["22 kHz", "44 kHz"])
def test_shallow_diffusion_changes_audio_but_not_its_length(folder: Path, song: Audio, grid: dict) -> None:
    write_model(folder, grid)
    plain, refined, again = (convert(folder, song, shallow_diffusion=on) for on in (False, True, True))
    assert len(refined) == len(plain) == song.n_samples and np.isfinite(refined).all()
    assert np.abs(refined - plain).max() > 1e-3
    np.testing.assert_array_equal(refined, again)


def test_second_encoding_and_more_noise_steps_change_the_mel(folder: Path, song: Audio) -> None:
    write_model(folder)
    voice = sovits.load_voice(folder)
    choices = ({}, {"second_encoding": True}, {"k_step": 150})
    plain, reencoded, more_steps = (vocoder_mel(voice, song, **choice) for choice in choices)
    assert float((plain - reencoded).abs().max()) > 1e-3
    assert float((plain - more_steps).abs().mean()) > 0.1


def test_the_start_mel_is_kept_if_no_noise_is_predicted(folder: Path, song: Audio) -> None:
    """A model that predicts no noise returns the start mel, so the frames must be aligned."""
    path = write_model(folder)
    stored = read_diffusion_checkpoint(path)
    weights = {
        name: value * 0 if "denoise_fn.output" in name else value for name, value in stored.model.items()
    }
    save_diffusion_checkpoint(path, model_state=weights, global_step=0)
    voice = sovits.load_voice(folder)
    plain = voice.convert(song, settings(shallow_diffusion=False, pad_seconds=0)).samples
    wanted = voice.refiners.diffuser().mel(plain)[0, 10:-10].T
    mel = vocoder_mel(voice, song, k_step=1, pad_seconds=0)
    gap = (mel[0][:, 10 : 10 + wanted.shape[1]] - wanted).abs()
    assert float(gap.median()) < 0.3  # step 0 is noise of 0.07 in these logarithms


def test_shallow_diffusion_replaces_the_enhancer(folder: Path, song: Audio) -> None:
    write_model(folder)
    with pytest.warns(UserWarning, match="-eh"):
        both = convert(folder, song, enhance=True)
    np.testing.assert_array_equal(both, convert(folder, song))


def test_the_best_checkpoint_is_taken_and_another_by_name(folder: Path, song: Audio) -> None:
    first = write_model(folder, step=10)
    write_model(folder, step=20)
    newest, named = (
        sovits.load_voice(folder),
        sovits.load_voice(folder, diffusion=DiffusionFiles(model=first)),
    )
    assert float((vocoder_mel(newest, song) - vocoder_mel(named, song)).abs().mean()) > 0.1


def test_mixed_speakers_are_mixed_in_the_diffusion_too(tmp_path: Path, song: Audio) -> None:
    folder = save_small_voice(tmp_path / "duo", speakers=("ada", "bob"))
    write_model(folder)
    voice = sovits.load_voice(folder)
    mixes = ("ada=1,bob=0", "ada=0.5,bob=0.5", "ada=0,bob=1")
    ada, both, bob = (vocoder_mel(voice, song, speaker_mix=mix) for mix in mixes)
    assert float((ada - both).abs().max()) > 0.01 and float((bob - both).abs().max()) > 0.01
    torch.testing.assert_close(ada, vocoder_mel(voice, song, speaker="ada"), atol=1e-3, rtol=0)


# ------------------------------------------------------------------------------------------------- alone


def test_a_full_model_converts_alone_with_and_without_a_generator(
    folder: Path, song: Audio, tmp_path: Path
) -> None:
    write_model(folder, k_step_max=0)
    beside = convert(folder, song, only_diffusion=True)
    for generator in folder.glob("G_*.pth"):
        generator.unlink()
    voice = load_diffusion_voice(folder)
    alone = voice.convert(song, settings(only_diffusion=True)).samples
    assert len(alone) == song.n_samples and np.isfinite(alone).all() and np.abs(alone).max() > 0
    np.testing.assert_allclose(alone, beside, atol=1e-4)
    assert voice.result_name(Path("a.wav"), settings(only_diffusion=True)) == "a.wav_0key_ada_diff_dio.flac"
    with pytest.raises(SvcError, match="diffusion model alone: switch only_diffusion"):
        voice.check(settings())


def test_alone_and_enhanced_works_where_the_original_crashes(folder: Path, song: Audio) -> None:
    write_model(folder, k_step_max=0)
    plain, enhanced = (convert(folder, song, only_diffusion=True, enhance=on) for on in (False, True))
    assert len(enhanced) == song.n_samples and np.abs(enhanced - plain).max() > 1e-4


def test_a_shallow_model_does_not_convert_alone(folder: Path) -> None:
    write_model(folder, k_step_max=100)
    with pytest.raises(DiffusionError, match="shallow one: it removes at most 100 of 1000"):
        sovits.load_voice(folder).check(settings(only_diffusion=True))


# ------------------------------------------------------------------------------------------------- refused


def refusal(folder: Path, **choices) -> str:
    with pytest.raises(SvcError) as refused:
        sovits.load_voice(folder).check(settings(**choices))
    return str(refused.value)


def test_missing_files_raise_before_anything_starts(folder: Path) -> None:
    assert "there is no diffusion model in" in refusal(folder) and "svcnb diffusion" in refusal(folder)
    model = write_model(folder)
    (folder / "diffusion" / "config.yaml").rename(folder / "elsewhere.yaml")
    assert "needs its config.yaml" in refusal(folder) and "-dc" in refusal(folder)
    voice = sovits.load_voice(folder, diffusion=DiffusionFiles(model, folder / "elsewhere.yaml"))
    voice.check(settings())
    (folder / "elsewhere.yaml").rename(folder / "diffusion" / "config.yaml")
    shutil.rmtree(folder / "vocoder")
    pretrain = folder / "pretrain"
    pretrain.mkdir()
    with pytest.raises(VocoderError, match="there is no vocoder in .* svcnb vocoder"):
        sovits.load_voice(folder, pretrain_folder=pretrain).check(settings())


def test_more_steps_than_trained_are_refused(folder: Path) -> None:
    write_model(folder, k_step_max=100)
    assert "k_step (-ks) is 101: this diffusion model removes 1 to 100" in refusal(folder, k_step=101)


def test_parts_that_do_not_fit_are_refused_by_name(folder: Path) -> None:
    write_model(folder)
    write_vocoder(folder / "vocoder", FULL_GRID)
    assert (
        "trained for a vocoder of 22050 Hz with 256 samples per frame, this one has 44100 Hz and 512"
        in refusal(folder)
    )
    write_vocoder(folder / "vocoder", SMALL_GRID | {"num_mels": 20})
    assert "output_projection.weight is (16, 8, 1), expected (20, 8, 1)" in refusal(folder)
    write_model(folder)
    path = folder / "diffusion" / "config.yaml"
    config = DiffusionConfig.load(path)
    config.data.encoder, config.data.encoder_out_channels = "vec768l12", 768
    config.save(path)
    assert "uses content of vec768l12 (768 values), voice ada of svcnb-units (96)" in refusal(folder)


def test_other_files_are_no_diffusion_model(folder: Path) -> None:
    write_model(folder)
    shutil.copy(folder / "G_0.pth", folder / "diffusion" / "model_0.pt")
    assert "is no diffusion model" in refusal(folder) and "-dm" in refusal(folder)


def test_speakers_are_matched_by_name(tmp_path: Path) -> None:
    folder = save_small_voice(tmp_path / "duo", speakers=("ada", "bob"))
    write_model(folder)
    path = folder / "diffusion" / "config.yaml"
    config = DiffusionConfig.load(path)
    config.spk = {"bob": 0, "ada": 1}
    config.save(path)
    diffuser = sovits.load_voice(folder).refiners.diffuser()
    assert diffuser.columns.tolist() == [[0, 1], [1, 0]]
    config.spk = {"bob": 0, "eve": 1}
    config.save(path)
    assert "has no speaker ada, only bob, eve" in refusal(folder)


# ------------------------------------------------------------------------------------------------- config


def test_config_has_the_familys_keys_and_defaults_and_survives_a_round_trip(tmp_path: Path) -> None:
    import yaml

    path = DiffusionConfig().save(tmp_path / "diffusion.yaml")
    stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert list(stored) == ["data", "model", "device", "vocoder", "infer", "env", "train", "spk"]
    assert stored["model"] == {
        "type": "Diffusion",
        "n_layers": 20,
        "n_chans": 512,
        "n_hidden": 256,
        "use_pitch_aug": True,
        "timesteps": 1000,
        "k_step_max": 0,
        "n_spk": 1,
    }
    assert (
        stored["infer"] == {"speedup": 10, "method": "dpm-solver++"} and stored["train"]["batch_size"] == 48
    )
    assert stored["data"]["unit_interpolate_mode"] == "nearest" and len(stored["train"]) == 15
    changed = DiffusionConfig.small()
    changed.spk = {"初音": 0}
    assert DiffusionConfig.load(changed.save(path)) == changed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {}\nmodel: {n_layer: 3}\nfoo: 1\n", r"model.n_layer: .*foo: "),
        ("model: {n_layers: 0}\n", "model.n_layers"),
        ("model: {}\ninfer: {method: euler}\n", "infer.method"),
        ("model: [", "is not a YAML config"),
        ("{}", "has no 'model' section"),
        ("model: !!python/object/apply:os.system ['true']\n", "is not a YAML config"),
    ],
)
def test_config_names_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SvcError, match=message):
        DiffusionConfig.load(path)


def test_config_of_a_fork_loads_and_an_older_one_expands_content_as_then(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "data: {encoder: vec768l12}\nmodel: {n_layers: 3, use_tanh: true}\nddsp: 1\nspk:\n", encoding="utf-8"
    )
    config = DiffusionConfig.load(path, strict=False)
    assert config.model.n_layers == 3 and config.data.unit_interpolate_mode == "left" and config.spk == {}


# ------------------------------------------------------------------------------------------------- command line


def test_flags_of_the_original_choose_the_diffusion(folder: Path, song: Audio, tmp_path: Path) -> None:
    from svcnb.audio.audio import write_audio
    from svcnb.cli.main import main

    model = write_model(folder, k_step_max=0)
    wav = write_audio(tmp_path / "song.wav", song)
    common = ["-f0p", "dio", "-o", str(tmp_path / "out"), "-d", "cpu", "-wf", "wav"]
    assert main(["convert", str(folder), str(wav), "-shd", "-ks", "15", "-se", *common]) == 0
    named = [
        "-dm",
        str(model),
        "-dc",
        str(model.with_name("config.yaml")),
        "--vocoder",
        str(folder / "vocoder"),
    ]
    assert main(["convert", "-n", str(wav), "-od", *named, *common]) == 0
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert [name.split("_")[3] for name in made] == ["diff", "sovdiff"]
    assert main(["convert", str(folder), str(wav), "-shd", "-ks", "0", *common]) == 2
