"""What 30_rvc_train shows before training: a clip, and the estimated training time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from svcnb import SvcError
from svcnb.models import rvc
from svcnb.models.rvc.one_click import TimeEstimate, estimate_time
from svcnb.models.rvc.prepare import read_clip
from svcnb.models.rvc.train import count_steps
from tests.toys.toy_rvc import tiny_config, write_recordings


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("estimate")
    config = tiny_config()
    rvc.cut_recordings(
        write_recordings(folder / "raw"),
        folder / "me",
        rvc.CutSettings(sample_rate_hz=config.data.sampling_rate),
    )
    rvc.prepare(config, folder / "me", rvc.PrepareSettings(f0_method="dio"))
    return folder / "me"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_estimate_counts_the_steps_and_changes_no_file(experiment: Path) -> None:
    before = contents(experiment)
    estimate = estimate_time(experiment, device="cpu")
    after = contents(experiment)
    assert before.items() <= after.items() and after.keys() - before.keys() <= {"features/split.json"}
    assert estimate.steps_per_epoch == count_steps(experiment) and estimate.batch_size == 2
    assert estimate.step_s > 0
    alone = estimate_time(experiment, batch_size=1, device="cpu")
    assert alone.steps_per_epoch == alone.n_clips == estimate.n_clips
    assert estimate.steps_per_epoch >= estimate.n_clips / 2


def test_times_are_epochs_times_steps_times_seconds() -> None:
    estimate = TimeEstimate(n_clips=100, batch_size=4, steps_per_epoch=25, step_s=0.5, memory_bytes=None)
    assert estimate.seconds(4) == 50.0
    expected = [("4", "100", "50 s"), ("100", "2500", "21 min"), ("2000", "50000", "6.9 h")]
    assert estimate.table((4, 100, 2000)) == expected


def test_without_features_the_estimate_raises(tmp_path: Path) -> None:
    with pytest.raises(SvcError):
        estimate_time(tmp_path, device="cpu")


def test_a_clip_is_read_with_its_f0_and_never_the_added_silence(experiment: Path) -> None:
    for number in (0, -1):
        audio, f0 = read_clip(experiment, number)
        assert audio.peak > 0.1
        voiced_hz = f0.f0_hz[f0.f0_hz > 0]
        assert len(voiced_hz) > 0.5 * len(f0.f0_hz) and 140 < np.median(voiced_hz) < 220
        assert len(f0.f0_hz) * f0.hop_s == pytest.approx(audio.duration_s, abs=2 * f0.hop_s)
