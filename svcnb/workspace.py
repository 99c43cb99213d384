"""Where a notebook runs and where its files lie: the machine, the missing packages, the data folders.

Notebooks hand over to each other through files below one workspace. It is the project's folder, or a folder in
Google Drive, so that nothing is lost when a hosted machine goes away.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from svcnb import SvcError, __version__

DRIVE_FOLDER = "MyDrive/svcnb"
# What a hosted notebook needs beside the hard dependencies; the GPL pitch tracker and the test tools stay out.
NOTEBOOK_EXTRAS = ("f0", "content", "index", "loudness")
# Moving one of these under a running kernel breaks it: pip must keep the installed versions.
HELD = ("torch", "torchaudio", "torchvision", "numpy", "scipy", "ipython", "ipywidgets", "numba", "pandas")
BYTES_PER_GB = 1e9


@dataclass(frozen=True)
class Workspace:
    """Finds and makes the folders of one user's data.

    Attributes:
        root: folder that holds data/ (and is written to).
        project: folder with the bundled data/demo and pretrain/ (only read).
    """

    root: Path
    project: Path

    def find(self, path: str | Path) -> Path:
        """An existing file or folder: as named, below the workspace, or among the bundled files.

        Raises:
            SvcError: found nowhere; names the places.
        """
        if not str(path):
            raise SvcError("no file or folder named: fill the field in the parameters cell")
        places = [self.root / path, self.project / path]
        for place in places:
            if place.exists():
                return place
        raise SvcError(f"{path} is neither in {self.root} nor in {self.project}: run the notebook before, or upload it")

    def make(self, path: str | Path) -> Path:
        """A folder below the workspace, made when it is not there."""
        folder = self.root / path
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def voices(self, folder: str | Path = "data/models") -> list[str]:
        """Names of the voices: folders with a checkpoint, and zip files as people pass them on."""
        place = self.root / folder
        return sorted({path.parent.name for path in place.glob("*/*.pth")} | {path.name for path in place.glob("*.zip")})

    def recordings(self) -> list[str]:
        """What can be converted: recordings in data/raw and the bundled ones, as paths that `find` takes."""
        from svcnb.audio import find_audio_files

        found = []
        for base, folder in ((self.root, "data/raw"), (self.project, "data/demo")):
            if (base / folder).is_dir():
                found += [str(path.relative_to(base)) for path in find_audio_files(base / folder)]
        return found


def open_workspace(choice: str = "") -> Workspace:
    """The workspace of a notebook: "" is the project's folder, "drive" Google Drive, else a folder's path."""
    project = Path.cwd()
    root = project
    if choice == "drive":
        root = _mount_drive() / DRIVE_FOLDER
    elif choice:
        root = Path(choice).expanduser()
    root.mkdir(parents=True, exist_ok=True)
    return Workspace(root.resolve(), project)


def on_colab() -> bool:
    """Whether this is a Google Colab kernel."""
    return find_spec("google") is not None and find_spec("google.colab") is not None


def _mount_drive() -> Path:
    if not on_colab():
        raise SvcError("workspace 'drive' works on Google Colab only: leave the field empty, or give a folder")
    from google.colab import drive

    folder = Path.cwd().anchor + "content/drive"
    drive.mount(folder)
    return Path(folder)


def choose_device(choice: str = "auto") -> str:
    """The device that a choice of auto, cpu or cuda means on this machine."""
    import torch

    if choice == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if choice != "cpu" and not choice.startswith("cuda"):
        raise SvcError(f"device {choice!r}: choose auto, cpu or cuda")
    if choice != "cpu" and not torch.cuda.is_available():
        raise SvcError(f"device {choice!r}: this machine has no usable GPU; take auto or cpu")
    return choice


def missing_packages(extras: tuple[str, ...] = NOTEBOOK_EXTRAS, pyproject: Path = Path("pyproject.toml")) -> list[str]:
    """Requirements of pyproject.toml that are not installed (name only is looked at: what is there, stays)."""
    declared = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    wanted = list(declared["dependencies"])
    for extra in extras:
        wanted += declared["optional-dependencies"][extra]
    return [text for text in wanted if not _is_installed(_package_name(text))]


def _package_name(requirement: str) -> str:
    length = next((i for i, letter in enumerate(requirement) if letter in "<>=!~[; "), len(requirement))
    return requirement[:length]


def _is_installed(name: str) -> bool:
    if name == "faiss-cpu" and _is_installed("faiss-gpu-cu12"):
        return True
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def install_missing(extras: tuple[str, ...] = NOTEBOOK_EXTRAS) -> list[str]:
    """Install what a hosted notebook lacks, keeping torch, numpy and the kernel's own packages as they are.

    Args:
        extras: groups of pyproject.toml that are needed beside the hard dependencies.

    Returns:
        the requirements that were installed; empty where everything was there.

    Raises:
        SvcError: pip failed; its last lines are in the message.
    """
    missing = missing_packages(extras)
    if not missing:
        return []
    held = [f"{name}=={metadata.version(name)}\n" for name in HELD if _is_installed(name)]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "held.txt"
        constraints.write_text("".join(held), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "-q", "--constraint", str(constraints), *missing]
        finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        last = " | ".join(finished.stderr.strip().splitlines()[-3:])
        raise SvcError(f"could not install {', '.join(missing)}: {last}")
    return missing


def describe_machine() -> dict[str, str]:
    """What matters when something goes wrong: versions, processor, memory, disk."""
    import torch

    free_gb = shutil.disk_usage(Path.cwd()).free / BYTES_PER_GB
    device = f"{os.cpu_count()} CPU cores, no GPU"
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        device = f"{properties.name}, {properties.total_memory / BYTES_PER_GB:.0f} GB"
    facts = {"svcnb": __version__, "Python": platform.python_version(), "torch": torch.__version__}
    facts |= {name: metadata.version(name) for name in ("numpy", "librosa", "ipywidgets") if _is_installed(name)}
    facts |= {"device": device, "free disk": f"{free_gb:.0f} GB", "folder": str(Path.cwd())}
    if missing := missing_packages():
        facts["not installed"] = ", ".join(_package_name(text) for text in missing)
    return facts
