"""Write notebooks/*.ipynb from notebooks/source/*.py, always the same bytes for the same source.

    python notebooks/build.py                    write them
    python notebooks/build.py --gallery FOLDER   run them in order and keep them as HTML

A source is a Python file in percent format: `# %% name` starts a code cell, `# %% [markdown] name` a text cell.
The name becomes the cell's id, so ids survive edits. The title cell gets the Colab badge, and after it comes the
set-up cell, which is the same in every notebook. The repository's address is read from pyproject.toml.

In the parameters cell, `trans  #@option convert --trans` stands for the form field `trans` with help, default, choices
and range of that option of `svcnb convert`; `= value` before the mark is a default of the notebook's own, `; text` after
it is added to the help. The same options become the tables in README for people who come from another program.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PROJECT = FOLDER.parent
if str(PROJECT) not in sys.path:
    sys.path.insert(0, str(PROJECT))  # the options come from the package beside this file

from svcnb.cli.main import find_command  # noqa: E402
from svcnb.files.options import Option  # noqa: E402
from svcnb.notebook.forms import form_lines, table_rows  # noqa: E402

SOURCES = FOLDER / "source"
BOOTSTRAP = SOURCES / "bootstrap.py"
CELL_MARK = re.compile(r"^# %% (?P<markdown>\[markdown\] )?(?P<name>[a-z0-9-]+)$")
OPTION_MARK = re.compile(
    r"^(?P<field>\w+)(?: = (?P<value>.+?))?  #@option (?P<command>[a-z ]+) (?P<flag>--?\w+)(?:; (?P<note>.+))?$"
)
COLAB = "https://colab.research.google.com"
README_BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*/notebooks/(\w+)\.ipynb\)")
# README's tables of options: first heading -> command, notebook, and rows of what is no option here.
TABLES = {
    "`inference_main.py`": ("convert", "05_convert", ()),
    "`infer_cli.py`": ("rvc convert", "31_rvc_convert", (
        "| `--input_path` | | `wav` | | recordings, one or more |",
        "| `--model_name` | | `model` | | a path: small model, experiment or G_*.pth |",
    )),
}  # fmt: skip
FILE_FIELDS = {"clean_names": "wav", "model_path": "model"}  # on the form as files of the workspace
METADATA = {
    "accelerator": "GPU",
    "colab": {"provenance": [], "toc_visible": True},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}


@dataclass(frozen=True)
class Cell:
    name: str
    is_markdown: bool
    text: str


def repository() -> str:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].rstrip("/")


def badge(stem: str) -> str:
    """The Markdown of the button that opens a notebook on Colab."""
    page = (
        f"{COLAB}/github/{repository().removeprefix('https://github.com/')}/blob/main/notebooks/{stem}.ipynb"
    )
    return f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({page})"


def sources() -> list[Path]:
    return sorted(path for path in SOURCES.glob("*.py") if path != BOOTSTRAP)


def read_cells(path: Path) -> list[Cell]:
    """The cells of a percent-format file."""
    cells: list[Cell] = []
    mark, lines = None, []
    for line in [*path.read_text(encoding="utf-8").splitlines(), "# %% end"]:
        found = CELL_MARK.match(line)
        if line.startswith("# %%") and not found:
            raise ValueError(f"{path.name}: not a cell mark: {line}")
        if found:
            if mark:
                cells.append(_make_cell(mark, lines))
            elif any(lines):
                raise ValueError(f"{path.name}: text before the first cell")
            mark, lines = found, []
        else:
            lines.append(line)
    return cells


def _make_cell(mark: re.Match, lines: list[str]) -> Cell:
    is_markdown = bool(mark["markdown"])
    if is_markdown:
        lines = [line.removeprefix("#").removeprefix(" ") for line in lines]
    return Cell(mark["name"], is_markdown, "\n".join(lines).strip("\n"))


def form_marks(path: Path) -> list[tuple[re.Match, Option]]:
    """The marked fields of a source's form with their options, in order.

    Raises:
        ValueError: a command has no such option.
    """
    (form,) = [cell for cell in read_cells(path) if cell.name == "parameters"]
    return [found for line in form.text.splitlines() if (found := read_mark(line))]


def read_mark(line: str) -> tuple[re.Match, Option] | None:
    mark = OPTION_MARK.match(line)
    if not mark:
        if "#@option" in line:
            raise ValueError(f"not an option mark: {line}")
        return None
    options = find_command(mark["command"]).options
    if mark["flag"] not in options:
        raise ValueError(f"svcnb {mark['command']} has no option {mark['flag']}: {line}")
    return mark, options[mark["flag"]]


def unmarked_options(form: str) -> list[str]:
    """Fields written by hand whose name is that of an option of a command that the form's marks name."""
    lines = form.splitlines()
    commands = {found[0]["command"] for line in lines if (found := read_mark(line))}
    options = [option for command in sorted(commands) for option in find_command(command).options.values()]
    known = {name for option in options for name in (option.name, option.label.replace(" ", "_"))}
    by_hand = [line.partition(" = ")[0] for line in lines if "#@param" in line]
    return [name for name in by_hand if name in known]


def write_form(text: str) -> str:
    """The parameters cell with its marked fields written out."""
    lines = []
    for line in text.splitlines():
        found = read_mark(line)
        if found:
            mark, option = found
            value = None if mark["value"] is None else ast.literal_eval(mark["value"])
            lines += form_lines(option, mark["field"], value=value, note=mark["note"] or "")
        else:
            lines.append(line)
    return "\n".join(lines)


def render(path: Path) -> str:
    """The notebook of one source, as the text of its .ipynb."""
    address = repository()
    title, *rest = read_cells(path)
    heading, _, body = title.text.partition("\n")
    title = Cell(title.name, True, f"{heading}\n\n{badge(path.stem)}\n\n{body.strip()}")
    bootstrap = [
        Cell(c.name, c.is_markdown, c.text.replace("REPOSITORY", address)) for c in read_cells(BOOTSTRAP)
    ]
    cells = [_as_json(cell, path.stem) for cell in [title, *bootstrap, *rest]]
    notebook = {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _as_json(cell: Cell, notebook: str) -> dict:
    is_form = cell.name == "parameters"
    stored = {
        "cell_type": "markdown" if cell.is_markdown else "code",
        "id": f"{notebook}-{cell.name}",
        "metadata": {"cellView": "form", "tags": ["parameters"]} if is_form else {},
        "source": (write_form(cell.text) if is_form else cell.text).splitlines(keepends=True),
    }
    return stored if cell.is_markdown else stored | {"execution_count": None, "outputs": []}


def render_readme() -> str:
    """README.md with its badges pointing to the repository that pyproject.toml names, and its tables of options."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    for heading in TABLES:
        rows = "".join(f"{row}\n" for row in option_rows(heading))
        head = rf"^\| {re.escape(heading)} \|[^\n]*{TABLES[heading][1]}[^\n]*\n\|[-|]+\n"
        text, n_found = re.subn(
            rf"({head})(?:\|[^\n]*\n)*", lambda found, rows=rows: found[1] + rows, text, flags=re.M
        )
        if n_found != 1:
            raise ValueError(f"README.md has {n_found} tables {heading}")
    return README_BADGE.sub(lambda found: badge(found[1]), text)


def option_rows(heading: str) -> list[str]:
    """The rows of one of README's tables of options."""
    command, notebook, rows = TABLES[heading]
    shared = set(find_command("convert").options.values()) if command != "convert" else set()
    options = [
        option for option in dict.fromkeys(find_command(command).options.values()) if option not in shared
    ]
    fields = FILE_FIELDS | {
        option.name: mark["field"] for mark, option in form_marks(SOURCES / f"{notebook}.py")
    }
    return [*rows, *table_rows(options, fields, own_flags=command != "convert")]


def write_all() -> list[Path]:
    texts = {FOLDER / f"{path.stem}.ipynb": render(path) for path in sources()}
    texts[PROJECT / "README.md"] = render_readme()
    stale = [path for path in texts if not path.is_file() or path.read_text(encoding="utf-8") != texts[path]]
    for path in stale:
        path.write_text(texts[path], encoding="utf-8")
    return stale


def run_all(folder: Path) -> None:
    """Execute the notebooks in order, in the project's folder, and keep each as HTML."""
    import papermill
    from nbconvert import HTMLExporter

    folder.mkdir(parents=True, exist_ok=True)
    for path in sources():
        executed = folder / f"{path.stem}.ipynb"
        papermill.execute_notebook(FOLDER / executed.name, executed, cwd=PROJECT, progress_bar=False)
        page, _ = HTMLExporter().from_filename(str(executed))
        executed.with_suffix(".html").write_text(page, encoding="utf-8")
        print(executed.with_suffix(".html"))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--gallery", type=Path, metavar="FOLDER", help="run the notebooks and keep them as HTML"
    )
    options = parser.parse_args()
    written = write_all()
    print("written:", ", ".join(path.name for path in written) or "nothing, all is up to date")
    if options.gallery:
        run_all(options.gallery)
    return 0


if __name__ == "__main__":
    sys.exit(main())
