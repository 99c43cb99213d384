"""Training with several processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.multiprocessing import ProcessRaisedException

from svcnb import SvcError
from svcnb.models import sovits
from svcnb.models.sovits.checkpoint import read_sovits_checkpoint
from svcnb.training import launch as launching
from svcnb.training.checkpoints import read_progress
from svcnb.training.launch import check_devices, run_in_processes
from svcnb.training.loop import TrainReport
from svcnb.training.settings import TrainSettings
from tests.places import PROJECT
from tests.toys.tiny_voice import (
    refuse_in_second,
    tiny_config,
    train_in_parts,
    train_steadily,
    train_until,
    write_features,
)

SETTINGS = TrainSettings(max_steps=4, save_every_steps=3, log_every_steps=1, device="cpu", n_processes=2)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven clips to train on, one held out; trained without a discriminator, which is faster."""
    return write_features(tmp_path_factory.mktemp("tiny"), tiny_config(c_adversarial=0.0))


@pytest.fixture(scope="module")
def voice_of_two(features: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainReport]:
    """A voice trained by two processes through the public call."""
    voice = tmp_path_factory.mktemp("two") / "voice"
    return voice, sovits.train(features, voice, SETTINGS)


def with_losses(features: Path, folder: Path, **train) -> Path:
    """The same features, trained with other losses."""
    shutil.copytree(features, folder)
    tiny_config(**train).save(folder / "config.json")
    return folder


def losses_of(voice: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (voice / "history.jsonl").read_text().splitlines()]
    return [line["losses"] for line in lines if "losses" in line]


@contextmanager
def one_thread() -> Iterator[None]:
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def assert_alike(name: str, one: torch.Tensor, two: torch.Tensor, *, rtol: float, atol: float) -> None:
    """The root mean square of the difference is at most that of the tensor times `rtol`, and `atol`."""
    rms = (one.double().square().mean().sqrt(), (one - two).double().square().mean().sqrt())
    assert rms[1] <= rtol * rms[0] + atol, f"{name}: the difference is {rms[1]:.2g}, the tensor {rms[0]:.2g}"


def assert_trained_alike(one: Path, two: Path, *, step: int, rtol: float) -> None:
    """Adam's moments (the gradients) agree within `rtol` per tensor, losses within 1e-4, weights within 5e-5.

    Adam divides a gradient by its own size: if a gradient is hardly more than rounding, so is a whole step
    (1e-3), and how many weights are affected depends on the processor. A tensor may differ by 5 % of a step.
    Moments near zero are compared with 2e-8: attention does not change if all keys shift equally, so the
    gradient of their bias is only rounding, about 1e-8.
    """
    for letter in "GD":
        ours, theirs = (read_sovits_checkpoint(voice / f"{letter}_{step}.pth") for voice in (one, two))
        for name, weight in ours.model.items():
            assert_alike(name, weight, theirs.model[name], rtol=1e-4, atol=5e-5)
        for number, moments in ours.optimizer["state"].items():
            for kind, moment in moments.items():
                their_moment = theirs.optimizer["state"][number][kind]
                assert_alike(f"{kind} of tensor {number}", moment, their_moment, rtol=rtol, atol=2e-8)
    for ours, theirs in zip(losses_of(one), losses_of(two), strict=True):
        assert set(ours) >= {"mel", "kl", "lf0", "gen", "fm", "disc", "prior_mel", "total"}
        assert theirs == pytest.approx(ours, rel=1e-4)


def test_two_processes_train_as_one_with_the_same_whole_batch(features: Path, tmp_path: Path) -> None:
    """Five steps of 4 and 3 clips; and one of all 7 with perceptual loss and multi-resolution spectral loss.

    These losses are excluded from the five steps, because differences grow too fast: the logarithm of an
    almost silent bin turns rounding into a gradient. A change of 1e-7 in the weights grows to 0.1 within five
    steps of one process; within one step, gradients differ by up to 1e-3 (AVX2 code; 1e-4 with AVX-512).
    """
    long = with_losses(features, tmp_path / "long", c_stft=0.0, c_hear=0.0)
    short = with_losses(features, tmp_path / "short")
    five, once = (SETTINGS.model_copy(update={"max_steps": steps}) for steps in (5, 1))
    together = [(long, tmp_path / "long2", five, 2), (short, tmp_path / "short2", once, 4)]
    run_in_processes(partial(train_steadily, together), 2)
    alone = [(long, tmp_path / "long1", five, 4), (short, tmp_path / "short1", once, 7)]
    with (
        one_thread()
    ):  # as each of the two has, where there are two cores: threads change how sums are rounded
        one = {"n_processes": 1}
        train_steadily([(*folders, chosen.model_copy(update=one), size) for *folders, chosen, size in alone])
    assert_trained_alike(tmp_path / "long1", tmp_path / "long2", step=5, rtol=1e-4)
    assert_trained_alike(tmp_path / "short1", tmp_path / "short2", step=1, rtol=5e-3)


def test_the_report_comes_back_and_the_files_are_those_of_one_process(voice_of_two) -> None:
    voice, report = voice_of_two
    assert (report.steps, report.step, report.stopped_by) == (4, 4, "max_steps")
    assert (
        set(report.last_losses) >= {"mel", "kl", "total"} and report.history_path == voice / "history.jsonl"
    )
    assert len(losses_of(voice)) == 4 and "mel" in report.last_validation
    assert {path.name for path in voice.glob("*.pth")} == {"G_3.pth", "G_4.pth"}
    assert read_progress(voice).n_processes == 2 and not (voice / ".saving").exists()


def test_a_resumed_run_of_two_processes_equals_an_uninterrupted_one(
    features: Path, tmp_path: Path, voice_of_two
) -> None:
    run_in_processes(partial(train_in_parts, features, tmp_path / "voice", SETTINGS, stops=(1, 3, 4)), 2)
    assert_equal_weights(tmp_path / "voice" / "G_4.pth", voice_of_two[0] / "G_4.pth")
    assert losses_of(tmp_path / "voice") == losses_of(voice_of_two[0])


def assert_equal_weights(one: Path, two: Path) -> None:
    ours, theirs = (read_sovits_checkpoint(path).model for path in (one, two))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_processes_that_torchrun_started_train_the_same(features: Path, tmp_path: Path, voice_of_two) -> None:
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "svcnb",
    ]
    done = subprocess.run(
        [*launch, *train_command(features, tmp_path / "voice", max_steps=4)],
        cwd=PROJECT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert read_progress(tmp_path / "voice").n_processes == 2
    assert_equal_weights(tmp_path / "voice" / "G_4.pth", voice_of_two[0] / "G_4.pth")


def train_command(features: Path, voice: Path, **options) -> list[str]:
    flags = {"log_every_steps": 1, "device": "cpu"} | options
    return [
        "train",
        str(features),
        str(voice),
        *(word for name, value in flags.items() for word in (f"--{name}", str(value))),
    ]


def test_a_killed_process_ends_the_training_with_an_error(features: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"max_steps": 50, "save_every_steps": 2})
    with pytest.raises(SvcError, match="process 1 of 2 .* was killed by signal 9.*what was saved is kept"):
        run_in_processes(partial(train_until, features, tmp_path / "voice", settings, step=3), 2)
    assert read_progress(tmp_path / "voice").step == 2


def test_an_error_in_one_process_is_the_error_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "GRACE_SECONDS", 0.3)
    started = time.monotonic()
    with pytest.raises(SvcError, match="^the disk is full$"):
        run_in_processes(partial(refuse_in_second, tmp_path / "started"), 2)
    assert time.monotonic() - started < 50, "the other process was waited for"


def test_a_bug_in_a_process_comes_with_its_traceback() -> None:
    with pytest.raises(ProcessRaisedException, match="(?s)Traceback.*ValueError: invalid literal") as caught:
        run_in_processes(partial(int, "no number"), 2)
    assert not isinstance(caught.value, SvcError)


@pytest.mark.parametrize("end", ["ctrl-C", "death of the starter"])
def test_all_processes_save_and_stop_together(features: Path, tmp_path: Path, end: str) -> None:
    command = train_command(features, tmp_path / "voice", num_processes=2, save_every_steps=10_000)
    with subprocess.Popen(
        [sys.executable, "-m", "svcnb", *command],
        cwd=PROJECT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as starter:
        wait_until(lambda: starter.poll() is not None or has_losses(tmp_path / "voice"))
        if end == "ctrl-C":
            os.killpg(starter.pid, signal.SIGINT)  # a terminal signals the whole group, not only the starter
        else:
            starter.kill()
        printed, _ = starter.communicate(timeout=60)
    assert end != "ctrl-C" or (starter.returncode == 0 and "stopped by interrupted" in printed), printed
    wait_until(lambda: read_progress(tmp_path / "voice") is not None)
    assert read_progress(tmp_path / "voice").step == len(losses_of(tmp_path / "voice"))
    wait_until(lambda: not group_is_alive(starter.pid))


def has_losses(voice: Path) -> bool:
    return (voice / "history.jsonl").exists() and len(losses_of(voice)) > 1


def wait_until(holds) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def group_is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_more_processes_than_gpus_or_clips_are_refused(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        SvcError, match="2 processes need a GPU each, and 1 is here: choose n_processes=1, or device=cpu"
    ):
        check_devices(2, "auto")
    check_devices(2, "cpu")
    with pytest.raises(SvcError, match="8 processes cannot share 7 clips: choose n_processes=7 or fewer"):
        sovits.train(features, tmp_path / "voice", SETTINGS.model_copy(update={"n_processes": 8}))
