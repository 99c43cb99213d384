"""One self-contained web page: text, players, pictures and tables in a single file that can be mailed."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svcnb.audio.audio import Audio, player_bytes
from svcnb.files.disk import write_text
from svcnb.plots.style import png_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light dark; --line: #d5d5d5; --soft: #f4f4f2; --text: #222; --back: #fff; --dim: #5c5c5c; }
@media (prefers-color-scheme: dark) {
  :root { --line: #444; --soft: #262626; --text: #e6e6e6; --back: #181818; --dim: #a8a8a8; }
  img { background: #fff; border-radius: 4px; }
}
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; font: 16px/1.55 system-ui, sans-serif;
       color: var(--text); background: var(--back); }
h1 { font-size: 1.7rem; line-height: 1.25; margin: .5rem 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; }
.players { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: .8rem; margin: 1rem 0; }
.player { background: var(--soft); border-radius: 8px; padding: .6rem .8rem .8rem; }
.player b { display: block; } .player span { color: var(--dim); font-size: .88rem; }
audio { width: 100%; margin-top: .5rem; }
figure { margin: 1.2rem 0; } img { width: 100%; height: auto; }
figcaption { color: var(--dim); font-size: .92rem; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { text-align: left; vertical-align: top;
  padding: .45rem .9rem .45rem 0; border-bottom: 1px solid var(--line); } th { font-weight: 600; }
@media (min-width: 40rem) { td:first-child { white-space: nowrap; } }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
ul.files { columns: 2 18rem; font: .85rem/1.5 ui-monospace, monospace; padding-left: 1.1rem; overflow-wrap: anywhere; }
"""


class Page:
    """Collects the parts of a page in order; every text is escaped."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts = [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def paragraph(self, text: str) -> None:
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def players(self, recordings: Sequence[tuple[str, str, Audio]]) -> None:
        """Players side by side: (name, remark, recording) each."""
        cards = [
            f'<div class="player"><b>{html.escape(name)}</b><span>{html.escape(remark)}</span>'
            f'<audio controls preload="metadata" aria-label="{html.escape(name)}" src="{_mp3(audio)}"></audio></div>'
            for name, remark, audio in recordings
        ]
        self._parts.append(f'<div class="players">{"".join(cards)}</div>')

    def picture(self, figure: Figure, caption: str) -> None:
        image = "data:image/png;base64," + base64.b64encode(png_bytes(figure)).decode()
        text = html.escape(caption)
        self._parts.append(
            f'<figure><img loading="lazy" src="{image}" alt="{text}"><figcaption>{text}</figcaption></figure>'
        )

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table whose middle columns are numbers."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join(
            "<tr>"
            + "".join(
                f'<td class="number">{html.escape(cell)}</td>' if 0 < i < len(row) - 1 else f"<td>{html.escape(cell)}</td>"
                for i, cell in enumerate(row)
            )
            + "</tr>"
            for row in rows
        )
        self._parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def file_list(self, names: Sequence[str]) -> None:
        items = "".join(f"<li>{html.escape(name)}</li>" for name in names)
        self._parts.append(f'<ul class="files">{items}</ul>')

    def to_html(self) -> str:
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(self.title)}</title><style>{STYLE}</style></head>\n<body>\n"
            + "\n".join(self._parts)
            + "\n</body></html>\n"
        )

    def write(self, path: Path | str) -> Path:
        """Temporary name first, then the real one."""
        return write_text(path, self.to_html())


def _mp3(audio: Audio) -> str:
    return "data:audio/mpeg;base64," + base64.b64encode(player_bytes(audio, format="mp3")).decode()


@dataclass(frozen=True)
class Table:
    """Rows under headings; numbers are aligned right."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def _repr_html_(self) -> str:
        head = "".join(f'<th style="text-align:left">{html.escape(str(text))}</th>' for text in self.headings)
        rows = self.rows or [("nothing", *[""] * (len(self.headings) - 1))]
        body = "".join("<tr>" + "".join(map(_table_cell, row)) + "</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def __repr__(self) -> str:
        texts = [list(map(str, self.headings)), *([_as_text(value) for value in row] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in texts)
        return "\n".join(line.rstrip() for line in lines)


def _as_text(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _table_cell(value: Any) -> str:
    side = "right" if isinstance(value, (int, float)) and not isinstance(value, bool) else "left"
    return f'<td style="text-align:{side}">{html.escape(_as_text(value))}</td>'
