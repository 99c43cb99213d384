"""The command line: every wrong input is told in one line, with exit code 2, and leaves nothing half-written."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from svcnb.cli import main as cli
from svcnb.cli import train
from tests.places import PROJECT
from tests.toys.toy_voice import write_features, write_voice

RATE_HZ = 22050


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run where a user runs them: bundled weights are found below the project's folder."""
    monkeypatch.chdir(PROJECT)


def told(capsys: pytest.CaptureFixture, *arguments: object, code: int = cli.EXIT_USER_ERROR) -> str:
    """Run a command that must fail; its one line on stderr."""
    capsys.readouterr()
    try:
        assert cli.main([str(argument) for argument in arguments]) == code
    except SystemExit as stopped:  # the parser's own
        assert stopped.code == code
    lines = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith(("error:", "Traceback"))
    ]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def write_tone(path: Path, seconds: float = 2.0, *, amplitude: float = 0.3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    tone = sum(np.sin(2 * np.pi * 180 * k * t) / k for k in range(1, 8))
    soundfile.write(path, (amplitude * tone / 2).astype(np.float32), RATE_HZ)
    return path


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


# --- slice --------------------------------------------------------------------------------------------------------


def test_slice_tells_a_missing_folder(tmp_path: Path, capsys) -> None:
    line = told(capsys, "slice", tmp_path / "nowhere", tmp_path / "clips")
    assert "nowhere" in line
    assert not files_below(tmp_path / "clips")


def test_slice_tells_an_empty_folder(tmp_path: Path, capsys) -> None:
    (tmp_path / "raw").mkdir()
    line = told(capsys, "slice", tmp_path / "raw", tmp_path / "clips")
    assert "raw" in line
    assert not files_below(tmp_path / "clips")


def make_unusable(kind: str, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "text":
        path.write_text("this is a shopping list\n" * 50)
    elif kind == "no samples":
        soundfile.write(path, np.zeros(0, np.float32), RATE_HZ)
    elif kind == "silence":
        soundfile.write(path, np.zeros(3 * RATE_HZ, np.float32), RATE_HZ)
    else:
        path.write_bytes(b"")
    return path


UNUSABLE = ["text", "no samples", "silence", "no bytes"]


@pytest.mark.parametrize("kind", UNUSABLE)
def test_slice_names_recordings_that_give_nothing(kind: str, tmp_path: Path, capsys) -> None:
    make_unusable(kind, tmp_path / "raw" / "me" / "broken.wav")
    write_tone(tmp_path / "raw" / "me" / "good.wav")
    assert cli.main(["slice", str(tmp_path / "raw"), str(tmp_path / "clips")]) == 0
    seen = capsys.readouterr()
    assert "broken.wav" in seen.err and "good.wav" not in seen.err
    assert [path for path in files_below(tmp_path / "clips") if path.suffix == ".flac"]


@pytest.mark.parametrize("kind", UNUSABLE)
def test_slice_fails_where_nothing_is_left(kind: str, tmp_path: Path, capsys) -> None:
    make_unusable(kind, tmp_path / "raw" / "me" / "broken.wav")
    line = told(capsys, "slice", tmp_path / "raw", tmp_path / "clips")
    assert "broken.wav" in line
    assert not [path for path in files_below(tmp_path / "clips") if path.suffix == ".flac"]


def test_slice_tells_a_level_it_does_not_know(tmp_path: Path, capsys) -> None:
    write_tone(tmp_path / "raw" / "me" / "good.wav")
    line = told(capsys, "slice", tmp_path / "raw", tmp_path / "clips", "--level", "loud")
    assert all(name in line for name in ("off", "peak", "lufs"))


# --- features and train -------------------------------------------------------------------------------------------


def test_features_tells_missing_and_empty_clips(tmp_path: Path, capsys) -> None:
    assert "nowhere" in told(capsys, "features", tmp_path / "nowhere", tmp_path / "features")
    (tmp_path / "clips").mkdir()
    assert "clips" in told(capsys, "features", tmp_path / "clips", tmp_path / "features")
    assert not files_below(tmp_path / "features")


def test_features_tells_the_predictors_there_are(tmp_path: Path, capsys) -> None:
    write_tone(tmp_path / "clips" / "me" / "a.flac")
    line = told(capsys, "features", tmp_path / "clips", tmp_path / "features", "--f0_predictor", "swipe")
    assert all(name in line for name in ("swipe", "fcpe", "rmvpe", "crepe", "dio", "harvest", "pm"))
    assert not files_below(tmp_path / "features")


def test_features_tells_a_config_that_is_none(tmp_path: Path, capsys) -> None:
    write_tone(tmp_path / "clips" / "me" / "a.flac")
    assert "config.json" in told(
        capsys, "features", tmp_path / "clips", tmp_path / "f", "--config", tmp_path / "no.json"
    )
    (tmp_path / "list.json").write_text("[1, 2]")
    assert "list.json" in told(
        capsys, "features", tmp_path / "clips", tmp_path / "f", "--config", tmp_path / "list.json"
    )


def test_train_tells_missing_features_and_wrong_values(tmp_path: Path, capsys) -> None:
    assert "nowhere" in told(capsys, "train", tmp_path / "nowhere", tmp_path / "voice", "--max_steps", 1)
    line = told(capsys, "train", tmp_path / "nowhere", tmp_path / "voice", "--precision", "int8")
    assert "precision" in line and "fp16" in line
    assert "validate_every_steps" in told(
        capsys, "train", tmp_path, tmp_path / "voice", "--validate_every_steps", 0
    )
    assert not files_below(tmp_path / "voice")


# --- convert ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voice of the small size that was never trained: it makes noise, but it loads and converts."""
    import torch

    from svcnb.files.checkpoint import to_plain_names
    from svcnb.models import sovits
    from svcnb.models.sovits.checkpoint import save_sovits_checkpoint

    torch.manual_seed(0)
    config = sovits.Config.small()
    config.spk = {"ada": 0}
    folder = tmp_path_factory.mktemp("voices") / "untrained"
    config.save(folder / "config.json")
    state = to_plain_names(sovits.build(config).generator.state_dict())
    save_sovits_checkpoint(folder / "G_0.pth", model_state=state, iteration=0, learning_rate=1e-4)
    return folder


@pytest.fixture
def song(tmp_path: Path) -> Path:
    return write_tone(tmp_path / "a song (1) & more.wav")


def test_convert_writes_a_result_as_long_as_the_source(
    voice: Path, song: Path, tmp_path: Path, capsys
) -> None:
    arguments = ["convert", voice, song, "-t", "0", "-f0p", "dio", "-o", tmp_path / "out", "-wf", "wav"]
    assert cli.main([str(argument) for argument in arguments]) == 0
    (result,) = files_below(tmp_path / "out")
    assert str(result) in capsys.readouterr().out
    before, after = soundfile.info(song), soundfile.info(result)
    assert abs(before.duration - after.duration) < 1e-3
    assert result.suffix == ".wav" and "ada" in result.name


def test_convert_takes_so_vits_flags(voice: Path, song: Path, tmp_path: Path) -> None:
    arguments = [
        "convert",
        "-m",
        voice / "G_0.pth",
        "-c",
        voice / "config.json",
        "-n",
        song,
        "-s",
        "ada",
        "-t",
        "3",
    ]
    arguments += [
        "-f0p",
        "dio",
        "-sd",
        "-50",
        "-ns",
        "0.2",
        "-p",
        "0.1",
        "-cl",
        "1",
        "-lg",
        "0.1",
        "-lgr",
        "0.5",
        "-fmp",
    ]
    assert cli.main([str(argument) for argument in [*arguments, "-o", tmp_path / "out"]]) == 0
    assert len(files_below(tmp_path / "out")) == 1


def test_convert_tells_what_is_missing(voice: Path, song: Path, tmp_path: Path, capsys) -> None:
    assert "no voice" in told(capsys, "convert")
    assert "no recording" in told(capsys, "convert", voice)
    assert "nowhere" in told(capsys, "convert", tmp_path / "nowhere", song)
    assert "none.wav" in told(capsys, "convert", voice, tmp_path / "none.wav")
    (tmp_path / "empty").mkdir()
    assert "G_*.pth" in told(capsys, "convert", tmp_path / "empty", song)


def test_convert_tells_the_speakers_there_are(voice: Path, song: Path, tmp_path: Path, capsys) -> None:
    line = told(capsys, "convert", voice, song, "-s", "nobody", "-o", tmp_path / "out")
    assert "nobody" in line and "ada" in line
    assert not files_below(tmp_path / "out")


def test_convert_tells_the_predictors_there_are(voice: Path, song: Path, tmp_path: Path, capsys) -> None:
    line = told(capsys, "convert", voice, song, "-f0p", "swipe", "-o", tmp_path / "out")
    assert all(name in line for name in ("swipe", "fcpe", "rmvpe", "crepe", "dio", "harvest", "pm"))


@pytest.mark.parametrize(
    ("flag", "value"), [("-ft", 3), ("-lgr", 0), ("-wf", "aac"), ("-sd", 20), ("-ns", -1)]
)
def test_convert_tells_values_out_of_range_with_their_flag(
    flag, value, voice: Path, song: Path, capsys
) -> None:
    line = told(capsys, "convert", voice, song, flag, value)
    assert flag in line and str(value) in line


@pytest.mark.parametrize("kind", ["text", "no samples", "no bytes"])
def test_convert_tells_recordings_that_are_none(kind: str, voice: Path, tmp_path: Path, capsys) -> None:
    broken = make_unusable(kind, tmp_path / "broken.wav")
    assert "broken.wav" in told(capsys, "convert", voice, broken, "-f0p", "dio", "-o", tmp_path / "out")
    assert not files_below(tmp_path / "out")


def test_convert_gives_silence_for_silence(voice: Path, tmp_path: Path) -> None:
    quiet = make_unusable("silence", tmp_path / "quiet.wav")
    assert cli.main(["convert", str(voice), str(quiet), "-f0p", "dio", "-o", str(tmp_path / "out")]) == 0
    (result,) = files_below(tmp_path / "out")
    samples, _ = soundfile.read(result)
    assert not samples.any()


def test_convert_tells_a_config_that_does_not_fit(voice: Path, song: Path, tmp_path: Path, capsys) -> None:
    stored = json.loads((voice / "config.json").read_text())
    stored["model"]["hidden_channels"] = 64
    (tmp_path / "config.json").write_text(json.dumps(stored))
    line = told(
        capsys,
        "convert",
        "-m",
        voice / "G_0.pth",
        "-c",
        tmp_path / "config.json",
        song,
        "-o",
        tmp_path / "out",
    )
    assert "hidden_channels" in line and "64" in line
    assert not files_below(tmp_path / "out")


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch '{self.trace}'",)


def test_convert_refuses_a_checkpoint_that_would_run_code(
    voice: Path, song: Path, tmp_path: Path, capsys
) -> None:
    trace, folder = tmp_path / "trace", tmp_path / "evil"
    folder.mkdir()
    (folder / "config.json").write_bytes((voice / "config.json").read_bytes())
    (folder / "G_1.pth").write_bytes(pickle.dumps({"model": Evil(trace), "iteration": 1}))
    line = told(capsys, "convert", folder, song)
    assert "G_1.pth" in line
    assert not trace.exists()


def test_convert_tells_a_cut_off_checkpoint(voice: Path, song: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "half"
    folder.mkdir()
    (folder / "config.json").write_bytes((voice / "config.json").read_bytes())
    whole = (voice / "G_0.pth").read_bytes()
    (folder / "G_0.pth").write_bytes(whole[: len(whole) // 2])
    assert "G_0.pth" in told(capsys, "convert", folder, song)


def test_more_shifts_than_recordings_are_told(voice: Path, song: Path, capsys) -> None:
    assert "-t" in told(capsys, "convert", voice, song, "-t", 1, 2, 3)


# --- cluster and index --------------------------------------------------------------------------------------------


@pytest.fixture
def pulled(tmp_path: Path) -> tuple[Path, Path]:
    """Features, and a voice without centers."""
    return write_features(tmp_path / "features"), write_voice(tmp_path / "voice")


def test_cluster_and_index_make_what_convert_then_uses(
    pulled: tuple[Path, Path], song: Path, tmp_path: Path, capsys
) -> None:
    features, voice = pulled
    assert cli.main(["cluster", str(features), str(voice), "--n_centers", "30", "--seed", "2"]) == 0
    assert "ada: 30 vectors of 240 frames, mean squared distance" in capsys.readouterr().out
    assert cli.main(["index", str(features), str(voice)]) == 0
    assert "bob: 240 vectors of 240 frames" in capsys.readouterr().out
    convert = [
        "convert",
        str(voice),
        str(song),
        "-f0p",
        "dio",
        "-o",
        str(tmp_path / "out"),
        "-wf",
        "wav",
        "-s",
        "bob",
    ]
    for options in (
        [],
        ["-cr", "1"],
        ["-cr", "0.5", "-fr"],
        ["-cr", "1", "-fr", "-cm", str(voice / "feature_and_index.pkl")],
    ):
        assert cli.main([*convert, *options]) == 0
    names = [path.name.removeprefix(song.name) for path in files_below(tmp_path / "out")]
    assert names == [
        "_0key_bob_0.5_sovits_dio.wav",
        "_0key_bob_1.0_sovits_dio.wav",
        "_0key_bob_sovits_dio.wav",
    ]
    sounds = [soundfile.read(path)[0] for path in files_below(tmp_path / "out")]
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(sounds, 2))


def test_convert_tells_missing_centres_before_it_reads_a_recording(
    pulled: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    voice, broken = pulled[1], make_unusable("text", tmp_path / "broken.wav")
    line = told(capsys, "convert", voice, broken, broken, "-cr", 0.5, "-f0p", "dio", "-o", tmp_path / "out")
    assert "kmeans*.pt" in line and "svcnb cluster FEATURES" in line and "broken" not in line
    assert "gone.pkl" in told(capsys, "convert", voice, broken, "-cr", 0.5, "-cm", tmp_path / "gone.pkl")
    assert "-cr" in told(capsys, "convert", voice, broken, "-cr", 1.5)


def test_cluster_and_index_tell_what_is_missing(pulled: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    features, voice = pulled
    for command in ("cluster", "index"):
        assert "nowhere" in told(capsys, command, tmp_path / "nowhere", voice)
        assert "config.json" in told(capsys, command, features, tmp_path / "nowhere")
    assert "n_centers" in told(capsys, "cluster", features, voice, "--n_centers", 0)
    assert [path.name for path in files_below(voice)] == ["G_0.pth", "config.json"]


def test_convert_takes_the_checkpoint_that_is_asked_for(song: Path, tmp_path: Path, capsys) -> None:
    from svcnb.training.checkpoints import BestCheckpoint, RunRecord, SavedCheckpoint

    voice = write_voice(tmp_path / "voice", steps=(5, 9))
    (voice / "G_9.pth").write_bytes(b"cut off")
    saved = [SavedCheckpoint(step=9, files=["G_9.pth"])]
    best = BestCheckpoint(step=5, measure="mel", value=1.0)
    RunRecord(
        step=9, epoch=1, batch=0, seconds=1, checkpoints=saved, best=best, schedules={}, scaler=None, rng={}
    ).save(voice)
    convert = ["convert", str(voice), str(song), "-f0p", "dio", "-o", str(tmp_path / "out")]
    assert cli.main(convert) == 0
    assert "G_9.pth" in told(capsys, *convert, "--checkpoint", "newest")
    line = told(capsys, *convert, "--checkpoint", "last")
    assert "best" in line and "newest" in line


# --- the parser itself --------------------------------------------------------------------------------------------


def run_program(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "svcnb", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)


def test_the_program_says_one_line_and_exits_with_2(tmp_path: Path) -> None:
    finished = run_program("slice", tmp_path / "nowhere", tmp_path / "clips")
    assert finished.returncode == 2 and finished.stdout == ""
    (line,) = finished.stderr.splitlines()
    assert line.startswith("error: ")


def test_ctrl_c_is_one_line_and_130(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def interrupt(options: argparse.Namespace) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train, "run_demo", interrupt)
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        assert cli.main(["demo"]) == cli.EXIT_INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, usual)
    assert capsys.readouterr().err == "interrupted\n"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(options: argparse.Namespace) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(train, "run_demo", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["demo"])


def test_one_bad_recording_does_not_keep_the_others_from_being_converted(
    voice: Path, song: Path, tmp_path: Path, capsys
) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("not audio")
    message = told(capsys, "convert", voice, bad, song, "-f0p", "dio", "-o", tmp_path / "out")
    assert "1 of 2" in message
    assert [path.name for path in files_below(tmp_path / "out")] == [f"{song.name}_0key_ada_sovits_dio.flac"]


def test_recordings_of_the_same_name_do_not_overwrite_each_other(voice: Path, tmp_path: Path) -> None:
    songs = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        songs.append(write_tone(tmp_path / folder / "x.wav"))
    assert (
        cli.main(["convert", str(voice), *map(str, songs), "-f0p", "dio", "-o", str(tmp_path / "out")]) == 0
    )
    assert len(files_below(tmp_path / "out")) == 2
