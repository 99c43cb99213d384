"""Training a vocoder, and the files it writes."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb import SvcError
from svcnb.audio.audio import Audio, read_audio
from svcnb.cli.main import main
from svcnb.conversion.self_conversion import LARGEST_RATIO, N_VERSIONS
from svcnb.models import vocoder
from svcnb.models.vocoder import step as vocoder_step
from svcnb.models.vocoder.config import Config as VocoderConfig
from svcnb.models.vocoder.files import load_vocoder
from svcnb.nn.discriminators import MultiPeriodDiscriminator
from svcnb.training.settings import TrainSettings
from tests.places import BUNDLED_REFERENCE
from tests.toys.tiny_vocoder import (
    HOP,
    N_CLIPS,
    N_FRAMES,
    RATE_HZ,
    frame_config,
    nsf_config,
    sung,
    write_clips,
    write_features,
)

FAST = {"device": "cpu", "log_every_steps": 1, "validate_every_steps": 1000}


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(tmp_path_factory.mktemp("vocoder") / "features")


def history(folder: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [line[kind] for line in lines if kind in line]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model", weights_only=True)["generator"]


def distance(folder: Path, number: int) -> float:
    """Mean difference of log mels between a clip and its copy synthesis."""
    samples, f0_hz = (torch.from_numpy(x)[None] for x in sung(number))
    loaded = load_vocoder(folder)
    with torch.no_grad():
        mel = loaded.mel(samples)
        return float((loaded.mel(loaded(mel, f0_hz)[:, 0]) - mel).abs().mean())


def test_small_training_lowers_losses_and_improves_the_vocoder(features: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vocoder"
    vocoder.train(
        features, folder, TrainSettings(max_steps=1, **FAST), config=frame_config(learning_rate=3e-3)
    )
    untrained = distance(folder, 0)
    report = vocoder.train(features, folder, TrainSettings(max_steps=60, **FAST))
    losses = history(folder, "losses")
    assert report.step == 60 and losses[-1]["total"] < 0.7 * losses[0]["total"]
    assert distance(folder, 0) < 0.7 * untrained
    assert report.best.measure == "mel" and history(folder, "validation")[-1]["mel"] == pytest.approx(
        report.best.value
    )
    assert {path.name for path in folder.iterdir()} == {
        "model",
        "config.json",
        "checkpoint_1.pt",
        "checkpoint_60.pt",
        "state.json",
        "history.jsonl",
        "samples",
    }


@pytest.mark.parametrize("config", [frame_config(), nsf_config()], ids=["svcnb-frame", "nsf-hifigan"])
def test_a_resumed_training_ends_with_the_same_weights(
    config: VocoderConfig, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_scale = MultiPeriodDiscriminator(periods=())  # all of them would take 30 s
    monkeypatch.setattr(vocoder_step, "MultiPeriodDiscriminator", lambda **_: copy.deepcopy(one_scale))
    for folder, stops in ((tmp_path / "whole", (3,)), (tmp_path / "parts", (1, 3))):
        for step in stops:
            vocoder.train(features, folder, TrainSettings(max_steps=step, **FAST), config=config)
            torch.rand(5), np.random.rand(3)
    whole, parts = (
        torch.load(tmp_path / name / "checkpoint_3.pt", weights_only=True) for name in ("whole", "parts")
    )
    for part in whole.keys() - {"optimizers"}:
        for name, value in whole[part].items():
            assert torch.equal(value, parts[part][name]), f"{part} {name}"
    assert ("discriminator" in whole) == (not config.is_small)


def test_discriminators_take_part_in_the_full_kind_of_training(features: Path, tmp_path: Path) -> None:
    vocoder.train(features, tmp_path, TrainSettings(max_steps=2, **FAST), config=nsf_config())
    losses = history(tmp_path, "losses")[-1]
    assert set(losses) == {"total", "mel", "fm", "gen", "disc"}
    assert losses["total"] == pytest.approx(45 * losses["mel"] + losses["fm"] + losses["gen"], rel=1e-5)
    scales = {
        name.split(".")[1]
        for name in torch.load(tmp_path / "checkpoint_2.pt", weights_only=True)["discriminator"]
        if name.startswith("coarser.")
    }
    assert scales == {"0", "1"}, "HiFi-GAN discriminates the waveform at three scales"


def test_model_is_the_best_checkpoint_not_the_newest(features: Path, tmp_path: Path) -> None:
    vocoder.train(features, tmp_path, TrainSettings(max_steps=8, **FAST), config=frame_config())
    best = weights(tmp_path)
    spoiling = frame_config(learning_rate=2.0)
    spoiling.save(tmp_path)
    report = vocoder.train(features, tmp_path, TrainSettings(max_steps=10, **FAST))
    assert report.best.step == 8 and report.step == 10
    assert all(torch.equal(value, best[name]) for name, value in weights(tmp_path).items())


def test_clips_without_features_train_too(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips")
    report = vocoder.train(
        clips, tmp_path / "vocoder", TrainSettings(max_steps=2, **FAST), config=frame_config()
    )
    assert report.step == 2 and report.last_validation["mel"] > 0
    assert load_vocoder(tmp_path / "vocoder").settings.sampling_rate == RATE_HZ


def test_features_on_another_grid_are_refused_with_both_grids(tmp_path: Path) -> None:
    other = write_features(tmp_path / "features", hop=2 * HOP)
    with pytest.raises(SvcError, match="8000 Hz and hop 128, the vocoder of 8000 Hz and hop 64"):
        vocoder.train(other, tmp_path / "vocoder", TrainSettings(max_steps=1, **FAST), config=frame_config())


def test_a_run_of_other_sizes_is_not_continued(features: Path, tmp_path: Path) -> None:
    vocoder.train(features, tmp_path, TrainSettings(max_steps=1, **FAST), config=frame_config())
    with pytest.raises(SvcError, match="other sizes"):
        vocoder.train(
            features, tmp_path, TrainSettings(max_steps=2, **FAST), config=frame_config(frame_channels=32)
        )


def test_training_starts_from_a_base_where_one_is_named(features: Path, tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "tuned"
    vocoder.train(features, base, TrainSettings(max_steps=40, **FAST), config=frame_config())
    vocoder.train(features, folder, TrainSettings(max_steps=1, **FAST), config=frame_config(), base=base)
    assert history(folder, "losses")[0]["total"] < 1.2 * history(base, "losses")[-1]["total"]
    with pytest.raises(SvcError, match="do not fit"):
        vocoder.train(
            features, tmp_path / "x", TrainSettings(max_steps=1, **FAST), config=nsf_config(), base=base
        )


class PlainEncoder:
    """A stub encoder."""

    name, width, hop_samples, network = "plain", 1, 320, None


class NoisyVoice:
    """Converts by adding white noise."""

    name, step, speakers = "noisy", 7, {"ada": 0}

    def __init__(self) -> None:
        self.encoder, self.ratios = PlainEncoder(), []

    def with_encoder(self, encoder) -> NoisyVoice:
        other = copy.copy(self)  # shares the list of ratios
        other.encoder = encoder
        return other

    def convert(self, audio: Audio, settings) -> Audio:
        assert settings.speaker == "ada"
        self.ratios.append(getattr(self.encoder, "ratio", 1.0))
        noise = 0.05 * np.random.default_rng(audio.n_samples).standard_normal(audio.n_samples)
        return Audio(audio.samples + noise.astype(np.float32), audio.sample_rate_hz)


def test_with_a_voice_the_vocoder_learns_to_refine_its_output(features: Path, tmp_path: Path) -> None:
    plain, refining = tmp_path / "plain", tmp_path / "refining"
    settings, config = TrainSettings(max_steps=120, **FAST), frame_config(learning_rate=3e-3)
    vocoder.train(features, plain, settings, config=config)
    voice = NoisyVoice()
    report = vocoder.train(features, refining, settings, config=config, voice=voice)
    assert report.best.measure == "voice_mel" and set(report.last_validation) == {"mel", "voice_mel"}
    n_held_out = len(json.loads((features / "split.json").read_text())["validation"])
    n_perturbed = N_VERSIONS * (N_CLIPS - n_held_out)
    assert len(list((refining / "spoken" / "ada").glob("*.flac"))) == n_held_out + n_perturbed
    perturbed = [ratio for ratio in voice.ratios if ratio != 1]
    assert len(set(perturbed)) == len(perturbed) == n_perturbed, "for training clips the content is perturbed"
    assert 1 / LARGEST_RATIO <= min(perturbed) < 1 < max(perturbed) <= LARGEST_RATIO
    recording, f0_hz = sung(0)
    noisy = read_audio(refining / "spoken" / "ada" / "0.flac.0.flac").samples
    assert len(noisy) == N_FRAMES * HOP
    distances = []
    for folder in (plain, refining):
        loaded = load_vocoder(folder)
        with torch.no_grad():
            refined = loaded(loaded.mel(torch.from_numpy(noisy)[None]), torch.from_numpy(f0_hz)[None])[:, 0]
            target = loaded.mel(torch.from_numpy(recording)[None])
            distances.append(float((loaded.mel(refined) - target).abs().mean()))
    assert distances[1] < 0.8 * distances[0], distances


def test_clips_converted_at_another_step_are_not_used_for_this_voice(features: Path, tmp_path: Path) -> None:
    settings, later = TrainSettings(max_steps=1, **FAST), NoisyVoice()
    vocoder.train(features, tmp_path, settings, config=frame_config(), voice=NoisyVoice())
    later.step = 8
    with pytest.raises(SvcError, match="delete that folder"):
        vocoder.train(features, tmp_path, settings, config=frame_config(), voice=later)


# ---------------------------------------------------------------- config


def test_full_config_is_written_with_the_familys_keys_only(tmp_path: Path) -> None:
    published = json.loads((BUNDLED_REFERENCE / "nsf_hifigan_small" / "config.json").read_text())
    stored = json.loads(VocoderConfig.full().save(tmp_path).read_text())
    assert set(stored) == set(published)
    assert VocoderConfig.load(tmp_path) == VocoderConfig.full()


def test_small_config_names_its_network_and_survives_a_round_trip(tmp_path: Path) -> None:
    stored = json.loads(VocoderConfig.small().save(tmp_path).read_text())
    assert (stored["vocoder_name"], stored["frame_channels"], stored["frame_blocks"]) == (
        "svcnb-frame",
        256,
        6,
    )
    assert VocoderConfig.load(tmp_path) == VocoderConfig.small()


def test_config_of_a_release_keeps_keys_that_are_not_ours(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(VocoderConfig.full().to_dict() | {"dist_url": "x"}))
    assert json.loads(VocoderConfig.load(tmp_path).save(tmp_path).read_text())["dist_url"] == "x"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "not a JSON config"),
        ("[]", "does not fit"),
        ('{"batch_size": 0}', "batch_size"),
    ],
)
def test_broken_config_is_refused_by_key(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(SvcError, match=message):
        VocoderConfig.load(tmp_path)


def test_command_trains_and_resumes(features: Path, tmp_path: Path, capsys) -> None:
    frame_config().save(tmp_path)
    words = [
        "vocoder",
        str(features),
        str(tmp_path / "out"),
        "--config",
        str(tmp_path / "config.json"),
        "-d",
        "cpu",
    ]
    assert main([*words, "--max_steps", "2"]) == 0
    assert main([*words, "--max_steps", "3"]) == 0
    assert "1 steps in" in capsys.readouterr().out
    assert main(["vocoder", str(tmp_path / "nowhere"), str(tmp_path / "x"), "--max_steps", "1"]) == 2
    assert "nowhere" in capsys.readouterr().err
