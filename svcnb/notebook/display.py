"""What notebooks show beside figures: players, tables, file lists, and an optional panel to convert with.

Everything returned here displays itself as the last expression of a cell, and prints as text elsewhere. The
panel needs ipywidgets, version 7 (Colab) or 8; nothing else does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svcnb import SvcError
from svcnb.audio.audio import Audio, read_audio
from svcnb.plots.page import Table, as_sound, render


@dataclass(frozen=True)
class Player:
    """A recording to listen to, as compressed bytes: a song adds half a megabyte per minute to the notebook."""

    audio: Audio
    title: str = ""

    def _repr_html_(self) -> str:
        return render([{"kind": "player", "name": self.title, "sound": as_sound(self.audio)}])

    def __repr__(self) -> str:
        return f"<player: {self.title or 'recording'}, {self.audio.duration_s:.1f} s>"


def show_audio(recording: Audio | Path | str, title: str | None = None) -> Player:
    """A player for a recording or a file; files are named by their name unless a title is given."""
    if isinstance(recording, Audio):
        return Player(recording, title or "")
    path = Path(recording)
    return Player(read_audio(path), path.name if title is None else title)


def show_facts(facts: Mapping[str, Any]) -> Table:
    """Names and values, one row each."""
    return Table(("", ""), list(facts.items()))


def show_recordings(paths: Iterable[Path], root: Path) -> Table:
    """Recordings with their length and rate; what cannot be read says why."""
    rows = []
    for path in paths:
        name = str(path.relative_to(root)) if path.is_relative_to(root) else path.name
        try:
            audio = read_audio(path)
        except SvcError as error:
            rows.append((name, "", "", str(error)))
            continue
        rows.append((name, audio.duration_s, audio.sample_rate_hz, f"peak {audio.peak:.2f}"))
    return Table(("recording", "seconds", "Hz", ""), rows)


def show_files(folder: Path, *, newest: int | None = None) -> Table:
    """Files below a folder with their size, in order of name, or only the newest ones."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if newest is not None:
        files = sorted(files, key=lambda path: path.stat().st_mtime)[-newest:]
    rows = [(str(path.relative_to(folder)), f"{path.stat().st_size / 1e6:.2f} MB") for path in files]
    return Table((f"files in {folder.name}", "size"), rows)


def offer_download(path: Path) -> str:
    """Hand a file to the browser on Colab; elsewhere tell where it lies.

    Returns:
        one line that says what happened.
    """
    from svcnb.notebook.environment import on_colab

    if not on_colab():
        return f"{path.name} lies in {path.parent}"
    from google.colab import files

    files.download(str(path))
    return f"{path.name} is being downloaded by the browser"
