"""The workspace of a notebook: the folder of its data files.

Notebooks exchange files through one workspace. It is the project's folder, or a folder in Google Drive, so
that nothing is lost when a hosted machine is shut down.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from svcnb import SvcError
from svcnb.notebook.environment import on_colab

DRIVE_FOLDER = "MyDrive/svcnb"


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
            SvcError: not found; the message names the searched folders.
        """
        if not str(path):
            raise SvcError("no file or folder named: fill the field in the parameters cell")
        for candidate in (self.root / path, self.project / path):
            if candidate.exists():
                return candidate
        raise SvcError(
            f"{path} is neither in {self.root} nor in {self.project}: run the notebook before, or upload it"
        )

    def make(self, path: str | Path) -> Path:
        """A folder below the workspace, created if it does not exist."""
        folder = self.root / path
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def voices(self, folder: str | Path = "data/models") -> list[str]:
        """Names of the voices: folders with a checkpoint, and zip files as shared online."""
        searched = self.root / folder
        zips = {path.name for path in searched.glob("*.zip")}
        return sorted({path.parent.name for path in searched.glob("*/*.pth")} | zips)

    def recordings(self) -> list[str]:
        """Recordings that can be converted: those in data/raw and the bundled ones, as paths for `find`."""
        from svcnb.audio.audio import find_audio_files

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


def _mount_drive() -> Path:
    if not on_colab():
        raise SvcError(
            "workspace 'drive' works on Google Colab only: leave the field empty, or give a folder"
        )
    from google.colab import drive

    folder = Path.cwd().anchor + "content/drive"
    drive.mount(folder)
    return Path(folder)
