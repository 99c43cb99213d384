"""A full or read-only disk, too little memory, ctrl-C: one line of error, and no finished work is lost."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from svcnb import SvcError
from svcnb.audio.audio import Audio, read_audio, write_audio
from svcnb.audio.settings import CutSettings
from svcnb.cli import main as cli
from svcnb.conversion.settings import ConversionSettings
from svcnb.data.clips import cut_folder
from svcnb.data.extraction import extract, scan_clips
from svcnb.data.feature_store import FeatureStore
from svcnb.data.settings import PrepareSettings
from svcnb.files import disk
from svcnb.files.disk import WatchedFile, WriteError
from svcnb.models import sovits
from svcnb.training.checkpoints import read_progress
from svcnb.training.settings import TrainSettings
from tests.places import PROJECT
from tests.toys.small_voice import save_small_voice, tiny_config
from tests.toys.toy_features import SETTINGS, ToyExtractor, make_toy, write_clips

RATE_HZ = 22050
CUT = CutSettings(sample_rate_hz=RATE_HZ)
DIO = ConversionSettings(f0_method="dio", audio_format="wav")
FULL = "the disk is full: free some space or choose another folder, then run the same again"


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)


def noise(seconds: float, seed: int = 0, rate_hz: int = RATE_HZ) -> Audio:
    return Audio(0.2 * np.random.default_rng(seed).standard_normal(round(seconds * rate_hz)), rate_hz)


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def run_python(script: str, *arguments: object, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)]
    return subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120, **options
    )


class SmallDisk:
    """A file system of a few kilobytes; `grow` acts like freed space."""

    def __init__(self, folder: Path, kilobytes: int) -> None:
        self.folder = folder
        folder.mkdir()
        self._mount(f"size={kilobytes}k")

    def _mount(self, options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("only root may mount a small disk; the variants with a limit on file sizes still run")

    def grow(self) -> None:
        subprocess.run(["mount", "-o", "remount,size=1g", str(self.folder)], check=True)

    def lock(self) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(self.folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], SmallDisk]]:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root may mount a small disk; the variants with a limit on file sizes still run")
    folder = tmp_path / "small disk"
    yield partial(SmallDisk, folder)
    subprocess.run(["umount", str(folder)], capture_output=True)


@contextmanager
def told_full(folder: Path) -> Iterator[None]:
    with pytest.raises(WriteError) as caught:
        yield
    assert (
        str(folder) in str(caught.value)
        and str(caught.value).endswith(FULL)
        and "\n" not in str(caught.value)
    )


# ------------------------------------------------------------------------------------------- full disk


def test_cutting_onto_a_full_disk_keeps_complete_clips_and_resumes_with_free_space(
    small_disk, tmp_path
) -> None:
    for number in range(8):
        write_audio(tmp_path / f"raw/ada/{number}.wav", noise(3, number))
    cut_folder(tmp_path / "raw", tmp_path / "expected", CUT)
    room = small_disk(400)
    clips = room.folder / "clips"
    with told_full(clips):
        cut_folder(tmp_path / "raw", clips, CUT)
    kept = [path for path in clips.rglob("*") if path.suffix == ".flac"]
    assert 2 <= len(kept) < 8 and files_below(clips) <= files_below(tmp_path / "expected")
    assert all(read_audio(path).duration_s == 3 for path in kept)
    room.grow()
    cut_folder(tmp_path / "raw", clips, CUT)
    for name in files_below(tmp_path / "expected"):
        assert (clips / name).read_bytes() == (tmp_path / "expected" / name).read_bytes(), name


def test_extracting_onto_a_full_disk_keeps_finished_clips_and_resumes_with_free_space(
    small_disk, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("svcnb.data.extraction.FLUSH_CLIPS", 4)
    clips = write_clips(tmp_path / "clips", 24)
    extract(clips, tmp_path / "expected", SETTINGS, make_extractor=make_toy)
    room = small_disk(100)
    store = room.folder / "store"
    with told_full(store):
        extract(clips, store, SETTINGS, make_extractor=make_toy)
    n_kept = len(FeatureStore.open(store, SETTINGS))
    assert 4 <= n_kept < 24 and not [
        name for name in files_below(store) if name.endswith((".part", ".partial"))
    ]
    room.grow()
    report = extract(clips, store, SETTINGS, make_extractor=make_toy)
    assert len(report.reused) == n_kept and len(report.done) == 24 - n_kept
    for name in files_below(tmp_path / "expected"):
        assert (store / name).read_bytes() == (tmp_path / "expected" / name).read_bytes(), name


def test_a_full_disk_while_a_checkpoint_is_saved_keeps_the_one_before(small_disk, tmp_path) -> None:
    for number in range(2):
        write_audio(tmp_path / f"clips/ada/{number}.wav", noise(1.2, number))
    sovits.prepare(tiny_config(), tmp_path / "clips", tmp_path / "features", PrepareSettings(f0_method="dio"))
    settings = TrainSettings(max_steps=1, device="cpu", save_every_steps=1, log_every_steps=1)
    sovits.train(tmp_path / "features", tmp_path / "probe", settings)
    checkpoint_kb = (tmp_path / "probe/G_1.pth").stat().st_size // 1024
    room = small_disk(int(2.5 * checkpoint_kb))
    voice = room.folder / "voice"
    with told_full(voice):
        sovits.train(tmp_path / "features", voice, settings.model_copy(update={"max_steps": 4}))
    assert read_progress(voice).step == 2 and sovits.load_voice(voice, checkpoint="newest").step == 2
    assert {name for name in files_below(voice) if "G_" in name or "part" in name} == {"G_1.pth", "G_2.pth"}
    room.grow()
    report = sovits.train(tmp_path / "features", voice, settings.model_copy(update={"max_steps": 4}))
    assert (report.steps, report.step) == (2, 4)
    steps = [json.loads(line)["step"] for line in (voice / "history.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and set(steps) == {1, 2, 3, 4} | {0} & set(steps)


def test_converting_onto_a_full_disk_leaves_no_file_and_the_same_command_works_later(
    small_disk, tmp_path, capsys
) -> None:
    pytest.importorskip("pyworld")
    voice = save_small_voice(tmp_path / "voice")
    song = write_audio(tmp_path / "song.wav", noise(6))
    room = small_disk(100)
    arguments = [
        "convert",
        str(voice),
        str(song),
        "-f0p",
        "dio",
        "-wf",
        "wav",
        "-o",
        str(room.folder / "out"),
    ]
    assert cli.main(arguments) == cli.EXIT_USER_ERROR
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert str(room.folder / "out") in message and message.endswith(FULL)
    assert not files_below(room.folder)
    room.grow()
    assert cli.main(arguments) == 0
    assert len(files_below(room.folder)) == 1


LIMITED_WRITES = """
import json, resource, sys
from pathlib import Path
import numpy as np
from svcnb import SvcError
from svcnb.audio import Audio, read_audio, write_audio
folder, suffix = Path(sys.argv[1]), sys.argv[2]
audio = Audio(0.1 * np.random.default_rng(0).standard_normal(22050), 22050)
size = write_audio(folder / f"whole{suffix}", audio).stat().st_size
outcomes = []
for limit in [*range(size - 6000, size, 97), size - 1, size]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
    path = folder / f"{limit}{suffix}"
    try:
        outcomes.append(read_audio(write_audio(path, audio)).n_samples)
    except SvcError as error:
        assert str(path) in str(error) and "\\n" not in str(error)
        outcomes.append(None)
    assert path.exists() == (outcomes[-1] is not None)
print(json.dumps([outcomes, sorted(path.name for path in folder.iterdir())]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits on file sizes are POSIX")
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_a_disk_that_is_full_in_the_last_bytes_gives_a_complete_file_or_none(
    suffix: str, tmp_path: Path
) -> None:
    """libsndfile closes such a file without an error: an incomplete recording would look complete."""
    done = run_python(LIMITED_WRITES, tmp_path, suffix)
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes, names = json.loads(done.stdout)
    assert outcomes[-1] == 22050 and set(outcomes) == {None, 22050} and outcomes[-2] is None
    assert not [name for name in names if name.endswith(".part")]


LIMITED_CHECKPOINT = """
import resource, sys, torch
from pathlib import Path
from svcnb import SvcError
from svcnb.models.sovits.checkpoint import save_sovits_checkpoint
path = Path(sys.argv[1])
weights = {"a": torch.ones(50_000), "b": torch.ones(10_000)}
save = lambda step: save_sovits_checkpoint(path, model_state=weights, iteration=step, learning_rate=1e-4)
size = save(1).stat().st_size
before = path.read_bytes()
for limit in (100, size // 2, size - 500, size - 1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
    try:
        save(2)
    except SvcError as error:
        print(error)
    assert path.read_bytes() == before and [entry.name for entry in path.parent.iterdir()] == [path.name]
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits on file sizes are POSIX")
def test_a_checkpoint_that_cannot_be_written_completely_leaves_the_previous_one(tmp_path: Path) -> None:
    done = run_python(LIMITED_CHECKPOINT, tmp_path / "G_1.pth")
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 4
    assert all(
        "G_1.pth cannot be written: no larger file is allowed here" in line
        for line in done.stdout.splitlines()
    )


LIMITED_DOORS = """
import resource, sys
from pathlib import Path
from svcnb import SvcError
from svcnb.data.extraction import extract, scan_clips
from svcnb.audio.settings import CutSettings
from svcnb.data.clips import cut_folder
from tests.toys.toy_features import SETTINGS, make_toy
folder = Path(sys.argv[1])
doors = {
    "clips": lambda: cut_folder(folder / "raw", folder / "clips", CutSettings(sample_rate_hz=22050)),
    "store": lambda: extract(scan_clips(folder / "toys"), folder / "store", SETTINGS, make_extractor=make_toy),
}
for name, door in doors.items():
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, -1))
    try:
        door()
    except SvcError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    left = [path.name for path in (folder / name).rglob("*") if path.is_file()]
    assert set(left) <= {"cuts.json", "settings.json"}, left
    door()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits on file sizes are POSIX")
def test_cutting_and_extracting_leave_no_incomplete_file_and_resume_later(tmp_path: Path) -> None:
    write_audio(tmp_path / "raw/ada/a.wav", noise(3))
    write_clips(tmp_path / "toys", 12)
    done = run_python(LIMITED_DOORS, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [
        str(tmp_path / name) in line and "no larger file is allowed" in line
        for name, line in zip(("clips", "store"), done.stdout.splitlines(), strict=True)
    ] == [True, True]
    assert (tmp_path / "clips/ada/a_001.flac").is_file() and len(FeatureStore.open(tmp_path / "store")) == 12


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_the_disks_error_is_raised_and_not_the_librarys(tmp_path: Path) -> None:
    with WatchedFile("/dev/full") as file:
        assert file.write(b"abc") == 0 and file.write(b"abc") == 0
        with pytest.raises(OSError, match="No space left"):
            file.check()


def test_leftovers_of_a_killed_run_are_replaced_by_the_next(tmp_path: Path) -> None:
    for path in (tmp_path / "song.flac", tmp_path / "state.json"):
        disk.temporary_beside(path).write_bytes(b"half of it")
    write_audio(tmp_path / "song.flac", noise(1))
    disk.write_text(tmp_path / "state.json", "{}")
    assert files_below(tmp_path) == {"song.flac", "state.json"}


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_no_disk_space_to_decode_a_film_is_not_reported_as_a_broken_film(
    small_disk, tmp_path: Path, monkeypatch
) -> None:
    write_audio(tmp_path / "song.wav", noise(5))
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "song.wav", tmp_path / "film.m4a"], check=True)
    room = small_disk(100)
    monkeypatch.setattr(tempfile, "tempdir", str(room.folder))
    with pytest.raises(
        WriteError, match=r"film.m4a needs a temporary copy in .*small disk.* the disk is full.*TMPDIR"
    ):
        read_audio(tmp_path / "film.m4a")
    assert not files_below(room.folder)


# ---------------------------------------------------------------------------- read-only, wrong kind of place


def test_a_read_only_folder_is_named_by_every_command(small_disk, tmp_path: Path, capsys) -> None:
    room = small_disk(300)
    room.lock()
    voice = save_small_voice(tmp_path / "voice")
    song = write_audio(tmp_path / "raw/ada/song.wav", noise(2))
    (tmp_path / "features").mkdir()
    for command in (
        ["slice", song.parents[1], room.folder / "clips"],
        ["features", song.parents[1], room.folder / "features", "--f0_predictor", "dio"],
        ["convert", voice, song, "-f0p", "dio", "-o", room.folder],
    ):
        assert cli.main([str(word) for word in command]) == cli.EXIT_USER_ERROR
        (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert str(room.folder) in message and "read-only" in message and "choose another" in message


def test_a_folder_in_place_of_a_file_and_a_file_in_place_of_a_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "song.wav").mkdir()
    with pytest.raises(WriteError, match="song.wav cannot be written: a folder has the name"):
        write_audio(tmp_path / "song.wav", noise(1))
    (tmp_path / "out").write_text("a file")
    with pytest.raises(
        WriteError, match="song.wav cannot be written: a file has the name that a folder should get"
    ):
        write_audio(tmp_path / "out/song.wav", noise(1))
    with pytest.raises(SvcError, match="a file has the name that a folder should get"):
        FeatureStore.create(tmp_path / "out", SETTINGS)
    with pytest.raises(WriteError, match="too long"):
        write_audio(tmp_path / ("x" * 300 + ".wav"), noise(1))
    assert files_below(tmp_path) == {"out"}


# ---------------------------------------------------------------------------------------------- memory

LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from svcnb import SvcError
from svcnb.conversion import ConversionSettings
from svcnb.features.pitch.track import F0Track
from svcnb.models import sovits
voice = sovits.load_voice(sys.argv[1])
settings, f0 = ConversionSettings(audio_format="wav"), F0Track(np.full(3000, 150.0), 0.01)
voice.convert_file(sys.argv[2], Path(sys.argv[3]) / "warm", settings, f0=f0)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 12_000_000, -1))
try:
    voice.convert_file(sys.argv[4], Path(sys.argv[3]) / "out", settings, f0=f0)
except SvcError as error:
    print(type(error).__name__, error)
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
print(voice.convert_file(sys.argv[4], Path(sys.argv[3]) / "later", settings, f0=f0).name)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits on memory are kept on Linux only")
def test_too_little_memory_raises_with_the_setting_that_needs_less(tmp_path: Path) -> None:
    voice = save_small_voice(tmp_path / "voice")
    short, long = (write_audio(tmp_path / f"{seconds}.wav", noise(seconds)) for seconds in (1, 28))
    done = run_python(LITTLE_MEMORY, voice, short, tmp_path / "results", long)
    assert done.returncode == 0, done.stderr[-2000:]
    message, later = done.stdout.splitlines()
    assert message.startswith("OutOfMemory")
    assert "28.wav: memory ran out; set max_chunk_s (--max_chunk_s)" in message
    assert later == "28.wav_0key_ada_sovits_fcpe.wav"
    assert files_below(tmp_path / "results") == {"warm/1.wav_0key_ada_sovits_fcpe.wav", f"later/{later}"}


class Greedy(ToyExtractor):
    """An extractor that needs more memory for one clip than there is."""

    def __call__(self, clip):
        if "take 3" in clip.name:
            np.empty(2**60, np.uint8)
        return super().__call__(clip)


def make_greedy(settings):
    return Greedy(settings, pause_s=0, diary=None)


def test_a_clip_that_needs_too_much_memory_is_skipped_and_listed(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", 6)
    report = extract(clips, tmp_path / "store", SETTINGS, make_extractor=make_greedy)
    ((clip, reason),) = report.skipped
    assert clip.name == "bob/take 3.wav" and "memory ran out; cut the clip shorter" in reason
    assert len(report.done) == len(FeatureStore.open(tmp_path / "store")) == 5


class Doomed(ToyExtractor):
    """An extractor whose process is killed at one clip, as by the system when memory runs out."""

    def __call__(self, clip):
        if "take 20" in clip.name:
            time.sleep(0.5)  # the other clips are handed over before
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(clip)


def make_doomed(settings):
    return Doomed(settings, pause_s=0, diary=None)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_killed_worker_process_is_reported_and_finished_work_is_kept(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", 21)
    with pytest.raises(SvcError, match=r"one of 2 processes was killed.*fewer \(--num_processes\)"):
        extract(clips, tmp_path / "store", SETTINGS, make_extractor=make_doomed, n_jobs=2)
    n_kept = len(FeatureStore.open(tmp_path / "store"))
    assert n_kept >= 10
    report = extract(scan_clips(tmp_path / "clips"), tmp_path / "store", SETTINGS, make_extractor=make_toy)
    assert len(report.reused) == n_kept and len(report.done) == 21 - n_kept


def test_training_reports_what_to_reduce_when_no_batch_fits(tmp_path: Path, monkeypatch) -> None:
    def exhausted(*_arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    write_audio(tmp_path / "clips/ada/a.wav", noise(1.2))
    sovits.prepare(tiny_config(), tmp_path / "clips", tmp_path / "features", PrepareSettings(f0_method="dio"))
    monkeypatch.setattr(import_module("svcnb.models.sovits.train"), "train_step", exhausted)
    with pytest.raises(
        SvcError, match=r"memory ran out at step 1: halve batch_size \(now 1\), or max_frames"
    ) as caught:
        sovits.train(tmp_path / "features", tmp_path / "voice", TrainSettings(max_steps=1, device="cpu"))
    assert "\n" not in str(caught.value) and not list((tmp_path / "voice").glob("*.pth"))


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)
def test_the_command_line_reports_missing_memory_in_one_line(error, monkeypatch, capsys, tmp_path) -> None:
    def exhausted(*_arguments, **_options):
        raise error

    monkeypatch.setattr("svcnb.data.clips.cut_folder", exhausted)
    assert cli.main(["slice", str(tmp_path), str(tmp_path / "clips")]) == cli.EXIT_USER_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: memory ran out")


# ---------------------------------------------------------------------------------------------- ctrl-C


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_ctrl_c_during_a_conversion_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    pytest.importorskip("pyworld")
    voice = save_small_voice(tmp_path / "voice")
    song = write_audio(tmp_path / "song.wav", noise(90))
    words = [
        sys.executable,
        "-m",
        "svcnb",
        "convert",
        voice,
        song,
        "-f0p",
        "dio",
        "-cl",
        "2",
        "-o",
        tmp_path / "out",
    ]
    command = [str(word) for word in words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def heed_ctrl_c() -> None:  # a shell's background job, and all that it starts, ignores it
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    told_to = {
        "cwd": PROJECT,
        "env": environment,
        "stderr": subprocess.PIPE,
        "text": True,
        "preexec_fn": heed_ctrl_c,
    }
    with subprocess.Popen(command, **told_to) as process:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "out").glob(".svcnb-*.part")) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        message = process.communicate(timeout=60)[1]
    assert process.returncode == cli.EXIT_INTERRUPTED and message.splitlines()[-1] == "interrupted"
    assert not files_below(tmp_path / "out")


def test_ctrl_c_inside_the_library_that_writes_is_not_swallowed(tmp_path: Path, monkeypatch) -> None:
    """libsndfile calls back into Python to write; an interrupt there would only be printed."""
    calls = itertools.count()

    def interrupted(data: bytes) -> memoryview:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return memoryview(data)

    monkeypatch.setattr(disk, "memoryview", interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        write_audio(tmp_path / "a.wav", noise(5))
    assert not files_below(tmp_path) and next(calls) > 3
