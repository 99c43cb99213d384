"""Cluster centers and index of a voice: made from its features, found beside it, blended into content."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb import SvcError
from svcnb.audio.audio import Audio
from svcnb.conversion.settings import ConversionSettings
from svcnb.data.dataset import load_split
from svcnb.data.feature_store import FeatureStore
from svcnb.features.content.encoders import align_to_frames
from svcnb.features.content.retrieval import FeatureIndex, SpeakerCenters
from svcnb.models import sovits
from svcnb.models.settings import ClusterSettings
from svcnb.training.checkpoints import BestCheckpoint, RunRecord, SavedCheckpoint
from tests.toys.toy_voice import SPEAKERS, WIDTH, write_features, write_voice

pytest.importorskip("faiss")
DIO = {"f0_method": "dio", "speaker": "bob"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """features/, a voice/ with centers and an index of them, and a bare/ voice without."""
    folder = tmp_path_factory.mktemp("retrieval")
    write_features(folder / "features")
    write_voice(folder / "voice")
    shutil.copytree(folder / "voice", folder / "bare")
    sovits.fit_voice_centers(folder / "features", folder / "voice")
    sovits.build_voice_index(folder / "features", folder / "voice")
    return folder


@pytest.fixture
def voice(made: Path) -> sovits.Voice:
    return sovits.load_voice(made / "voice")


@pytest.fixture(scope="module")
def source() -> Audio:
    """Half a second, 43 whole frames, of an amplitude-modulated tone with some noise."""
    time = np.arange(43 * 256) / 22050
    buzz = sum(np.sin(2 * np.pi * 140 * k * time) / k for k in range(1, 9)) * (
        1 + np.sin(2 * np.pi * 4 * time)
    )
    return Audio(
        (0.1 * buzz + 0.01 * np.random.default_rng(0).standard_normal(len(time))).astype(np.float32), 22050
    )


def inputs_of(voice: sovits.Voice, source: Audio, **settings: object) -> torch.Tensor:
    """The content [N, D] that the network was conditioned on."""
    given: list[torch.Tensor] = []
    infer = voice.generator.infer

    def record(content: torch.Tensor, *rest: object, **options: object) -> object:
        given.append(content[0].T.clone())
        return infer(content, *rest, **options)

    voice.generator.infer = record
    voice.convert(source, ConversionSettings(**DIO, **settings))
    voice.generator.infer = infer
    return torch.cat(given)


# Making --------------------------------------------------------------------------------------------


def test_centers_are_written_for_every_speaker_and_fit_their_training_clips(made: Path) -> None:
    report = sovits.fit_voice_centers(made / "features", made / "voice")
    centers = SpeakerCenters.read(report.path)
    store = FeatureStore.open(made / "features")
    names = load_split(store).training
    assert report.path.name == "kmeans_24.pt" and centers.speakers == list(SPEAKERS)
    for part in report.speakers:
        frames = np.concatenate(
            [store.read(name)["content"] for name in names if name.startswith(part.speaker)]
        )
        own = centers.centers[part.speaker].numpy()
        gaps = np.square(frames[:, None] - own[None]).sum(axis=2).min(axis=1)
        assert part.n_frames == len(frames) and part.n_vectors == len(own) == len(frames) // 10
        assert part.mean_squared_distance == pytest.approx(gaps.mean(), rel=1e-3)
        assert part.mean_squared_distance < 0.7 * frames.var(axis=0).sum()


def test_a_number_of_centers_unlike_so_vits_is_reported_and_can_be_chosen(made: Path, tmp_path: Path) -> None:
    write_voice(tmp_path)
    automatic = sovits.fit_voice_centers(made / "features", tmp_path)
    assert "10000 centers; for 240 frames 24 were chosen" in str(automatic)
    assert "only 5 s of audio" in str(automatic)
    chosen = sovits.fit_voice_centers(made / "features", tmp_path, ClusterSettings(n_centers=50))
    assert chosen.path.name == "kmeans_50.pt" and "10000" not in str(chosen)
    too_many = sovits.fit_voice_centers(made / "features", tmp_path, ClusterSettings(n_centers=500))
    assert too_many.path.name == "kmeans_120.pt" and "500 requested, but 240 frames" in str(too_many)


def test_the_index_holds_every_training_frame_under_the_voices_speaker_ids(made: Path) -> None:
    store = FeatureStore.open(made / "features")
    index = FeatureIndex.read(made / "voice" / "feature_and_index.pkl")
    assert sorted(index.speaker_ids) == [0, 1]
    for number, speaker in enumerate(SPEAKERS):
        frames = np.concatenate(
            [store.read(name)["content"] for name in store.names() if name.startswith(speaker)]
        )
        np.testing.assert_array_equal(index.indexes[number].reconstruct_n(0, len(frames)), frames)


def test_the_same_call_writes_the_same_bytes_and_leaves_nothing_hidden(made: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        write_voice(folder)
        sovits.fit_voice_centers(made / "features", folder, ClusterSettings(seed=3))
        sovits.build_voice_index(made / "features", folder, seed=3)
    for name in ("kmeans_24.pt", "feature_and_index.pkl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert not list((tmp_path / "a").glob(".*"))


def test_clips_held_out_from_training_stay_out(made: Path, tmp_path: Path) -> None:
    features, voice = write_features(tmp_path / "features", n_clips=6), write_voice(tmp_path / "voice")
    held_out = load_split(FeatureStore.open(features)).validation
    report = sovits.build_voice_index(features, voice)
    assert len(held_out) == 2 and [part.n_vectors for part in report.speakers] == [300, 300]


def test_features_of_another_voice_are_refused(made: Path, tmp_path: Path) -> None:
    other = write_features(tmp_path / "other", encoder="vec256l9")
    for make in (sovits.fit_voice_centers, sovits.build_voice_index):
        with pytest.raises(SvcError, match="vec256l9.*svcnb-units"):
            make(other, made / "voice")
        with pytest.raises(SvcError, match="no features"):
            make(tmp_path, made / "voice")
        with pytest.raises(SvcError, match="no config.json.*train it first"):
            make(made / "features", tmp_path)
    config = sovits.Config.load(made / "voice" / "config.json")
    config.spk = {"ada": 0, "eve": 1}
    config.save(tmp_path / "config.json")
    with pytest.raises(SvcError, match="no speaker bob, only ada, eve"):
        sovits.fit_voice_centers(made / "features", tmp_path)


# Using ---------------------------------------------------------------------------------------------


def test_ratio_0_is_the_conversion_without_any_file(made: Path, voice: sovits.Voice, source: Audio) -> None:
    bare = sovits.load_voice(made / "bare")
    without = bare.convert(source, ConversionSettings(**DIO)).samples
    np.testing.assert_array_equal(voice.convert(source, ConversionSettings(**DIO)).samples, without)
    blended = voice.convert(source, ConversionSettings(**DIO, cluster_ratio=0.5)).samples
    assert np.abs(blended - without).max() > 1e-4


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_ratio_1_conditions_on_centers_only(mode: str, voice: sovits.Voice, source: Audio) -> None:
    """With linear interpolation, too: the original blends after the content is aligned."""
    voice.config.data.unit_interpolate_mode = mode
    own, centers = inputs_of(voice, source), inputs_of(voice, source, cluster_ratio=1.0)
    known = voice.retrieval.centers(1).centers["bob"]
    distances = torch.cdist(own, known, compute_mode="donot_use_mm_for_euclid_dist")
    assert torch.equal(centers, known[distances.argmin(dim=1)])
    torch.testing.assert_close(inputs_of(voice, source, cluster_ratio=0.25), 0.25 * centers + 0.75 * own)


def test_retrieval_conditions_on_the_mean_of_neighbors(voice: sovits.Voice, source: Audio) -> None:
    own = inputs_of(voice, source)
    found = inputs_of(voice, source, cluster_ratio=1.0, feature_retrieval=True)
    index = voice.retrieval.index(1)
    assert torch.equal(found, torch.from_numpy(index.neighbours(own, 1).mean()))
    half = inputs_of(voice, source, cluster_ratio=0.5, feature_retrieval=True)
    torch.testing.assert_close(half, 0.5 * found + 0.5 * own)


def test_files_are_read_once_for_many_recordings_and_again_after_a_change(
    made: Path, tmp_path: Path, source: Audio, monkeypatch: pytest.MonkeyPatch
) -> None:
    voice, read, times = (
        sovits.load_voice(shutil.copytree(made / "voice", tmp_path / "v")),
        SpeakerCenters.read,
        [],
    )
    monkeypatch.setattr(SpeakerCenters, "read", lambda path: times.append(path) or read(path))
    for _ in range(3):
        voice.convert(source, ConversionSettings(**DIO, cluster_ratio=0.5))
    assert len(times) == 1
    sovits.fit_voice_centers(made / "features", tmp_path / "v", ClusterSettings(n_centers=7))
    assert len(torch.unique(inputs_of(voice, source, cluster_ratio=1.0), dim=0)) <= 7 and len(times) == 2


def test_the_newest_centers_are_used(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made / "voice", tmp_path / "v")
    SpeakerCenters({"bob": torch.ones(3, WIDTH)}).write(folder / "kmeans_10000.pt")
    os.utime(folder / "kmeans_10000.pt", (1, 1))
    assert len(sovits.load_voice(folder).retrieval.centers(1).centers["bob"]) == 24


@pytest.mark.parametrize(
    ("fr", "message"),
    [
        (False, r"kmeans\*\.pt.*svcnb cluster FEATURES .*bare.*04_cluster.*-cm"),
        (True, r"feature_and_index\.pkl.*svcnb index FEATURES .*bare.*04_cluster.*-cm"),
    ],
)
def test_missing_files_are_reported_first(fr: bool, message: str, made: Path, tmp_path: Path) -> None:
    bare = sovits.load_voice(made / "bare")
    with pytest.raises(SvcError, match=message):
        bare.check(ConversionSettings(cluster_ratio=0.5, feature_retrieval=fr))


def test_the_kind_of_a_named_file_is_detected(made: Path, tmp_path: Path, source: Audio) -> None:
    index = FeatureIndex.read(made / "voice" / "feature_and_index.pkl")
    FeatureIndex({0: index.indexes[1]}).write(tmp_path / "added.index")
    for name in (tmp_path / "added.index", made / "voice" / "feature_and_index.pkl"):
        voice = sovits.load_voice(made / "bare", cluster_model=name)
        own = inputs_of(voice, source)
        found = inputs_of(voice, source, cluster_ratio=1.0, feature_retrieval=True)
        assert torch.equal(found, torch.from_numpy(index.neighbours(own, 1).mean()))
        with pytest.raises(SvcError, match="contains an index, not centers.*-fr"):
            voice.check(ConversionSettings(cluster_ratio=0.5))
    voice = sovits.load_voice(made / "bare", cluster_model=made / "voice" / "kmeans_24.pt")
    assert len(torch.unique(inputs_of(voice, source, cluster_ratio=1.0), dim=0)) <= 24
    with pytest.raises(SvcError, match="contains centers, not an index.*-fr"):
        voice.check(ConversionSettings(cluster_ratio=0.5, feature_retrieval=True))
    with pytest.raises(SvcError, match="gone.pt: no such file"):
        sovits.load_voice(made / "bare", cluster_model=tmp_path / "gone.pt")


def test_files_without_the_speaker_or_of_another_width_are_reported(made: Path, tmp_path: Path) -> None:
    SpeakerCenters({"ada": torch.ones(3, WIDTH), "eve": torch.ones(3, 256)}).write(tmp_path / "kmeans_3.pt")
    other_width = SpeakerCenters({"bob": torch.ones(3, 256)}).write(tmp_path / "other_width.pt")
    index = FeatureIndex.read(made / "voice" / "feature_and_index.pkl")
    FeatureIndex({0: index.indexes[0]}).write(tmp_path / "one.pkl")
    centers, retrieval = (
        ConversionSettings(speaker="bob", cluster_ratio=1),
        {"cluster_ratio": 1, "feature_retrieval": True},
    )
    for path, settings, message in (
        (tmp_path / "kmeans_3.pt", centers, "nothing for speaker 'bob', only for ada, eve"),
        (other_width, centers, f"256 values per frame, this voice expects {WIDTH}"),
        (
            tmp_path / "one.pkl",
            ConversionSettings(speaker="bob", **retrieval),
            "nothing for speaker 'bob', only for ada",
        ),
    ):
        with pytest.raises(SvcError, match=message):
            sovits.load_voice(made / "bare", cluster_model=path).check(settings)


def test_retrieval_without_a_ratio_warns(voice: sovits.Voice) -> None:
    with pytest.warns(UserWarning, match="does nothing while cluster_ratio"):
        voice.check(ConversionSettings(feature_retrieval=True))


def test_encode_gives_the_content_that_conversion_uses(voice: sovits.Voice, source: Audio) -> None:
    content = voice.encode(source)
    assert content.shape == (24, WIDTH)
    aligned = align_to_frames(content.T, 43, mode=voice.config.data.unit_interpolate_mode).T
    torch.testing.assert_close(inputs_of(voice, source, pad_seconds=0.0), aligned)


# Which checkpoint ----------------------------------------------------------------------------------


def record(folder: Path, best: BestCheckpoint | None) -> None:
    saved = [SavedCheckpoint(step=step, files=[f"G_{step}.pth", f"D_{step}.pth"]) for step in (8, 20)]
    empty = {"schedules": {}, "scaler": None, "rng": {}}
    RunRecord(step=20, epoch=1, batch=0, seconds=1.0, checkpoints=saved, best=best, **empty).save(folder)


def test_the_best_checkpoint_is_used_if_training_recorded_one(tmp_path: Path) -> None:
    folder = write_voice(tmp_path / "voice", steps=(8, 20))
    assert sovits.load_voice(folder).step == 20
    record(folder, None)
    assert sovits.load_voice(folder).step == 20
    record(folder, BestCheckpoint(step=8, measure="mel", value=0.5))
    assert sovits.load_voice(folder).step == 8
    assert sovits.load_voice(folder, checkpoint="newest").step == 20
    (folder / "G_8.pth").unlink()
    assert sovits.load_voice(folder).step == 20
    (folder / "G_20.pth").rename(folder / "G_final.pth")
    assert sovits.load_voice(folder / "G_final.pth").step is None


def test_a_wrong_choice_of_checkpoint_and_a_broken_record_are_reported(tmp_path: Path) -> None:
    folder = write_voice(tmp_path / "voice")
    with pytest.raises(SvcError, match="'last': choose best or newest"):
        sovits.load_voice(folder, checkpoint="last")
    (folder / "state.json").write_text("{}")
    with pytest.raises(SvcError, match="state.json does not give the best.*newest"):
        sovits.load_voice(folder)
    assert sovits.load_voice(folder, checkpoint="newest").step == 0
