"""Write notebooks/*.ipynb from notebooks/source/*.py, always the same bytes for the same source.

    python notebooks/build.py                    write them
    python notebooks/build.py --gallery FOLDER   run them in order and keep them as HTML

A source is a Python file in percent format: `# %% name` starts a code cell, `# %% [markdown] name` a text cell.
The name becomes the cell's id, so ids survive edits. The title cell gets the Colab badge, and after it comes the
set-up cell, which is the same in every notebook. The repository's address is read from pyproject.toml.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PROJECT = FOLDER.parent
SOURCES = FOLDER / "source"
BOOTSTRAP = SOURCES / "bootstrap.py"
CELL_MARK = re.compile(r"^# %% (?P<markdown>\[markdown\] )?(?P<name>[a-z0-9-]+)$")
COLAB = "https://colab.research.google.com"
README_BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*/notebooks/(\w+)\.ipynb\)")
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
    page = f"{COLAB}/github/{repository().removeprefix('https://github.com/')}/blob/main/notebooks/{stem}.ipynb"
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


def render(path: Path) -> str:
    """The notebook of one source, as the text of its .ipynb."""
    address = repository()
    title, *rest = read_cells(path)
    heading, _, body = title.text.partition("\n")
    title = Cell(title.name, True, f"{heading}\n\n{badge(path.stem)}\n\n{body.strip()}")
    bootstrap = [Cell(c.name, c.is_markdown, c.text.replace("REPOSITORY", address)) for c in read_cells(BOOTSTRAP)]
    cells = [_as_json(cell, path.stem) for cell in [title, *bootstrap, *rest]]
    notebook = {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _as_json(cell: Cell, notebook: str) -> dict:
    stored = {
        "cell_type": "markdown" if cell.is_markdown else "code",
        "id": f"{notebook}-{cell.name}",
        "metadata": {"tags": ["parameters"]} if cell.name == "parameters" else {},
        "source": cell.text.splitlines(keepends=True),
    }
    return stored if cell.is_markdown else stored | {"execution_count": None, "outputs": []}


def render_readme() -> str:
    """README.md with its badges pointing to the repository that pyproject.toml names."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    return README_BADGE.sub(lambda found: badge(found[1]), text)


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gallery", type=Path, metavar="FOLDER", help="run the notebooks and keep them as HTML")
    options = parser.parse_args()
    written = write_all()
    print("written:", ", ".join(path.name for path in written) or "nothing, all is up to date")
    if options.gallery:
        run_all(options.gallery)
    return 0


if __name__ == "__main__":
    sys.exit(main())
