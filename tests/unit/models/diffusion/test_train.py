"""Training a diffusion model: crops, augmentation, refinement of self-converted clips, resuming."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from svcnb import SvcError
from svcnb.audio.audio import Audio
from svcnb.audio.spectral import VocoderMel
from svcnb.cli.main import main
from svcnb.conversion.self_conversion import self_convert_clips
from svcnb.conversion.settings import ConversionSettings
from svcnb.data.feature_store import FeatureStore
from svcnb.models import sovits
from svcnb.models.diffusion.checkpoint import read_diffusion_checkpoint, save_diffusion_checkpoint
from svcnb.models.diffusion.config import Config as DiffusionConfig
from svcnb.models.diffusion.data import MARGIN_FRAMES, DiffusionBatch, DiffusionClips, collate_crops
from svcnb.models.diffusion.train import _compare, _state, learning_rate, train_diffusion
from svcnb.models.settings import DiffusionChoices
from svcnb.models.vocoder.files import load_vocoder
from svcnb.training.settings import TrainSettings
from tests.toys.tiny_diffusion import content_of, tiny_diffusion, write_vocoder
from tests.toys.tiny_voice import HOP, RATE_HZ, tiny_config, write_features

GRID = {
    "sampling_rate": RATE_HZ,
    "hop_size": HOP,
    "n_fft": 256,
    "win_size": 256,
    "num_mels": 12,
    "fmax": 4000,
}
QUICK = {"log_every_steps": 1, "validate_every_steps": 100, "device": "cpu", "keep_checkpoints": 0}


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(tmp_path_factory.mktemp("diffusion"))


@pytest.fixture(scope="module")
def vocoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vocoder(tmp_path_factory.mktemp("vocoder"), GRID)


@pytest.fixture(scope="module")
def mel(vocoder_folder: Path) -> VocoderMel:
    return load_vocoder(vocoder_folder).mel


@pytest.fixture
def choices(vocoder_folder: Path, tmp_path: Path) -> DiffusionChoices:
    config = tiny_diffusion()
    config.data.duration = 0.4  # 50 frames; clips have 40 to 110
    return DiffusionChoices(config=config.save(tmp_path / "tiny.yaml"), vocoder=vocoder_folder)


def config_of(vocoder_folder: Path, **data) -> DiffusionConfig:
    config = tiny_diffusion().for_voice(content_of(tiny_config()), load_vocoder(vocoder_folder).settings)
    config.data = config.data.model_copy(update={"duration": 0.4} | data)
    return config


def clips_of(features: Path, vocoder_folder: Path, *, augment: bool) -> DiffusionClips:
    store = FeatureStore.open(features)
    return DiffusionClips(store, store.names(), config_of(vocoder_folder), augment=augment)


def train(features: Path, voice: Path, choices: DiffusionChoices, steps: int, **settings):
    return train_diffusion(features, voice, TrainSettings(max_steps=steps, **QUICK | settings), choices)


def weights(voice: Path, step: int) -> dict[str, torch.Tensor]:
    return read_diffusion_checkpoint(voice / "diffusion" / f"model_{step}.pt").model


# ------------------------------------------------------------------------------------------------- crops


def test_a_crops_mel_is_that_of_the_whole_clip(features: Path, vocoder_folder: Path, mel: VocoderMel) -> None:
    store = FeatureStore.open(features)
    clips = clips_of(features, vocoder_folder, augment=False)
    for index in range(len(clips)):
        crop = clips[1, index]
        name = clips._whole.names[index]
        arrays = store.read(name)
        whole = mel(torch.from_numpy(arrays["audio"])[None] / 32768)[0].T
        starts = [
            start
            for start in range(len(whole) - crop.n_frames + 1)
            if torch.equal(torch.from_numpy(arrays["volume"][start : start + crop.n_frames]), crop.volume)
            and np.isclose(
                crop.audio[MARGIN_FRAMES * HOP : -MARGIN_FRAMES * HOP].numpy() * 32768,
                arrays["audio"][start * HOP : (start + crop.n_frames) * HOP],
            ).all()
        ]
        (start,) = starts
        found = collate_crops([crop]).mels(mel)[0][0]
        torch.testing.assert_close(found, whole[start : start + crop.n_frames], atol=1e-4, rtol=0)


def test_key_shifted_mel_f0_and_loudness_are_consistent(features: Path, vocoder_folder: Path) -> None:
    """The original may pair a shifted f0 with the mel of the unshifted clip, or two different draws."""
    plain, varied = (clips_of(features, vocoder_folder, augment=on) for on in (False, True))
    shifted = [
        (plain[1, index], crop) for index in range(len(varied)) if (crop := varied[1, index]).shift_semitones
    ]
    assert 0 < len(shifted) < len(varied)
    for before, after in shifted:
        assert -5 <= after.shift_semitones <= 5
        torch.testing.assert_close(after.f0_hz, before.f0_hz * 2 ** (after.shift_semitones / 12))
        gain = after.audio.abs().max() / before.audio.abs().max()
        torch.testing.assert_close(after.audio, before.audio * gain)
        torch.testing.assert_close(after.volume, before.volume * gain)
        assert float(after.audio.abs().max()) <= 1.0


def test_the_mel_shifts_by_the_semitones_that_the_network_is_conditioned_on(mel: VocoderMel) -> None:
    n_samples = (50 + 2 * MARGIN_FRAMES) * HOP
    tone = torch.sin(2 * np.pi * 1500 * torch.arange(n_samples) / RATE_HZ)[None]
    batch = DiffusionBatch(
        *[torch.zeros(2, 50, 1)] * 3,
        *[tone.repeat(2, 1)] * 2,
        torch.zeros(2, 1, dtype=torch.long),
        torch.tensor([0.0, 5.0]).reshape(2, 1, 1),
        torch.tensor([50, 50]),
    )
    plain, higher = batch.mels(mel)[0]
    wanted = mel(torch.sin(2 * np.pi * 1500 * 2 ** (5 / 12) * torch.arange(n_samples) / RATE_HZ)[None])[0].T
    assert (higher.mean(0).argmax() == wanted.mean(0).argmax()) and higher.mean(0).argmax() > plain.mean(
        0
    ).argmax()


def test_every_epoch_has_a_new_key_and_is_reproducible(features: Path, vocoder_folder: Path) -> None:
    clips = clips_of(features, vocoder_folder, augment=True)
    shifts = {clips[epoch, 0].shift_semitones for epoch in range(1, 20)} - {0.0}
    assert len(shifts) > 5
    assert torch.equal(clips[3, 1].audio, clips[3, 1].audio) and not torch.equal(
        clips[3, 1].audio, clips[4, 1].audio
    )


def test_clips_shorter_than_a_crop_are_trained_on_and_their_padding_is_not(
    features: Path, vocoder_folder: Path, mel: VocoderMel
) -> None:
    """The original searches for a longer clip in an endless loop if there is none."""
    store = FeatureStore.open(features)
    config = config_of(vocoder_folder, duration=30)
    clips = DiffusionClips(store, store.names(), config, augment=False)
    crops = [clips[1, index] for index in range(len(clips))]
    assert sorted(crop.n_frames for crop in crops) == sorted(
        store.record(name).n_frames for name in store.names()
    )
    state = _state(config, TrainSettings(device="cpu"), mel)
    torch.nn.init.normal_(state.generator.decoder.denoise_fn.output_projection.weight)
    short, long = sorted(crops, key=lambda crop: crop.n_frames)[:: len(crops) - 1]
    step = torch.tensor([50])
    noise = torch.randn(1, 1, 12, long.n_frames)
    with torch.no_grad():
        found = []
        for batch in (collate_crops([short]), collate_crops([short, long])):
            mels = batch.mels(mel)
            drawn = noise[..., : mels[0].shape[1]].expand(len(batch), -1, -1, -1)
            found.append(_compare(state, batch, mels, step.expand(len(batch)), drawn))
        alone, both = (
            float(losses["noise"]) * n
            for losses, n in zip(found, (short.n_frames, short.n_frames + long.n_frames), strict=True)
        )
        mels = collate_crops([long]).mels(mel)
        other = float(_compare(state, collate_crops([long]), mels, step, noise)["noise"]) * long.n_frames
    assert both == pytest.approx(alone + other, rel=0.02)  # padding affects the convolutions, not the mean


# ------------------------------------------------------------------------------------------------- refinement


class QuietVoice:
    """Converts by halving the amplitude."""

    name, step, speakers = "quiet", 3, {"ada": 0, "bob": 1}

    def __init__(self) -> None:
        self.encoder = SimpleNamespace(name="plain", width=1, hop_samples=320, network=None)

    def with_encoder(self, encoder) -> QuietVoice:
        return self

    def convert(self, audio: Audio, settings: ConversionSettings) -> Audio:
        return Audio(0.5 * audio.samples, audio.sample_rate_hz)


def test_noise_is_added_to_self_converted_clips_and_the_recording_is_the_target(
    features: Path, vocoder_folder: Path, mel: VocoderMel, tmp_path: Path
) -> None:
    store = FeatureStore.open(features)
    takes = self_convert_clips(QuietVoice(), store, tmp_path, unseen=store.names()[:1])
    config = config_of(vocoder_folder)
    clips = DiffusionClips(store, store.names(), config, augment=True, takes=takes)
    crops = [clips[epoch, index] for epoch in range(6) for index in range(len(clips))]
    batch = collate_crops(crops)
    assert 0.3 < batch.is_refining.float().mean() < 0.7
    for crop, refines in zip(crops, batch.is_refining.tolist(), strict=True):
        expected = crop.audio * (0.5 if refines else 1.0)
        torch.testing.assert_close(crop.start_audio, expected, atol=1e-4, rtol=0)
    refined = [crop for crop, refines in zip(crops, batch.is_refining.tolist(), strict=True) if refines]
    target, start = collate_crops(refined[:3]).mels(mel)
    above_floor = target > -8
    torch.testing.assert_close(start[above_floor], target[above_floor] + np.log(0.5), atol=0.05, rtol=0)
    converted = DiffusionClips(store, store.names(), config, augment=False, takes=replace(takes, chance=1.0))
    assert collate_crops([converted[0, index] for index in range(len(converted))]).is_refining.all()


@pytest.mark.parametrize("step", [0, 60])
def test_the_noise_target_leads_to_the_recording(
    features: Path, vocoder_folder: Path, mel: VocoderMel, step: int, tmp_path: Path
) -> None:
    """An exact prediction has zero loss; predicting only the added noise gives the self-converted mel."""
    store, config = FeatureStore.open(features), config_of(vocoder_folder)
    takes = self_convert_clips(QuietVoice(), store, tmp_path, unseen=())
    clips = DiffusionClips(store, store.names(), config, augment=False, takes=replace(takes, chance=1.0))
    batch = collate_crops([clips[0, 0]])
    mels, step = batch.mels(mel), torch.tensor([step])
    noise = torch.randn(1, 1, 12, mels[0].shape[1])
    state = _state(config, TrainSettings(device="cpu"), mel)
    decoder = state.generator.decoder
    scale = float(decoder.sqrt_recipm1_alphas_cumprod[step])
    exact = noise + (decoder.normalise(mels[1]) - decoder.normalise(mels[0])) / scale
    decoder.denoise_fn.forward = lambda noisy, step, condition: exact
    assert float(_compare(state, batch, mels, step, noise)["noise"]) == pytest.approx(0, abs=1e-5)
    noisy = decoder.add_noise(decoder.normalise(mels[1]), step, noise)
    x0 = decoder.sqrt_recip_alphas_cumprod[step] * noisy - scale * exact
    torch.testing.assert_close(x0, decoder.normalise(mels[0]), atol=1e-3, rtol=0)
    decoder.denoise_fn.forward = lambda noisy, step, condition: noise
    losses = _compare(state, batch, mels, step, noise)
    assert float(losses["mel"]) == pytest.approx(float((mels[0] - mels[1]).abs().mean()), rel=1e-3)
    assert float(losses["noise"]) < 1, "few noise steps must not outweigh all others"


def test_with_a_voice_the_best_checkpoint_is_the_one_that_refines_it_best(
    features: Path, choices: DiffusionChoices, tmp_path: Path
) -> None:
    settings = TrainSettings(max_steps=30, **QUICK | {"validate_every_steps": 10})
    report = train_diffusion(features, tmp_path / "voice", settings, choices, voice=QuietVoice())
    assert report.best.measure == "voice_mel" and set(report.last_validation) == {"noise", "mel", "voice_mel"}
    measured = [
        line["validation"]["voice_mel"]
        for line in read_lines(tmp_path / "voice" / "diffusion")
        if "validation" in line
    ]
    assert measured[-1] < measured[0]


def test_on_the_command_line_mend_trains_on_self_converted_clips(
    features: Path, choices: DiffusionChoices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    monkeypatch.setattr(sovits, "load_voice", lambda path, **options: loaded.append(path) or QuietVoice())
    given = ["--config", choices.config, "--vocoder", choices.vocoder, "--max_steps", 1, "--device", "cpu"]
    assert main(list(map(str, ["diffusion", features, tmp_path / "plain", *given]))) == 0 and not loaded
    assert main(list(map(str, ["diffusion", features, tmp_path / "refined", *given, "--refine"]))) == 0
    assert loaded == [tmp_path / "refined"]
    assert list((tmp_path / "refined" / "diffusion" / "spoken").rglob("*.flac"))
    assert not (tmp_path / "plain" / "diffusion" / "spoken").exists()


# ------------------------------------------------------------------------------------------------- training


def test_training_learns_and_writes_what_the_original_reads(
    features: Path, choices: DiffusionChoices, tmp_path: Path
) -> None:
    report = train(features, tmp_path / "voice", choices, 40, validate_every_steps=10)
    folder = tmp_path / "voice" / "diffusion"
    assert report.step == 40 and report.best is not None and report.best.measure == "mel"
    stored = torch.load(folder / "model_40.pt", weights_only=True)
    assert set(stored) == {"global_step", "model", "optimizer"} and stored["global_step"] == 40
    config = DiffusionConfig.load(folder / "config.yaml")
    assert (config.data.sampling_rate, config.data.block_size) == (RATE_HZ, HOP) and config.spk == {
        "ada": 0,
        "bob": 1,
    }
    assert config.model.n_spk == 2 and "spk_embed.weight" in stored["model"]
    held_out = [line["validation"]["noise"] for line in read_lines(folder) if "validation" in line]
    assert held_out[-1] < 0.98 * held_out[0]


def read_lines(folder: Path) -> list[dict]:
    import json

    return [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_resumed_training_equals_an_uninterrupted_one(
    features: Path, choices: DiffusionChoices, tmp_path: Path
) -> None:
    train(features, tmp_path / "whole", choices, 7)
    for steps in (3, 4, 7):
        train(features, tmp_path / "parts", choices, steps)
        torch.rand(5)
    whole, parts = weights(tmp_path / "whole", 7), weights(tmp_path / "parts", 7)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert not torch.equal(whole["unit_embed.weight"], weights(tmp_path / "parts", 4)["unit_embed.weight"])


def test_without_its_optimiser_a_training_resumes_with_a_warning(
    features: Path, choices: DiffusionChoices, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = DiffusionConfig.load(choices.config)
    config.train.save_opt = False
    config.save(choices.config)
    train(features, tmp_path / "voice", choices, 2)
    assert "optimizer" not in torch.load(tmp_path / "voice" / "diffusion" / "model_2.pt", weights_only=True)
    assert train(features, tmp_path / "voice", choices, 3).steps == 1
    assert "saved without its optimiser" in caplog.text


def test_learning_rate_falls_by_steps_and_not_by_epochs(
    features: Path, choices: DiffusionChoices, tmp_path: Path
) -> None:
    config = DiffusionConfig.load(choices.config)
    config.train.decay_step, config.train.gamma, config.train.lr = 4, 0.5, 1e-3
    config.save(choices.config)
    assert [learning_rate(config, step) for step in (0, 3, 4, 8)] == [1e-3, 1e-3, 5e-4, 2.5e-4]
    for steps in (6, 9):
        train(features, tmp_path / "voice", choices, steps)
    rates = {
        line["step"]: line["lr"] for line in read_lines(tmp_path / "voice" / "diffusion") if "losses" in line
    }
    assert rates == {step: 1e-3 * 0.5 ** ((step - 1) // 4) for step in range(1, 10)}


def test_training_starts_from_a_base_model_in_the_folder(
    features: Path, choices: DiffusionChoices, tmp_path: Path
) -> None:
    train(features, tmp_path / "first", choices, 3)
    stored = {
        name: value for name, value in weights(tmp_path / "first", 3).items() if name != "spk_embed.weight"
    }
    for step in (0, 500):
        folder = tmp_path / f"voice_{step}" / "diffusion"
        save_diffusion_checkpoint(folder / f"model_{step}.pt", model_state=stored, global_step=step)
        report = train(features, folder.parent, choices, step + 1)
        assert (report.steps, report.step) == (1, step + 1)
        moved = (
            (weights(folder.parent, step + 1)["unit_embed.weight"] - stored["unit_embed.weight"]).abs().max()
        )
        assert 0 < float(moved) < 0.003 and (folder / f"model_{step}.pt").is_file()
    stored["unit_embed.weight"] = torch.zeros(6, 5)
    base = save_diffusion_checkpoint(tmp_path / "model_0.pt", model_state=stored, global_step=0)
    with pytest.raises(SvcError, match=r"unit_embed.weight is \(6, 5\), expected \(6, 8\)"):
        train(
            features,
            tmp_path / "other",
            DiffusionChoices(config=choices.config, vocoder=choices.vocoder, base=base),
            1,
        )


@pytest.mark.parametrize("precision", ["bf16"])
def test_half_precision_trains_and_is_noted(
    features: Path, choices: DiffusionChoices, tmp_path: Path, precision: str
) -> None:
    report = train(features, tmp_path / "voice", choices, 2, precision=precision)
    assert np.isfinite(list(report.last_losses.values())).all()
    assert DiffusionConfig.load(tmp_path / "voice" / "diffusion" / "config.yaml").train.amp_dtype == precision


def test_k_step_max_limits_the_noise_steps_of_training(
    features: Path, choices: DiffusionChoices, tmp_path: Path
) -> None:
    limited = DiffusionChoices(config=choices.config, k_step_max=5, batch_size=2, vocoder=choices.vocoder)
    report = train(features, tmp_path / "voice", limited, 2)
    assert report.last_losses["mel"] < 1.0  # noise of five steps is at most 0.22 in these logarithms
    assert DiffusionConfig.load(tmp_path / "voice" / "diffusion" / "config.yaml").model.k_step_max == 5


# ------------------------------------------------------------------------------------------------- refused


def test_a_vocoder_with_other_frames_is_refused(features: Path, tmp_path: Path) -> None:
    other = write_vocoder(tmp_path / "vocoder", GRID | {"hop_size": 80})
    with pytest.raises(SvcError, match="125.00 frames per second, the vocoder 100.00"):
        train(features, tmp_path / "voice", DiffusionChoices(config="small", vocoder=other), 1)


def test_another_model_or_no_resuming_is_refused_in_a_used_folder(
    features: Path, choices: DiffusionChoices, tmp_path: Path
) -> None:
    train(features, tmp_path / "voice", choices, 1)
    other = DiffusionChoices(config=choices.config, k_step_max=7, vocoder=choices.vocoder)
    with pytest.raises(SvcError, match="has another configuration"):
        train(features, tmp_path / "voice", other, 2)
    with pytest.raises(SvcError, match="already holds a training"):
        settings = TrainSettings(max_steps=2, **QUICK)
        train_diffusion(features, tmp_path / "voice", settings, choices, resume=False)


def test_without_a_vocoder_the_error_names_the_fix(features: Path, tmp_path: Path) -> None:
    with pytest.raises(SvcError, match="nsf_hifigan_20221211.zip"):
        train(features, tmp_path / "voice", DiffusionChoices(pretrain_folder=tmp_path), 1)
    with pytest.raises(SvcError, match="one process"):
        train(features, tmp_path / "voice", DiffusionChoices(), 1, n_processes=2)


def test_command_resumes(features: Path, choices: DiffusionChoices, tmp_path: Path, capsys) -> None:
    from svcnb.cli.main import main

    command = [
        "diffusion",
        str(features),
        str(tmp_path / "voice"),
        "--config",
        str(choices.config),
        "-d",
        "cpu",
        "--vocoder",
        str(choices.vocoder),
    ]
    assert main([*command, "--max_steps", "2"]) == 0 and main([*command, "--max_steps", "3"]) == 0
    assert "1 steps in" in capsys.readouterr().out.splitlines()[-1]
    shutil.rmtree(tmp_path / "voice")
