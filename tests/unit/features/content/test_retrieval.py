"""K-means centers and indexes: as good as the originals', read without running code, blended without NaN."""

from __future__ import annotations

import builtins
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb import MissingExtra
from svcnb.features.content import index_files
from svcnb.features.content.clustering import RetrievalError, build_index, count_lists, fit_centers
from svcnb.features.content.retrieval import FeatureIndex, SpeakerCenters
from svcnb.files.unpickling import CheckpointError, UnsafePickle

faiss = pytest.importorskip("faiss")
WIDTH = 16


class RunsWhenRead:
    """Pickles as a call: reading it with plain pickle runs the call."""

    def __init__(self, function, *args) -> None:
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def clustered(n_frames: int, n_clusters: int = 60, *, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """Clusters of very unequal sizes, like the sounds of a language."""
    random = np.random.default_rng(seed)
    middles = random.standard_normal((n_clusters, width))
    chances = random.pareto(1.5, n_clusters) + 0.2
    frames = middles[random.choice(n_clusters, n_frames, p=chances / chances.sum())]
    return (frames + 0.3 * random.standard_normal((n_frames, width))).astype(np.float32)


def content(n_frames: int = 40, *, width: int = WIDTH) -> torch.Tensor:
    return torch.from_numpy(clustered(n_frames, width=width, seed=5))


def some_centres() -> SpeakerCenters:
    return SpeakerCenters(
        {name: torch.from_numpy(clustered(20, seed=i)) for i, name in enumerate(["alto", "Bariton ä"])}
    )


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return clustered(600)


@pytest.fixture(scope="module")
def index(frames: np.ndarray) -> FeatureIndex:
    return FeatureIndex({3: build_index(frames), 0: build_index(frames[:100])})


# centers


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_centers_round_trip(tmp_path: Path, suffix: str) -> None:
    written = some_centres()
    read = SpeakerCenters.read(written.write(tmp_path / f"kmeans.{suffix}"))
    assert sorted(read.speakers) == sorted(written.speakers)
    assert all(torch.equal(read.centers[name], written.centers[name]) for name in written.speakers)
    assert list(tmp_path.iterdir()) == [tmp_path / f"kmeans.{suffix}"]


def test_written_pt_is_what_sovits_reads_with_plain_torch(tmp_path: Path) -> None:
    path = some_centres().write(tmp_path / "kmeans_20.pt")
    stored = torch.load(path, weights_only=False)["alto"]
    assert sorted(stored) == ["_n_threads", "cluster_centers_", "n_features_in_"]
    assert stored["n_features_in_"] == WIDTH
    assert stored["cluster_centers_"].dtype == np.float32 and stored["cluster_centers_"].flags.writeable


def test_written_pt_names_no_module_that_numpy_1_lacks(tmp_path: Path) -> None:
    with zipfile.ZipFile(some_centres().write(tmp_path / "kmeans_20.pt")) as archive:
        assert all(b"_core" not in archive.read(name) for name in archive.namelist())


def test_a_malicious_kmeans_file_is_refused_and_does_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    torch.save({"alto": {"cluster_centers_": RunsWhenRead(os.mkdir, str(trace))}}, tmp_path / "kmeans.pt")
    with pytest.raises(UnsafePickle, match="mkdir"):
        SpeakerCenters.read(tmp_path / "kmeans.pt")
    assert not trace.exists()


@pytest.mark.parametrize(
    "contents", [{"model": torch.ones(2)}, {"alto": {"model": 1}}, {"alto": {"cluster_centers_": np.ones(3)}}]
)
def test_another_weights_file_is_refused_as_centers(tmp_path: Path, contents: dict) -> None:
    torch.save(contents, tmp_path / "kmeans.pt")
    with pytest.raises(RetrievalError, match="expected"):
        SpeakerCenters.read(tmp_path / "kmeans.pt")


def test_each_frame_is_assigned_to_its_nearest_center() -> None:
    centers, frames = some_centres(), content(3000)  # more than one block
    expected = centers.centers["alto"][torch.cdist(frames, centers.centers["alto"]).argmin(dim=1)]
    assert torch.equal(centers.nearest(frames, "alto"), expected)
    torch.testing.assert_close(centers.blend(frames, "alto", 0.3), 0.3 * expected + 0.7 * frames)


def test_blend_ratio_0_is_the_input_and_1_the_centers() -> None:
    centers, frames = some_centres(), content()
    assert torch.equal(centers.blend(frames, "alto", 0.0), frames)
    assert torch.equal(centers.blend(frames, "alto", 1.0), centers.nearest(frames, "alto"))
    assert centers.blend(frames.half(), "alto", 0.5).dtype == torch.float16


def test_errors_for_an_unknown_speaker_list_the_known_ones(index: FeatureIndex) -> None:
    with pytest.raises(RetrievalError, match="'soprano'.* alto, Bariton ä"):
        some_centres().blend(content(), "soprano", 0.5)
    with pytest.raises(RetrievalError, match=r"id 7, .* 3, 0\."):
        index.blend(content(), 7, 0.5)


def test_content_of_another_encoder_and_a_ratio_out_of_range_are_refused(index: FeatureIndex) -> None:
    for blend in (
        lambda *args: some_centres().blend(args[0], "alto", args[1]),
        lambda *args: index.blend(args[0], 3, args[1]),
    ):
        with pytest.raises(RetrievalError, match=r"\(40, 12\).*\[frames, 16\].*encoder"):
            blend(content(width=12), 0.5)
        with pytest.raises(RetrievalError, match="1.5, expected 0"):
            blend(content(), 1.5)
        with pytest.raises(RetrievalError, match="not finite"):
            blend(content() * np.nan, 0.5)


# index


@pytest.mark.parametrize("name", ["feature_and_index.pkl", "added.index"])
def test_an_index_round_trips(tmp_path: Path, frames: np.ndarray, index: FeatureIndex, name: str) -> None:
    written = index if name.endswith("pkl") else FeatureIndex({3: index.indexes[3]})
    read = FeatureIndex.read(written.write(tmp_path / name), speaker_id=3)
    assert read.speaker_ids == written.speaker_ids
    np.testing.assert_array_equal(read.indexes[3].reconstruct_n(0, 600), frames)
    assert torch.equal(read.blend(content(), 3, 0.7), index.blend(content(), 3, 0.7))
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_an_index_file_holds_one_speaker(tmp_path: Path, index: FeatureIndex) -> None:
    with pytest.raises(RetrievalError, match="one speaker, not 2: write a .pkl"):
        index.write(tmp_path / "added.index")
    with pytest.raises(RetrievalError, match="expected .pkl"):
        index.write(tmp_path / "added.faiss")


@pytest.mark.parametrize("writer", ["swigfaiss", "swigfaiss_avx2", "swigfaiss_avx512_spr"])
def test_a_pickle_from_another_cpu_is_read(tmp_path: Path, index: FeatureIndex, writer: str) -> None:
    pickled = pickle.dumps({5: index.indexes[3]}, protocol=3)  # names modules in plain text
    ours = f"c{type(index.indexes[3]).__module__}\n".encode()
    assert ours in pickled
    (tmp_path / "index.pkl").write_bytes(pickled.replace(ours, f"cfaiss.{writer}\n".encode()))
    assert FeatureIndex.read(tmp_path / "index.pkl").speaker_ids == [5]


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    "function",
    [os.mkdir, os.system, builtins.eval, faiss.read_index, faiss.IndexPQ],
    ids=lambda f: f.__name__,
)
def test_a_malicious_pickle_is_refused_by_name(tmp_path: Path, function, protocol: int) -> None:
    trace, path = tmp_path / "trace", tmp_path / "feature_and_index.pkl"
    argument = {"system": f"mkdir '{trace}'", "eval": f"__import__('os').mkdir({str(trace)!r})"}.get(
        function.__name__, str(trace)
    )
    path.write_bytes(pickle.dumps({0: RunsWhenRead(function, argument)}, protocol=protocol))
    with pytest.raises(UnsafePickle, match=function.__name__):
        FeatureIndex.read(path)
    assert not trace.exists()


@pytest.mark.parametrize("contents", [{}, [1], {"alto": 1}, {0: b"IwFl"}, {0: np.float64}], ids=str)
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, contents) -> None:
    (tmp_path / "index.pkl").write_bytes(pickle.dumps(contents))
    with pytest.raises(CheckpointError, match="index.pkl"):
        FeatureIndex.read(tmp_path / "index.pkl")


@pytest.mark.parametrize("kind", ["HNSW8,Flat", "IVF4,SQ8", "SQ8"])
def test_kinds_of_index_that_neither_family_writes_are_refused(
    tmp_path: Path, frames: np.ndarray, kind: str
) -> None:
    other = faiss.index_factory(WIDTH, kind)
    other.train(frames)
    other.add(frames)
    faiss.write_index(other, str(tmp_path / "other.index"))
    with pytest.raises(CheckpointError, match="expected IVF,Flat or Flat"):
        FeatureIndex.read(tmp_path / "other.index")


def test_an_index_that_opens_another_file_is_refused(tmp_path: Path, frames: np.ndarray) -> None:
    on_disk = faiss.index_factory(WIDTH, "IVF4,Flat")
    on_disk.train(frames)
    lists = faiss.OnDiskInvertedLists(on_disk.nlist, on_disk.code_size, str(tmp_path / "lists"))
    on_disk.replace_invlists(lists)
    on_disk.add(frames)
    faiss.write_index(on_disk, str(tmp_path / "on_disk.index"))
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        FeatureIndex.read(tmp_path / "on_disk.index")


def read_or_refused(path: Path) -> None:
    """A damaged file is read (a few numbers in it do not matter) or refused in one line; nothing else happens."""
    try:
        FeatureIndex.read(path).blend(content(2), 0, 0.5)
    except (CheckpointError, RetrievalError) as error:
        assert path.name in str(error) and "\n" not in str(error)


def test_damaged_bytes_are_an_error_that_comes_at_once(tmp_path: Path, index: FeatureIndex) -> None:
    """One bit in each number of the header and of the lists' sizes, and files cut short; each is read behind limits."""
    path = FeatureIndex({0: index.indexes[3]}).write(tmp_path / "added.index")
    whole, random = path.read_bytes(), np.random.default_rng(0)
    lists = whole.index(b"ilar")
    positions = [*range(0, 94, 4), *range(lists - 9, lists + 32 + 8 * index.indexes[3].nlist, 8)]
    paths = []
    for number, position in enumerate(positions):
        damaged = bytearray(whole)
        damaged[position + int(random.integers(4))] ^= 1 << int(random.integers(8))
        paths.append(tmp_path / f"{number}.index")
        paths[-1].write_bytes(damaged)
    started = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(read_or_refused, paths))
    assert time.monotonic() - started < 3 * len(paths), "a damaged file was waited for"
    for n_bytes in (0, 3, 40, 95, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(CheckpointError, match="added.index"):
            FeatureIndex.read(path)
    path.write_bytes(whole + b"more")
    with pytest.raises(CheckpointError, match=rf"{len(whole) + 4} bytes, its sizes ask for {len(whole)}"):
        FeatureIndex.read(path)


@pytest.mark.parametrize(
    "script, message",
    [
        ("import os; os.kill(os.getpid(), 9)", "ended by signal 9"),
        ("import time; time.sleep(60)", "not read within 1 s"),
        ("print('no arrays')", "damaged"),
    ],
    ids=["killed", "hangs", "prints nonsense"],
)
def test_any_failure_of_the_reader_is_one_line(
    tmp_path: Path, index: FeatureIndex, monkeypatch, script: str, message: str
) -> None:
    path = FeatureIndex({0: index.indexes[3]}).write(tmp_path / "added.index")
    (tmp_path / "reader.py").write_text(script)
    monkeypatch.setattr(index_files, "READER", tmp_path / "reader.py")
    monkeypatch.setattr(index_files, "READER_START_S", 1.0)
    with pytest.raises(CheckpointError, match=f"added.index.*{message}"):
        FeatureIndex.read(path)


MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[2:], stdin=open(sys.argv[1], "rb"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_the_reader_cannot_take_more_memory_than_an_index_needs(tmp_path: Path, index: FeatureIndex) -> None:
    path = FeatureIndex({0: index.indexes[3]}).write(tmp_path / "added.index")
    whole = bytearray(path.read_bytes())
    whole[8:16] = struct.pack("<q", 10**9)  # vectors, here and in the lists' first size
    lists = whole.index(b"ilar") + 32
    whole[lists : lists + 8] = struct.pack("<q", 10**9)
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match="added.index"):
        FeatureIndex.read(path)
    # Measured from a small process: a child starts with the memory of the one that started it.
    command = [sys.executable, "-c", MEASURE, path, sys.executable, "-P", index_files.READER, str(len(whole))]
    code, used = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert code != 0 and used < 1e9  # 10^9 vectors of 16 numbers are 64 GB


def test_what_is_read_is_written_byte_for_byte(tmp_path: Path, index: FeatureIndex) -> None:
    for number, kind in enumerate(["IVF,Flat", "IVF,Flat with a map of ids", "Flat"]):
        one = faiss.clone_index(index.indexes[3]) if kind != "Flat" else faiss.IndexFlatL2(WIDTH)
        if kind == "Flat":
            one.add(clustered(50))
        elif "map" in kind:
            one.make_direct_map()
        written = FeatureIndex({0: one}).write(tmp_path / f"{number}.index")
        again = FeatureIndex.read(written).write(tmp_path / "again.index")
        assert again.read_bytes() == written.read_bytes(), kind


def test_a_missing_file_and_an_index_without_vectors_are_errors(tmp_path: Path, frames: np.ndarray) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        FeatureIndex.read(tmp_path / "added.index")
    trained = faiss.index_factory(WIDTH, "IVF4,Flat")
    trained.train(frames)
    faiss.write_index(trained, str(tmp_path / "trained.index"))
    with pytest.raises(RetrievalError, match="added_"):
        FeatureIndex.read(tmp_path / "trained.index")


def test_an_exact_match_gives_that_vector_and_is_finite(frames: np.ndarray, index: FeatureIndex) -> None:
    hits = torch.from_numpy(frames[:50])
    torch.testing.assert_close(index.blend(hits, 3, 1.0), hits)
    twice = FeatureIndex({0: build_index(np.repeat(frames[:50], 2, axis=0))})
    torch.testing.assert_close(twice.blend(hits, 0, 1.0), hits)


def test_neighbours_are_weighted_by_the_square_of_the_inverse_distance(frames: np.ndarray) -> None:
    flat = faiss.IndexFlatL2(WIDTH)
    flat.add(frames)
    queries = content(5)
    for query, ours in zip(
        queries, FeatureIndex({0: flat}).blend(queries, 0, 0.4, n_neighbours=3), strict=True
    ):
        distances = (torch.from_numpy(frames) - query).square().sum(dim=1)
        nearest, ids = distances.double().topk(3, largest=False)
        weights = nearest**-2 / (nearest**-2).sum()
        mean = weights.float() @ torch.from_numpy(frames)[ids]
        torch.testing.assert_close(ours, 0.4 * mean + 0.6 * query, rtol=1e-4, atol=1e-5)


def test_index_ratio_0_is_the_input(index: FeatureIndex) -> None:
    frames = content(2000)  # more than one block
    assert torch.equal(index.blend(frames, 3, 0.0), frames)
    assert index.blend(frames.half(), 3, 0.5).dtype == torch.float16


def test_fewer_vectors_than_neighbours_and_empty_lists_stay_finite(frames: np.ndarray) -> None:
    few = FeatureIndex({0: build_index(frames[:3])})
    assert few.blend(content(), 0, 1.0).isfinite().all()
    sparse = faiss.index_factory(WIDTH, "IVF8,Flat")
    sparse.train(frames)
    sparse.add(frames[:1])  # seven lists are empty
    torch.testing.assert_close(
        FeatureIndex({0: sparse}).blend(content(), 0, 1.0), torch.from_numpy(frames[:1]).expand(40, -1)
    )


def test_lists_follow_the_original_rule_but_are_never_none() -> None:
    assert [count_lists(n) for n in (10_000, 90_000, 180_000, 1500)] == [256, 2307, 4615, 38]
    assert [count_lists(n) for n in (1, 38, 39, 78)] == [1, 1, 1, 2]


def test_hours_of_frames_are_reduced_to_centers(monkeypatch: pytest.MonkeyPatch, frames: np.ndarray) -> None:
    monkeypatch.setattr("svcnb.features.content.clustering.MAX_INDEX_FRAMES", 400)
    monkeypatch.setattr("svcnb.features.content.clustering.REDUCED_FRAMES", 50)
    assert build_index(frames).ntotal == 50


# fitting


def test_the_error_is_at_most_that_of_scikit_learn() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    for n_clusters, n_centers in ((60, 50), (60, 200), (1, 100)):
        frames = clustered(3000, n_clusters)
        theirs = cluster.KMeans(n_centers, n_init=1, random_state=0).fit(frames).inertia_ / len(frames)
        fit = fit_centers(frames, n_centers)
        assert fit.mean_squared_distance <= 1.02 * theirs
        gaps = np.square(frames[:, None] - fit.centers.numpy()[None]).sum(axis=2).min(axis=1)
        assert fit.mean_squared_distance == pytest.approx(gaps.mean(), rel=1e-3)


def test_moving_idle_centers_reduces_the_error() -> None:
    frames = clustered(3000)
    plain, moved = (fit_centers(frames, 60, n_rounds=n_rounds).mean_squared_distance for n_rounds in (0, 10))
    assert moved < 0.9 * plain


def test_the_same_seed_gives_the_same_centers(frames: np.ndarray) -> None:
    assert torch.equal(
        fit_centers(frames, 20, seed=1).centers, fit_centers(torch.from_numpy(frames), 20, seed=1).centers
    )
    assert not torch.equal(fit_centers(frames, 20, seed=1).centers, fit_centers(frames, 20, seed=2).centers)


def test_fewer_frames_than_centers_give_a_note_not_an_error(frames: np.ndarray) -> None:
    fit = fit_centers(frames, 10_000)
    assert fit.centers.shape == (300, WIDTH)
    assert "10000 requested, but 600 frames" in fit.note and fit.note in str(fit)
    assert fit_centers(frames[:1], 100).centers.shape == (1, WIDTH)
    assert not fit_centers(frames, 300).note


def test_frames_that_are_all_equal_give_finite_centers() -> None:
    fit = fit_centers(np.ones((50, WIDTH), np.float32), 10)
    assert fit.centers.isfinite().all() and fit.mean_squared_distance < 1e-3


@pytest.mark.parametrize(
    "features",
    [np.ones((0, 4)), np.ones(4), np.full((9, 4), np.nan), [[1.0]]],
    ids=["none", "1-d", "nan", "list"],
)
def test_features_that_cannot_be_used_are_refused(features) -> None:
    with pytest.raises(RetrievalError, match="the features"):
        fit_centers(features, 2)
    with pytest.raises(RetrievalError, match="the features"):
        build_index(features)


def test_without_faiss_the_pip_command_is_named_and_centers_blend(
    monkeypatch: pytest.MonkeyPatch, frames: np.ndarray
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r'pip install "svcnb\[index\]"'):
        fit_centers(frames, 2)
    with pytest.raises(MissingExtra):
        build_index(frames)
    assert some_centres().blend(content(), "alto", 0.5).shape == (40, WIDTH)
