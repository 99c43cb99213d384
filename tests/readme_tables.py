"""The README's migration tables: rows, the commands in them, and the program's parsers they are compared with."""

from __future__ import annotations

import argparse
import re
import shlex

from svcnb.cli import main as cli
from tests.places import PROJECT

CODE = re.compile(r"`([^`]+)`")
FIELD = re.compile(r"(\d\d_\w+) `(\w+)`")
PLACEHOLDERS = {"VOICE": "voice", "INPUT": "song.wav", "FOLDER": "folder"}


def read_section(heading: str) -> str:
    """Text below a heading, to the next of the same level."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    level = heading.partition(" ")[0]
    return re.split(rf"\n#{{2,{len(level)}}} ", text.partition(f"\n{heading}\n")[2])[0]


def table(section: str, heading: str) -> list[list[str]]:
    """Rows of the section's table whose first heading that is."""
    lines = section.splitlines()
    first = next(
        i
        for i, line in enumerate(lines)
        if line.startswith(f"| {heading} |") and lines[i + 1].startswith("|---")
    )
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def commands_in(text: str) -> list[str]:
    return [code for code in CODE.findall(text) if code.startswith("svcnb ")]


def parsed(command: str) -> argparse.Namespace:
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(command)[1:]]
    return cli.build_parser().parse_args(words)


def sub_parsers(parser: argparse.ArgumentParser | None = None) -> dict[str, argparse.ArgumentParser]:
    """The program's commands, or those below one of them."""
    (actions,) = [
        a for a in (parser or cli.build_parser())._actions if isinstance(a, argparse._SubParsersAction)
    ]
    return {name: command.complete() for name, command in actions.choices.items()}
