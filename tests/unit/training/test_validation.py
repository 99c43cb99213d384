"""Validation of a training: audio samples, TensorBoard, held-out clips."""

from __future__ import annotations

import math
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb import MissingExtra, SvcError
from svcnb.audio.audio import Audio, write_audio
from svcnb.data.settings import PrepareSettings
from svcnb.models import sovits
from svcnb.models.sovits.config import Config
from svcnb.training.checkpoints import read_progress
from svcnb.training.early_stopping import read_advice
from svcnb.training.settings import TrainSettings
from svcnb.training.validation import (
    MAX_STEPS_KEPT,
    drop_later_samples,
    read_samples,
    thin_samples,
    write_reference,
    write_sample,
)
from tests.unit.models.sovits.test_voice import RATE_HZ, SETTINGS, sung_tone

# --- files --------------------------------------------------------------------------------------------------------


def leave_samples(folder: Path, steps: list[int]) -> None:
    sound = Audio(np.zeros(100, np.float32), RATE_HZ)
    write_reference(folder, 1, sound)
    for step in steps:
        write_sample(folder, step, 1, sound)


def test_samples_thin_out_but_the_first_the_best_and_the_newest_stay(tmp_path: Path) -> None:
    for step in range(100, 5001, 100):
        leave_samples(tmp_path, [step])
        thin_samples(tmp_path, keep=(300,))
    steps = read_samples(tmp_path).steps
    assert len(steps) == MAX_STEPS_KEPT and {100, 300, 5000} <= set(steps)
    others = [step for step in steps if step != 300]
    assert max(b / a for a, b in zip(others, others[1:], strict=False)) < 5, "a gap between the samples"


def test_samples_of_a_lost_part_of_the_training_are_deleted(tmp_path: Path) -> None:
    leave_samples(tmp_path, [100, 200, 300])
    drop_later_samples(tmp_path, 200)
    assert read_samples(tmp_path).steps == [100, 200]
    drop_later_samples(tmp_path, 0)
    assert not list(tmp_path.rglob("*.flac"))


def test_samples_to_play_are_the_recording_the_first_the_best_and_the_newest(tmp_path: Path) -> None:
    assert read_samples(tmp_path).heard() == []
    leave_samples(tmp_path, [100, 200, 300, 400])
    titles = [title for title, _ in read_samples(tmp_path).heard(300, 999, None)]
    assert titles == ["recording", "after 100 steps", "after 300 steps", "after 400 steps"]


# --- a training ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips of one speaker, with their loudness."""
    folder = tmp_path_factory.mktemp("samples")
    for i in range(12):
        write_audio(folder / "clips" / "me" / f"{i}.flac", sung_tone(180 + 5 * i, 1.2))
    settings = PrepareSettings(f0_method="dio", with_volume=True)
    sovits.prepare(Config.small(), folder / "clips", folder / "features", settings)
    return folder / "features"


@pytest.fixture(scope="module")
def trained(features: Path) -> Path:
    pytest.importorskip("tensorboard")
    settings = TrainSettings(
        max_steps=5, validate_every_steps=2, save_every_steps=4, tensorboard=True, vol_aug=True, **SETTINGS
    )
    sovits.train(features, features.parent / "voice", settings, batch_size=3)
    return features.parent / "voice"


def test_samples_of_held_out_clips_are_written_at_every_checkpoint_and_early(trained: Path) -> None:
    samples = read_samples(trained)
    assert samples.steps == [2, 4, 5]
    assert {path.name for path in samples.folder.iterdir()} == {
        f"{name}_{clip}.flac"
        for clip in (1, 2)
        for name in ("reference", "step_00000002", "step_00000004", "step_00000005")
    }
    reference, result = samples.reference(2), samples.at(4, 2)
    assert reference.n_samples == result.n_samples > RATE_HZ and reference.sample_rate_hz == RATE_HZ
    earlier = samples.at(2)
    assert 1e-4 < result.peak <= 1 and not np.allclose(earlier.samples, result.samples[: earlier.n_samples])


def test_the_best_checkpoint_is_the_lowest_of_the_saved(trained: Path) -> None:
    from svcnb.training.history import read_held_out

    saved = {step: value for step, value, is_saved in read_held_out(trained / "history.jsonl") if is_saved}
    assert set(saved) == {4, 5}
    best = read_progress(trained).best
    assert best.value == min(saved.values()) == saved[best.step]
    advice = read_advice(trained / "history.jsonl")
    assert (
        advice.kind == "too_early"
        and advice.n_measurements == 3
        and advice.training_s == pytest.approx(12.0, abs=0.4)
    )


def test_measuring_the_same_network_twice_gives_the_same_number(trained: Path, features: Path) -> None:
    from svcnb.data.dataset import load_split
    from svcnb.data.feature_store import FeatureStore
    from svcnb.models.sovits.step import StepParts, build
    from svcnb.models.sovits.train import held_out_clips
    from svcnb.training.state import TrainState, make_accelerator

    config = Config.load(trained / "config.json")
    store = FeatureStore.open(features)
    held_out = held_out_clips(store, config, load_split(store))
    generator = build(config).generator
    nothing = dict.fromkeys(("discriminator", "optimizer_g", "optimizer_d", "scheduler_g", "scheduler_d"))
    accelerator = make_accelerator(TrainSettings(device="cpu"))
    state = TrainState(generator, accelerator=accelerator, extras={"parts": StepParts(config)}, **nothing)
    first = held_out.measure(state)["mel"]
    torch.rand(5)
    assert held_out.measure(state)["mel"] == first and math.isfinite(first)
    with torch.no_grad():
        generator.pre.weight.mul_(1.5)
    assert held_out.measure(state)["mel"] != first


def test_tensorboard_gets_the_familys_tags_audio_and_images(trained: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(trained / "tensorboard")).Reload().Tags()
    wanted = {"loss/g/total", "loss/g/mel", "loss/g/kl", "loss/g/lf0", "learning_rate", "held_out/mel"}
    assert wanted <= set(found["scalars"])
    assert set(found["audio"]) == {f"{kind}/audio_{clip}" for kind in ("gt", "gen") for clip in (1, 2)}
    assert set(found["images"]) == {f"{kind}/mel_{clip}" for kind in ("gt", "gen") for clip in (1, 2)}


def test_a_missing_tensorboard_is_reported_first(features: Path, tmp_path: Path, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtra, match=r'pip install "svcnb\[tensorboard\]"'):
        sovits.train(features, tmp_path / "voice", TrainSettings(max_steps=1, tensorboard=True, **SETTINGS))
    assert read_progress(tmp_path / "voice") is None


def test_augmented_training_resumes_exactly_and_keeps_its_variations_and_batch_size(
    trained: Path, features: Path, tmp_path: Path
) -> None:
    from svcnb.models.sovits.checkpoint import read_sovits_checkpoint

    first = TrainSettings(max_steps=3, vol_aug=True, **SETTINGS)
    sovits.train(features, tmp_path / "voice", first, batch_size=3)
    sovits.train(features, tmp_path / "voice", TrainSettings(max_steps=5, **SETTINGS))
    config = Config.load(tmp_path / "voice" / "config.json").train
    assert (config.vol_aug, config.batch_size) == (True, 3)
    whole = read_sovits_checkpoint(trained / "G_5.pth").model
    resumed = read_sovits_checkpoint(tmp_path / "voice" / "G_5.pth").model
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_held_out_clips_are_never_varied(features: Path, tmp_path: Path, monkeypatch) -> None:
    from svcnb.data.augmentation import vary_loudness
    from svcnb.data.dataset import load_split
    from svcnb.data.feature_store import FeatureStore

    varied: set[str] = set()
    training = import_module("svcnb.models.sovits.train")
    monkeypatch.setattr(
        training, "vary_loudness", lambda item, rng: varied.add(item.name) or vary_loudness(item, rng)
    )
    settings = TrainSettings(max_steps=4, validate_every_steps=1, vol_aug=True, **SETTINGS)
    sovits.train(features, tmp_path / "voice", settings)
    split = load_split(FeatureStore.open(features))
    assert split.validation and varied and varied <= set(split.training)


def test_loudness_cannot_vary_where_the_features_have_none(features: Path, tmp_path: Path) -> None:
    plain = shutil.copytree(features, tmp_path / "features")
    config = Config.load(plain / "config.json")
    config.model.vol_embedding = False
    config.save(plain / "config.json")
    with pytest.raises(SvcError, match="vol_aug varies a loudness that the features"):
        sovits.train(plain, tmp_path / "voice", TrainSettings(max_steps=1, vol_aug=True, **SETTINGS))


def test_halved_batches_are_written_into_the_voices_config(
    features: Path, tmp_path: Path, monkeypatch
) -> None:
    sovits_training = import_module("svcnb.models.sovits.train")

    def step_with_little_memory(state, batch):
        if len(batch) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return original(state, batch)

    original = sovits_training.train_step
    monkeypatch.setattr(sovits_training, "train_step", step_with_little_memory)
    report = sovits.train(features, tmp_path / "voice", TrainSettings(max_steps=2, **SETTINGS), batch_size=2)
    assert report.batch_size == 1 and report.step == 2
    assert Config.load(tmp_path / "voice" / "config.json").train.batch_size == 1
    again = sovits.train(features, tmp_path / "voice", TrainSettings(max_steps=3, **SETTINGS))
    assert again.batch_size == 1


def test_auto_takes_the_configs_batch_size_on_a_processor_and_the_trial_tries_the_longest_clips(
    features: Path, tmp_path: Path, caplog
) -> None:
    from svcnb.models.sovits.train import GpuTrial, choose_batch_size

    config, settings = Config.load(features / "config.json"), TrainSettings(device="cpu")
    chosen = choose_batch_size("auto", config, settings, features_folder=features, record=None)
    assert chosen == config.train.batch_size and "auto is for GPUs" in caplog.text
    with pytest.raises(SvcError, match="give a number, or auto"):
        choose_batch_size("big", config, settings, features_folder=features, record=None)
    trial = GpuTrial(features, config.to_dict(), settings)
    assert trial.batch(15).lengths.tolist() == [min(103, config.train.max_frames)] * 15
    assert trial(2)
