"""RVC from recordings to a converted song: every step resumes, and reports what it skipped."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb import SvcError
from svcnb.audio.audio import Audio, write_audio
from svcnb.conversion.settings import ConversionSettings
from svcnb.data.dataset import load_split
from svcnb.models import rvc
from svcnb.models.rvc.exchange import export_experiment, import_experiment
from svcnb.models.rvc.index import find_index
from svcnb.models.rvc.prepare import MUTE, open_features
from svcnb.models.rvc.train import count_steps
from svcnb.models.settings import EpochChoices
from svcnb.training.settings import TrainSettings
from tests.toys.toy_rvc import sung, tiny_config, tiny_rvc_config, write_recordings

pytest.importorskip("faiss")
STEPS = TrainSettings(max_steps=4, device="cpu", validate_every_steps=2)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voice of four steps with its index, made by one-click training."""
    folder = tmp_path_factory.mktemp("rvc")
    recordings = write_recordings(folder / "raw")
    settings = rvc.OneClickSettings(
        config=tiny_config(), prepare=rvc.PrepareSettings(f0_method="dio"), train=STEPS
    )
    report = rvc.train_one_click(recordings, folder / "me", settings)
    assert report.training.step == 4 and report.index.n_vectors > 100 and not report.features.skipped
    return folder / "me"


def test_one_click_training_writes_everything_that_conversion_needs(experiment: Path) -> None:
    names = {path.name for path in experiment.iterdir()}
    assert {
        "0_gt_wavs",
        "1_16k_wavs",
        "clips.json",
        "features",
        "config.json",
        "G_4.pth",
        "history.jsonl",
        "middle_pitch.json",
    } <= names
    assert any(name.startswith("added_IVF") and name.endswith("_me_v2.index") for name in names)


def test_a_second_one_click_training_repeats_nothing(experiment: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in experiment.rglob("*.wav")}
    settings = rvc.OneClickSettings(
        config=tiny_config(), prepare=rvc.PrepareSettings(f0_method="dio"), train=STEPS
    )
    report = rvc.train_one_click(experiment.parent / "raw", experiment, settings)
    assert (report.clips.n_reused, report.features.done, report.training.steps) == (4, [], 0)
    assert {path: path.stat().st_mtime_ns for path in experiment.rglob("*.wav")} == before


def test_silence_is_trained_on_and_never_held_out(experiment: Path) -> None:
    _, store = open_features(experiment)
    split = load_split(store)
    assert [name for name in split.training if name.startswith(MUTE)] == ["mute/1", "mute/2"]
    assert not any(name.startswith(MUTE) for name in split.validation)
    assert not store.read("mute/1")["audio"].any()


def test_a_resumed_training_equals_an_uninterrupted_one(experiment: Path, tmp_path: Path) -> None:
    for name, steps in (("whole", [6]), ("broken", [4, 6])):
        folder = tmp_path / name / "me"
        for part in ("features", "config.json"):
            source = experiment / part
            (shutil.copytree if source.is_dir() else shutil.copy)(
                source, folder / part if folder.exists() else _made(folder) / part
            )
        for most in steps:
            rvc.train(folder, STEPS.model_copy(update={"max_steps": most}))
    states = [
        torch.load(tmp_path / name / "me" / "G_6.pth", weights_only=True)["model"]
        for name in ("whole", "broken")
    ]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], atol=1e-6, rtol=1e-5)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_epochs_count_as_rvc_counts_them(experiment: Path, tmp_path: Path) -> None:
    folder = _made(tmp_path / "me")
    shutil.copytree(experiment / "features", folder / "features")
    shutil.copy(experiment / "config.json", folder)
    n_steps = count_steps(folder)
    choices = EpochChoices(total_epochs=3, save_every_epochs=1, latest_only=True)
    report = rvc.train(folder, TrainSettings(device="cpu"), choices)
    assert report.step == 3 * n_steps
    best = {f"G_{report.best.step}.pth"} if report.best else set()
    assert {path.name for path in folder.glob("G_*.pth")} == {f"G_{report.step}.pth"} | best
    stored = torch.load(folder / f"G_{report.step}.pth", weights_only=True)
    assert stored["iteration"] == 3
    logged = [
        json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [line["step"] for line in logged if "losses" in line] == [n_steps, 2 * n_steps, 3 * n_steps]
    with pytest.raises(SvcError, match=r"total_epochs \(--total_epoch\) is 0: expected at least 1"):
        rvc.train(folder, TrainSettings(device="cpu"), EpochChoices(total_epochs=0))


@pytest.mark.parametrize("seconds", [0.5, 3.21, 7.0])
def test_a_conversion_is_exactly_as_long_as_the_recording(experiment: Path, seconds: float) -> None:
    voice = rvc.load_voice(experiment)
    recording = sung(seconds, f0_hz=240)
    result = voice.convert(recording, rvc.RvcConversionSettings(f0_method="dio"))
    assert (result.sample_rate_hz, result.n_samples) == (32000, round(recording.n_samples * 32000 / 22050))
    assert np.isfinite(result.samples).all()


def test_the_same_seed_gives_the_same_audio(experiment: Path) -> None:
    voice, recording = rvc.load_voice(experiment), sung(1.5)
    settings = rvc.RvcConversionSettings(f0_method="dio", cluster_ratio=0)
    one, again = (voice.convert(recording, settings).samples for _ in range(2))
    other = voice.convert(recording, settings.model_copy(update={"seed": 1})).samples
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_the_index_and_protection_change_the_audio(experiment: Path) -> None:
    voice, recording = rvc.load_voice(experiment), sung(2.0)
    recording = Audio(
        np.concatenate(
            [recording.samples, 0.02 * np.random.default_rng(0).standard_normal(22050).astype(np.float32)]
        ),
        22050,
    )
    results = [
        voice.convert(
            recording, rvc.RvcConversionSettings(f0_method="dio", cluster_ratio=ratio, protect=protect)
        ).samples
        for ratio, protect in ((0.0, 0.33), (1.0, 0.5), (1.0, 0.0))
    ]
    pairs = ((results[0], results[1]), (results[1], results[2]))
    assert all(not np.allclose(a, b, atol=1e-4) for a, b in pairs)


def test_a_voice_has_the_common_interface_of_voices(experiment: Path, tmp_path: Path) -> None:
    voice = rvc.load_voice(experiment)
    assert voice.speaker_name(None) == "me" and voice.step == 4 and voice.has_posterior
    assert 100 < voice.median_f0_hz["me"] < 300
    assert voice.suggest_transpose(voice.estimate_f0(sung(1.0, f0_hz=440), "dio")) < 0
    resynthesized = voice.resynthesise(sung(1.0))
    assert resynthesized.n_samples == 32000
    path = write_audio(tmp_path / "a song.wav", sung(1.2))
    made = voice.convert_file(path, tmp_path / "out", ConversionSettings(f0_method="dio"))
    assert made.name == "a song.wav_0key_me_rvc_dio.flac"
    assert voice.fingerprint() == rvc.load_voice(experiment).fingerprint()


def test_unsupported_settings_are_refused_with_their_flags(experiment: Path) -> None:
    voice = rvc.load_voice(experiment)
    for choice, flag in (("auto_predict_f0", "-a"), ("enhance", "-eh"), ("shallow_diffusion", "-shd")):
        with pytest.raises(SvcError, match=flag):
            voice.check(ConversionSettings(**{choice: True}))
    with pytest.raises(SvcError, match="feature_retrieval"):
        voice.check(ConversionSettings(cluster_ratio=0.5))
    voice.index_path = None
    voice._index = None
    with pytest.raises(SvcError, match="has no index"):
        voice.check(rvc.RvcConversionSettings())


def test_the_small_size_writes_no_file_that_rvc_would_misread(experiment: Path) -> None:
    assert not (experiment / "weights").exists()
    with pytest.raises(SvcError, match="does not support"):
        export_experiment(experiment, experiment.parent / "logs")


# ---------------------------------------------------------------- RVC's own size and folders


class ToyEncoder:
    """256 values of a random matrix for each 25 ms."""

    name, width, hop_samples = "vec256l9", 256, 320

    def __init__(self) -> None:
        self.matrix = np.random.default_rng(0).standard_normal((256, 400)).astype(np.float32) / 20

    def for_recording(self, *clips: np.ndarray) -> ToyEncoder:
        return self

    def encode(self, samples: np.ndarray) -> torch.Tensor:
        frames = np.lib.stride_tricks.sliding_window_view(np.asarray(samples, np.float32), 400)[::320]
        return torch.from_numpy(frames @ self.matrix.T)


@pytest.fixture
def toy_encoder(monkeypatch: pytest.MonkeyPatch) -> ToyEncoder:
    encoder = ToyEncoder()
    for module in (
        "svcnb.data.extractor",
        "svcnb.models.rvc.prepare",
        "svcnb.models.rvc.exchange",
        "svcnb.models.rvc.voice",
    ):
        monkeypatch.setattr(import_module(module), "load_encoder", lambda *_, **__: encoder)
    monkeypatch.setattr(import_module("svcnb.models.rvc.prepare"), "resolve_encoder", lambda name, _: name)
    return encoder


@pytest.mark.parametrize("f0", [True, False])
def test_rvcs_own_network_trains_and_its_small_model_converts(
    tmp_path: Path, toy_encoder: ToyEncoder, f0: bool
) -> None:
    config = tiny_rvc_config(f0=f0)
    write_recordings(tmp_path / "raw", seconds=(1.5, 1.2))
    settings = rvc.OneClickSettings(
        config=config,
        prepare=rvc.PrepareSettings(f0_method="dio"),
        train=TrainSettings(max_steps=1, device="cpu"),
    )
    rvc.train_one_click(tmp_path / "raw", tmp_path / "me", settings)
    small = tmp_path / "me" / "weights" / "me.pth"
    stored = torch.load(small, weights_only=True)
    assert (stored["sr"], stored["f0"], stored["version"], stored["info"]) == ("32k", int(f0), "v1", "1epoch")
    voice = rvc.load_voice(small)
    assert voice.index_path is not None and voice.index_path.parent == tmp_path / "me"
    assert not voice.has_posterior
    result = voice.convert(sung(1.0), rvc.RvcConversionSettings(f0_method="dio"))
    assert result.n_samples == 32000 and result.peak > 0


def test_an_experiment_survives_export_and_import(tmp_path: Path, toy_encoder: ToyEncoder) -> None:
    write_recordings(tmp_path / "raw", seconds=(1.5, 1.2))
    experiment, tree, again = tmp_path / "me", tmp_path / "logs" / "me", tmp_path / "again"
    rvc.cut_recordings(tmp_path / "raw", experiment, rvc.CutSettings(sample_rate_hz=32000))
    rvc.prepare(tiny_rvc_config(), experiment, rvc.PrepareSettings(f0_method="dio"))
    built = rvc.build_voice_index(experiment)
    exported = export_experiment(experiment, tree)
    assert {path.name for path in tree.iterdir()} == {
        built.path.name,
        "0_gt_wavs",
        "1_16k_wavs",
        "2a_f0",
        "2b-f0nsf",
        "3_feature256",
        "filelist.txt",
        "config.json",
        "mute",
    }
    lines = (tree / "filelist.txt").read_text().splitlines()
    assert len(lines) == len(exported.clips) + 2 and all(len(line.split("|")) == 5 for line in lines)
    (tree / "3_feature256" / "0_0.npy").unlink()
    report = import_experiment(tree, again)
    assert [name for name, _ in report.dropped] == ["0_0"] and "3_feature256" in str(report)
    (_, ours), (config, theirs) = open_features(experiment), open_features(again)
    for name in theirs.names():
        mine, stored = ours.read(name.replace("again/", "me/")), theirs.read(name)
        np.testing.assert_allclose(stored["content"], mine["content"])
        np.testing.assert_allclose(stored["f0_hz"], mine["f0_hz"][: len(stored["f0_hz"])], rtol=1e-6)
        assert np.abs(stored["audio"].astype(int) - mine["audio"][: len(stored["audio"])]).max() <= 1
    assert config.spk == {"again": 0}
    assert find_index(again, [again]).read_bytes() == built.path.read_bytes()
    assert rvc.train(again, TrainSettings(max_steps=1, device="cpu")).step == 1


def test_a_base_is_loaded_strictly(tmp_path: Path, toy_encoder: ToyEncoder) -> None:
    write_recordings(tmp_path / "raw", seconds=(1.5,))
    for name in ("one", "two"):
        rvc.cut_recordings(tmp_path / "raw", tmp_path / name, rvc.CutSettings(sample_rate_hz=32000))
        rvc.prepare(tiny_rvc_config(), tmp_path / name, rvc.PrepareSettings(f0_method="dio"))
    rvc.train(tmp_path / "one", TrainSettings(max_steps=1, device="cpu"))
    base = tmp_path / "one" / "G_1.pth"
    rvc.train(tmp_path / "two", TrainSettings(max_steps=1, device="cpu", seed=5), base=(base, None))
    first, second = (
        torch.load(tmp_path / name / "G_1.pth", weights_only=True)["model"] for name in ("one", "two")
    )
    close = [float((first[name] - second[name]).abs().max()) for name in first]
    assert max(close) < 1e-3  # a step of 1e-4 away from the base, not another network
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    config["model"]["hidden_channels"] = 8
    other = _made(tmp_path / "three")
    (other / "config.json").write_text(json.dumps(config))
    shutil.copytree(tmp_path / "two" / "features", other / "features")
    with pytest.raises(SvcError, match="hidden|shape|differ"):
        rvc.train(other, TrainSettings(max_steps=1, device="cpu"), base=(base, None))
    with pytest.raises(SvcError, match="no base at"):
        rvc.train(other, TrainSettings(max_steps=1, device="cpu"), base=(tmp_path / "none.pth", None))
