"""HTML of one template: a self-contained page that can be mailed, and the tables and players that notebooks display."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svcnb.audio.audio import Audio, player_bytes
from svcnb.files.disk import write_text
from svcnb.plots.style import png_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("page.html.j2")


def render(parts: Sequence[dict[str, Any]], *, title: str | None = None) -> str:
    """HTML of some parts, a whole page where a title is given; every text is escaped.

    Args:
        parts: each with its `kind` (heading, paragraph, players, player, figure, table, files, warning) and what
            page.html.j2 reads of that kind.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(parts=parts, title=title)


class Page:
    """Collects the parts of a page in order: text, players, plots and tables in a single file."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[dict[str, Any]] = []

    def heading(self, text: str) -> None:
        self._parts.append({"kind": "heading", "text": text})

    def paragraph(self, text: str) -> None:
        self._parts.append({"kind": "paragraph", "text": text})

    def players(self, recordings: Sequence[tuple[str, str, Audio]]) -> None:
        """Players side by side: (name, remark, recording) each."""
        sounds = [(name, remark, as_sound(audio)) for name, remark, audio in recordings]
        self._parts.append({"kind": "players", "recordings": sounds})

    def picture(self, figure: Figure, caption: str) -> None:
        image = "data:image/png;base64," + base64.b64encode(png_bytes(figure)).decode()
        self._parts.append({"kind": "figure", "image": image, "caption": caption})

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table whose middle columns are numbers."""
        cells = [
            [(text, {"class": "number" if 0 < i < len(row) - 1 else None}) for i, text in enumerate(row)]
            for row in rows
        ]
        self._parts.append({"kind": "table", "headings": header, "rows": cells})

    def file_list(self, names: Sequence[str]) -> None:
        self._parts.append({"kind": "files", "names": names})

    def to_html(self) -> str:
        return render(self._parts, title=self.title)

    def write(self, path: Path | str) -> Path:
        """Temporary name first, then the real one."""
        return write_text(path, self.to_html())


def as_sound(audio: Audio) -> str:
    """The recording as the address of a player: MP3 in the page itself, half a megabyte per minute."""
    return "data:audio/mpeg;base64," + base64.b64encode(player_bytes(audio, format="mp3")).decode()


@dataclass(frozen=True)
class Table:
    """Rows under headings; numbers are aligned right."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def _repr_html_(self) -> str:
        rows = self.rows or [("nothing", *[""] * (len(self.headings) - 1))]
        cells = [
            [(_as_text(value), {"style": f"text-align:{_side(value)}"}) for value in row] for row in rows
        ]
        return render([{"kind": "table", "headings": self.headings, "rows": cells}])

    def __repr__(self) -> str:
        texts = [list(map(str, self.headings)), *([_as_text(value) for value in row] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        lines = (
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in texts
        )
        return "\n".join(line.rstrip() for line in lines)


def _as_text(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _side(value: Any) -> str:
    return "right" if isinstance(value, (int, float)) and not isinstance(value, bool) else "left"
