"""Clustering killed with SIGKILL, then called again: it resumes, and its result has the same bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from svcnb.features.content import clustering
from svcnb.files.checkpoint import read_safetensors
from svcnb.models import sovits
from svcnb.models.settings import ClusterSettings
from svcnb.models.sovits import clusters as sovits_clusters
from tests.places import PROJECT
from tests.toys.toy_voice import write_features, write_voice

pytest.importorskip("faiss")
SETTINGS = ClusterSettings(n_centers=100, n_rounds=4)
N_STEPS = clustering.count_steps(SETTINGS.n_rounds)
MOST_FRAMES, REDUCED = 900, 100  # for the index: the limit is over an hour otherwise

SLOWLY = """
import sys, time
from svcnb.features.content import clustering
from svcnb.models.sovits import clusters as sovits_clusters
lloyd = clustering._lloyd
clustering.SETTLED_RATIO = -1  # no speaker skips steps, so that they can be counted
clustering._lloyd = lambda *arguments: time.sleep(0.15) or lloyd(*arguments)  # the same work, with time to be killed
"""
CENTERS = f"""{SLOWLY}
sovits_clusters.fit_voice_centers(*sys.argv[1:], sovits_clusters.ClusterSettings(**{SETTINGS.model_dump()}))
"""
INDEX = f"""{SLOWLY}
sovits_clusters.MAX_INDEX_FRAMES, sovits_clusters.REDUCED_FRAMES = {MOST_FRAMES}, {REDUCED}
sovits_clusters.build_voice_index(*sys.argv[1:])
"""


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(tmp_path_factory.mktemp("kill") / "features", n_clip_frames=500)


def kill_when(reached: Callable[[], bool], program: str, *arguments: Path) -> None:
    """Start the program in its own process and kill it with SIGKILL at that point."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], cwd=PROJECT, stderr=subprocess.PIPE
    )
    try:
        until = time.monotonic() + 120
        while not reached():
            assert process.poll() is None, (
                f"it ended before it could be killed: {process.stderr.read().decode()[-500:]}"
            )
            assert time.monotonic() < until
            time.sleep(0.002)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL


def kept_steps(folder: Path) -> dict[str, int]:
    """Finished steps of speakers with stored progress, in the order of their start."""
    kept = sorted(folder.glob(".centres_*"), key=lambda path: path.stat().st_ctime_ns)
    return {path.name: int(read_safetensors(path)[1]["step"]) for path in kept}


def count_work(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that gets one entry for each step of a fit in this process; no speaker skips any."""
    steps, lloyd = [], clustering._lloyd
    monkeypatch.setattr(clustering, "SETTLED_RATIO", -1)
    monkeypatch.setattr(clustering, "_lloyd", lambda *arguments: steps.append(1) or lloyd(*arguments))
    return steps


@pytest.mark.parametrize("point", ["within the first speaker", "within the second speaker"])
def test_a_killed_fit_of_centers_resumes_and_ends_with_the_same_bytes(
    point: str, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken, broken = (
        write_voice(tmp_path / "unbroken", steps=()),
        write_voice(tmp_path / "broken", steps=()),
    )
    done = count_work(monkeypatch)
    whole = sovits.fit_voice_centers(features, unbroken, SETTINGS)
    assert len(done) == 2 * N_STEPS

    def reached() -> bool:
        steps = list(kept_steps(broken).values())
        return len(steps) == (2 if "second" in point else 1) and min(steps) >= 2

    kill_when(reached, CENTERS, features, broken)
    n_kept = sum(kept_steps(broken).values())
    assert n_kept >= 2 and not list(broken.glob("kmeans_*"))
    done.clear()
    again = sovits.fit_voice_centers(features, broken, SETTINGS)
    assert len(done) == 2 * N_STEPS - n_kept
    assert again.path.read_bytes() == whole.path.read_bytes()
    assert not list(broken.glob(".*"))


@pytest.mark.parametrize("point", ["while an hour is reduced", "between speakers"])
def test_a_killed_index_build_resumes_and_ends_with_the_same_bytes(
    point: str, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sovits_clusters, "MAX_INDEX_FRAMES", MOST_FRAMES)
    monkeypatch.setattr(sovits_clusters, "REDUCED_FRAMES", REDUCED)
    unbroken, broken = (
        write_voice(tmp_path / "unbroken", steps=()),
        write_voice(tmp_path / "broken", steps=()),
    )
    done = count_work(monkeypatch)
    whole = sovits.build_voice_index(features, unbroken)
    n_whole = len(done)
    pattern = ".index_*.safetensors" if "reduced" in point else ".index_*.index"
    kill_when(lambda: bool(list(broken.glob(pattern))), INDEX, features, broken)
    assert not (broken / "feature_and_index.pkl").exists()
    done.clear()
    again = sovits.build_voice_index(features, broken)
    assert 0 < len(done) < n_whole
    assert again.path.read_bytes() == whole.path.read_bytes()
    assert not list(broken.glob(".*"))


def test_progress_of_other_settings_is_not_used(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = write_voice(tmp_path / "broken", steps=())
    kill_when(lambda: bool(kept_steps(broken)), CENTERS, features, broken)
    done = count_work(monkeypatch)
    other = SETTINGS.model_copy(update={"seed": 1})
    fresh = sovits.fit_voice_centers(features, write_voice(tmp_path / "fresh", steps=()), other)
    assert sovits.fit_voice_centers(features, broken, other).path.read_bytes() == fresh.path.read_bytes()
    assert len(done) == 2 * 2 * N_STEPS
    assert not list(broken.glob(".*"))
