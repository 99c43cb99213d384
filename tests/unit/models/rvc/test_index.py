"""RVC's index: file names, size for any amount of data, and search for a voice's own index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb import SvcError
from svcnb.features.content.retrieval import FeatureIndex
from svcnb.models.rvc.index import find_index, index_name, write_index

pytest.importorskip("faiss")


def some_features(n_frames: int, width: int = 16, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_frames, width)).astype(np.float32)


def test_the_index_has_rvcs_name_and_lists(tmp_path: Path) -> None:
    report = write_index([some_features(600), some_features(400, seed=1)], tmp_path, "me", "v2")
    assert report.path.name == "added_IVF25_Flat_nprobe_1_me_v2.index"  # 1000 // 39
    import faiss

    index = faiss.read_index(str(report.path))
    assert (index.ntotal, index.nlist, index.nprobe, index.d) == (1000, 25, 1, 16)
    stored = index.reconstruct_n(0, index.ntotal)
    assert sorted(map(tuple, stored)) == sorted(
        map(tuple, np.concatenate([some_features(600), some_features(400, seed=1)]))
    )


def test_fewer_than_39_frames_give_an_index_that_can_be_searched(tmp_path: Path) -> None:
    report = write_index([some_features(5)], tmp_path, "tiny", "v1")
    index = FeatureIndex.read(report.path)
    assert index.blend(torch.from_numpy(some_features(3, seed=2)), 0, 0.75).isfinite().all()


def test_a_frame_that_is_in_the_index_gives_itself_and_no_nan(tmp_path: Path) -> None:
    frames = some_features(200)
    index = FeatureIndex.read(write_index([frames], tmp_path, "me", "v1").path)
    torch.testing.assert_close(
        index.blend(torch.from_numpy(frames[:10]), 0, 1.0), torch.from_numpy(frames[:10])
    )


def test_building_again_replaces_the_index_of_less_data(tmp_path: Path) -> None:
    write_index([some_features(200)], tmp_path, "me", "v2")
    write_index([some_features(400)], tmp_path, "me", "v2")
    write_index([some_features(200)], tmp_path, "you", "v2")
    assert sorted(path.name for path in tmp_path.glob("*.index")) == [
        index_name(10, "me", "v2"),
        index_name(5, "you", "v2"),
    ]


def test_the_same_features_give_the_same_bytes(tmp_path: Path) -> None:
    paths = [write_index([some_features(300)], tmp_path / name, "me", "v2").path for name in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_no_features_raise() -> None:
    with pytest.raises(SvcError, match="no features for the index of me"):
        write_index([], "nowhere", "me", "v2")


@pytest.mark.parametrize(
    ("model", "index"),
    [
        ("me.pth", "logs/me/added_IVF25_Flat_nprobe_1_me_v2.index"),
        ("me_e20_s400.pth", "logs/me/added_IVF25_Flat_nprobe_1_me_v2.index"),
        ("me.pth", "logs/me/added_IVF25_Flat.index"),
        ("me.pth", "indices/me_IVF25_Flat_nprobe_1_me_v2.index"),
        ("me.pth", "indices/me.index"),
    ],
)
def test_the_index_of_a_voice_is_found_under_all_its_names(tmp_path: Path, model: str, index: str) -> None:
    path = tmp_path / index
    path.parent.mkdir(parents=True)
    path.touch()
    assert find_index(model, [tmp_path / "logs", tmp_path / "indices"]) == path


@pytest.mark.parametrize(
    "other",
    [
        "added_IVF25_Flat_nprobe_1_meme_v2.index",
        "trained_IVF25_Flat_nprobe_1_me_v2.index",
        "some_IVF1_Flat.index",
    ],
)
def test_the_index_of_another_voice_is_not_taken(tmp_path: Path, other: str) -> None:
    (tmp_path / other).touch()
    assert find_index("me.pth", [tmp_path]) is None


def test_an_index_of_the_other_version_is_skipped(tmp_path: Path) -> None:
    first, second = (tmp_path / f"added_IVF25_Flat_nprobe_1_me_{version}.index" for version in ("v1", "v2"))
    first.touch()
    assert find_index("me.pth", [tmp_path], version="v2") is None
    second.touch()
    assert find_index("me.pth", [tmp_path], version="v1") == first
    (tmp_path / "old" / "me").mkdir(parents=True)
    unnamed = tmp_path / "old" / "me" / "added_IVF25_Flat.index"  # without version
    unnamed.touch()
    assert find_index("me.pth", [tmp_path / "old"], version="v2") == unnamed
