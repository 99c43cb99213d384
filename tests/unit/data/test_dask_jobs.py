"""Tests of feature extraction on a dask cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import soundfile

from svcnb import MissingExtra, SvcError
from svcnb.data import extraction as dask_jobs
from svcnb.data.extraction import extract
from svcnb.models import sovits
from tests.toys.toy_features import SETTINGS, make_toy, write_clips

distributed = pytest.importorskip("distributed", reason="dask is not installed")


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """Address of a cluster of two processes, each of which works on two clips at once."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0") as cluster:
        yield cluster.scheduler_address


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_cluster_extracts_the_same_features_of_recordings(
    tmp_path: Path, voices_folder: Path, scheduler: str
) -> None:
    """DIO and the bundled encoder: neural f0 methods round differently with each number of threads."""
    for number, path in enumerate(sorted(voices_folder.rglob("*.flac"))[:4]):
        samples, rate_hz = soundfile.read(path, frames=60_000)
        clip = tmp_path / "clips" / ("ada", "bob")[number % 2] / f"{number}.wav"
        clip.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(clip, samples, rate_hz)
    ways = {
        "one": {},
        "two": {"n_jobs": 2},
        "local": {"n_jobs": 2, "dask": "local"},
        "address": {"dask": scheduler},
    }
    for way, options in ways.items():
        settings = sovits.PrepareSettings(encoder="svcnb-units", f0_method="dio", with_volume=True, **options)
        report = sovits.prepare(sovits.Config.small(), tmp_path / "clips", tmp_path / way, settings)
        assert len(report.done) == 4
    expected = bytes_of(tmp_path / "one")
    assert all(bytes_of(tmp_path / way) == expected for way in ways)


def test_joblibs_dask_backend_chosen_around_the_call_is_kept(tmp_path: Path, scheduler: str) -> None:
    from joblib import parallel_config

    clips = write_clips(tmp_path / "clips", 12)
    extract(clips, tmp_path / "one", SETTINGS, make_extractor=make_toy)
    make = partial(make_toy, pause_s=0.02, diary=tmp_path / "diary")
    with distributed.Client(scheduler) as client, parallel_config(backend="dask"):
        extract(clips, tmp_path / "dask", SETTINGS, make_extractor=make, n_jobs=-1)
        workers = client.run(os.getpid).values()
    assert {int(line.split()[0]) for line in (tmp_path / "diary").read_text().splitlines()} == set(workers)
    assert bytes_of(tmp_path / "dask") == bytes_of(tmp_path / "one")


def test_a_scheduler_that_does_not_answer_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_jobs, "CONNECT_SECONDS", 0.2)
    with (
        pytest.raises(SvcError, match="no dask scheduler answers at tcp://127.0.0.1:9"),
        dask_jobs.dask_jobs("tcp://127.0.0.1:9"),
    ):
        pass


def test_without_dask_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtra, match=r'pip install "svcnb\[cluster\]"'), dask_jobs.dask_jobs("local"):
        pass
