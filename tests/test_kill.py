"""kill -9 at any point, then the same command again: the result equals that of an uninterrupted run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb.audio.audio import Audio, write_audio
from svcnb.cli import main as cli
from svcnb.files.disk import TEMPORARY_PATTERN
from svcnb.models.sovits.checkpoint import read_sovits_checkpoint
from tests.places import PROJECT
from tests.toys.small_voice import tiny_config

RATE_HZ = 22050
N_CLIPS, N_STEPS, SAVE_EVERY = 40, 14, 4
PATIENCE_S = 120

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
pytest.importorskip("pyworld")

# The command line as it is, but every finished file waits a moment under its temporary name: long enough to be seen.
SLOW_RENAMES = """
import os, sys, time
replace = os.replace
def slowly(*paths):
    time.sleep(0.12)
    return replace(*paths)
os.replace = slowly
from svcnb.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def command_line(*words: object, slow: bool) -> list[str]:
    start = ["-c", SLOW_RENAMES] if slow else ["-m", "svcnb"]
    return [sys.executable, "-W", "ignore", *start, *map(str, words)]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}


def run(*words: object) -> str:
    """Run the command to its end; returns what it printed."""
    done = subprocess.run(
        command_line(*words, slow=False), cwd=PROJECT, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def kill_when(reached: Callable[[], bool], *words: object) -> None:
    """Start the command and kill it with SIGKILL as soon as `reached` returns True."""
    command = command_line(*words, slow=True)
    with subprocess.Popen(
        command, cwd=PROJECT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + PATIENCE_S
        while not reached():
            assert process.poll() is None, f"it ended before: {process.stderr.read().decode()[-2000:]}"
            assert time.monotonic() < deadline, "the moment never came"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def being_written(folder: Path) -> bool:
    return any(folder.rglob(TEMPORARY_PATTERN))


def noise(seconds: float, seed: int) -> np.ndarray:
    return (0.2 * np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ))).astype(np.float32)


# --------------------------------------------------------------------------------------------- slicing


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two speakers with eight recordings of two clips each; in `clips` the result of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("slicing")
    pause = np.zeros(RATE_HZ, np.float32)
    for number in range(16):
        samples = np.concatenate([noise(1.5, number), pause, noise(1.3, 100 + number)])
        write_audio(folder / f"raw/{'ab'[number % 2]}/{number}.wav", Audio(samples, RATE_HZ))
    run("slice", folder / "raw", folder / "clips", "--sample_rate_hz", RATE_HZ)
    return folder


SLICING_MOMENTS = {
    "while the first clip is written": lambda clips: being_written(clips / "a"),
    "while a clip is written after the list of clips": lambda clips: (
        (clips / "a/cuts.json").exists() and being_written(clips)
    ),
    "after the first speaker": lambda clips: len(list((clips / "b").glob("*.flac"))) >= 3,
}


@pytest.mark.parametrize("moment", SLICING_MOMENTS)
def test_slicing_resumes_where_it_was_killed(moment: str, recordings: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    command = ("slice", recordings / "raw", clips, "--sample_rate_hz", RATE_HZ)
    kill_when(lambda: SLICING_MOMENTS[moment](clips), *command)
    finished = finished_clips(clips)
    assert bool(finished) == (moment != "while the first clip is written")
    assert cli.main(list(map(str, command))) == 0  # in this process, to be quick
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert contents(clips) == contents(recordings / "clips")


def finished_clips(clips: Path) -> dict[Path, int]:
    """Clips in a list, and the times when they were written."""
    found = {}
    for path in clips.glob("*/cuts.json"):
        for entry in json.loads(path.read_text())["sources"].values():
            found |= {
                path.with_name(name): path.with_name(name).stat().st_mtime_ns for _, _, name in entry["clips"]
            }
    return found


# ------------------------------------------------------------------------------------------ extraction


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short clips of two speakers, a tiny config; in `features` the result of an uninterrupted extraction."""
    folder = tmp_path_factory.mktemp("extraction")
    t = np.arange(round(0.6 * RATE_HZ)) / RATE_HZ
    for number in range(N_CLIPS):
        tone = np.sign(np.sin(2 * np.pi * (100 + 5 * number) * t)) * 0.1 + noise(0.6, number)[: len(t)] * 0.05
        write_audio(folder / f"clips/{'ab'[number % 2]}/{number:02d}.flac", Audio(tone, RATE_HZ))
    tiny_config().save(folder / "tiny.json")
    run(*extraction(folder, folder / "features"))
    return folder


def extraction(folder: Path, features: Path) -> tuple[object, ...]:
    return "features", folder / "clips", features, "--config", folder / "tiny.json", "--f0_predictor", "dio"


def shards(features: Path) -> list[Path]:
    return list(features.glob("features_0*.safetensors"))


EXTRACTION_MOMENTS = {
    "while the first part is written": lambda at: (
        (at / "settings.json").exists() and being_written(at) and not list(at.glob("part*"))
    ),
    "after the first part": lambda at: (at / "part_00000.safetensors").exists(),
    "between the shards and their index": lambda at: bool(shards(at)) and not (at / "index.json").exists(),
}


@pytest.mark.parametrize("moment", EXTRACTION_MOMENTS)
def test_extraction_resumes_where_it_was_killed(moment: str, clips: Path, tmp_path: Path) -> None:
    features = tmp_path / "features"
    kill_when(lambda: EXTRACTION_MOMENTS[moment](features), *extraction(clips, features))
    n_extracted, n_kept = map(
        int, re.search(r"(\d+) clips extracted, (\d+) kept", run(*extraction(clips, features))).groups()
    )
    expected = {"while the first part is written": 0, "after the first part": 16}.get(moment, N_CLIPS)
    assert expected <= n_kept < expected + 17 and n_extracted + n_kept == N_CLIPS
    assert contents(features) == contents(clips / "features")


# -------------------------------------------------------------------------------------------- training


def training(clips: Path, voice: Path) -> tuple[object, ...]:
    limits = (
        "--max_steps",
        N_STEPS,
        "--save_every_steps",
        SAVE_EVERY,
        "--log_every_steps",
        1,
        "--validate_every_steps",
        3,
    )
    return (
        "train",
        clips / "features",
        voice,
        *limits,
        "--batch_size",
        6,
        "--resume",
        "-d",
        "cpu",
        "--seed",
        7,
    )


@pytest.fixture(scope="module")
def uninterrupted(clips: Path) -> Path:
    """A voice of an uninterrupted training, which also draws the split of the clips beside the features."""
    run(*training(clips, clips / "voice"))
    return clips / "voice"


def saved_step(voice: Path) -> int:
    return json.loads((voice / "state.json").read_text())["step"] if (voice / "state.json").exists() else 0


def logged_step(voice: Path) -> int:
    path = voice / "history.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


TRAINING_MOMENTS = {
    "before the first checkpoint": lambda at: logged_step(at) == 2,
    "while a checkpoint is written": lambda at: saved_step(at) == 4 and being_written(at / ".saving"),
    "between a checkpoint and the state that names it": lambda at: (
        (at / "G_8.pth").exists() and saved_step(at) == 4
    ),
}


@pytest.mark.parametrize("moment", TRAINING_MOMENTS)
def test_training_resumes_where_it_was_killed(
    moment: str, clips: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    voice = tmp_path / "voice"
    kill_when(lambda: TRAINING_MOMENTS[moment](voice), *training(clips, voice))
    started_at = saved_step(voice)
    printed = run(*training(clips, voice))
    assert started_at == (0 if moment == "before the first checkpoint" else 4)
    assert f"{N_STEPS - started_at} steps in" in printed
    assert saved_step(voice) == N_STEPS
    assert_equal_voices(voice, uninterrupted)


def assert_equal_voices(voice: Path, expected: Path) -> None:
    """The same files, weights and optimisers to 1e-6, and the same history except for times."""
    assert {path for path in contents(voice)} == {path for path in contents(expected)}
    for path in expected.glob("*.pth"):
        ours, theirs = read_sovits_checkpoint(voice / path.name), read_sovits_checkpoint(path)
        for name, value in theirs.model.items():
            torch.testing.assert_close(ours.model[name], value, rtol=0, atol=1e-6)
        for number, state in theirs.optimizer["state"].items():
            for name, value in state.items():
                torch.testing.assert_close(ours.optimizer["state"][number][name], value, rtol=0, atol=1e-6)
    ours, theirs = measured(voice), measured(expected)
    assert [step for step, _ in ours] == [step for step, _ in theirs] and len(theirs) >= N_STEPS
    for (step, found), (_, wanted) in zip(ours, theirs, strict=True):
        assert found == pytest.approx(wanted, abs=1e-5), step


def measured(voice: Path) -> list[tuple[int, dict[str, float]]]:
    """(step, losses) and (step, held-out measures), in the order of the history."""
    lines = [json.loads(line) for line in (voice / "history.jsonl").read_text().splitlines()]
    numbers = [(line["step"], line.get("losses") or line.get("validation")) for line in lines]
    return [(step, found) for step, found in numbers if found]
