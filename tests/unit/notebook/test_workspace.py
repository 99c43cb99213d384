"""The workspace finds and creates folders; missing packages are installed, installed ones are kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from svcnb import SvcError
from svcnb.device import choose_device
from svcnb.notebook import environment
from svcnb.notebook.environment import describe_machine, install_missing, missing_packages
from svcnb.notebook.workspace import Workspace, open_workspace
from tests.places import PROJECT
from tests.sources import NOTEBOOKS, code_cells, source

PYPROJECT = PROJECT / "pyproject.toml"


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    (tmp_path / "user").mkdir()
    (tmp_path / "project" / "data" / "demo").mkdir(parents=True)
    return Workspace(tmp_path / "user", tmp_path / "project")


def test_files_are_found_in_the_workspace_before_the_bundled_ones(work: Workspace) -> None:
    assert work.find("data/demo") == work.project / "data" / "demo"
    (work.root / "data" / "demo").mkdir(parents=True)
    assert work.find("data/demo") == work.root / "data" / "demo"
    assert work.find(work.project) == work.project


def test_a_missing_file_raises_with_both_searched_folders(work: Workspace) -> None:
    with pytest.raises(SvcError, match="song.wav is neither in .*user nor in .*project"):
        work.find("song.wav")
    with pytest.raises(SvcError, match="no file or folder named"):
        work.find("")


def test_voices_and_recordings_are_listed(work: Workspace) -> None:
    for name in ("zoe", "me"):
        (work.make(f"data/models/{name}") / "G_100.pth").touch()
    work.make("data/models/not-trained")
    (work.root / "data/models/azusa.zip").touch()
    (work.make("data/raw") / "song.wav").touch()
    (work.project / "data" / "demo" / "a.flac").touch()
    assert work.voices() == ["azusa.zip", "me", "zoe"]
    assert work.recordings() == ["data/raw/song.wav", "data/demo/a.flac"]


def test_a_workspace_is_the_project_or_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_workspace("").root == tmp_path
    assert open_workspace("my data").root == tmp_path / "my data"
    assert (tmp_path / "my data").is_dir()


def test_drive_is_refused_outside_colab() -> None:
    with pytest.raises(SvcError, match="Google Colab only"):
        open_workspace("drive")


def test_devices_are_checked() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in ("cpu", "cuda")
    with pytest.raises(SvcError, match="auto, cpu or cuda"):
        choose_device("tpu")


def test_the_machine_is_described_in_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    facts = describe_machine()
    assert {"svcnb", "Python", "torch", "device", "free disk"} <= set(facts)
    assert len(facts) <= 10


def test_missing_packages_come_from_pyproject(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        environment, "_is_installed", lambda name: name not in ("pyworld", "faiss-cpu", "torch")
    )
    missing = missing_packages(pyproject=PYPROJECT)
    assert [text.partition(">")[0] for text in missing] == ["torch", "pyworld", "faiss-cpu"]


def test_nothing_is_installed_where_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr(environment, "_is_installed", lambda name: True)
    monkeypatch.setattr(subprocess, "run", None)
    assert install_missing() == []


def test_installing_holds_torch_and_numpy_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    is_installed = environment._is_installed
    monkeypatch.setattr(environment, "_is_installed", lambda name: name != "pyworld" and is_installed(name))
    seen: dict[str, str] = {}

    def run(command: list[str], **options) -> subprocess.CompletedProcess:
        seen["held"] = Path(command[command.index("--constraint") + 1]).read_text()
        seen["command"] = " ".join(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    assert "pyworld>=0.3.4" in install_missing()
    import numpy
    import torch

    assert f"torch=={torch.__version__}\n" in seen["held"] and f"numpy=={numpy.__version__}\n" in seen["held"]
    assert "torch>=" not in seen["command"] and "--upgrade" not in seen["command"]


def test_a_failed_installation_raises_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr(environment, "_is_installed", lambda name: name != "pyworld")
    monkeypatch.setattr(environment, "HELD", ())
    failed = subprocess.CompletedProcess([], 1, "", "noise\nno C compiler\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SvcError, match="pyworld.*no C compiler"):
        install_missing()


def git_head() -> bool:
    command = ["git", "-C", str(PROJECT), "cat-file", "-e", "HEAD:svcnb/notebook/workspace.py"]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not git_head(), reason="the project is no git checkout with a first commit")
def test_the_setup_cell_fetches_the_project_where_there_is_none(tmp_path: Path) -> None:
    """In an empty folder, as on a fresh hosted machine; git is told to take the checkout for the address."""
    (cell,) = [cell for cell in code_cells(NOTEBOOKS[0]) if cell["id"].endswith("-setup")]
    address = next(word for word in source(cell).split('"') if word.startswith("https://"))
    redirect = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{PROJECT.as_uri()}.insteadOf"}
    environment = (
        {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        | redirect
        | {"GIT_CONFIG_VALUE_0": address}
    )
    script = source(cell) + "\nprint(Path.cwd())\nimport svcnb\nprint(svcnb.__file__)"
    command = [sys.executable, "-c", script]
    finished = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr[-1500:]
    where, package = finished.stdout.splitlines()[-2:]
    assert Path(where) == tmp_path / "svcnb"
    assert Path(package).is_relative_to(tmp_path)


def test_the_setup_cell_finds_the_project_from_the_notebooks_folder(tmp_path: Path) -> None:
    (cell,) = [cell for cell in code_cells(NOTEBOOKS[0]) if cell["id"].endswith("-setup")]
    command = [sys.executable, "-c", source(cell) + "\nprint(Path.cwd())"]
    finished = subprocess.run(command, cwd=PROJECT / "notebooks", capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr[-1500:]
    assert Path(finished.stdout.splitlines()[-1]) == PROJECT
