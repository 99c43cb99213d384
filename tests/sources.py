"""The project's own files as the static tests see them: lists, syntax trees, notebooks."""

from __future__ import annotations

import ast
import json
import subprocess
from functools import cache
from pathlib import Path

from tests.places import PROJECT

PACKAGE = PROJECT / "svcnb"
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))


@cache
def project_files() -> tuple[Path, ...]:
    """Files that are, or would be, in the repository: tracked, or new and not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    if listed.returncode:
        skipped = {".venv", ".git", "__pycache__", "gallery", ".pytest_cache"}
        found = (path for path in PROJECT.rglob("*") if not skipped & set(path.relative_to(PROJECT).parts))
    else:
        found = (PROJECT / name for name in listed.stdout.split("\0") if name)
    return tuple(sorted(path for path in found if path.is_file()))


@cache
def syntax_tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def python_files() -> list[Path]:
    """Python of the package, the tests and the notebook builder (not the notebooks' percent sources)."""
    sources = PROJECT / "notebooks" / "source"
    return [path for path in project_files() if path.suffix == ".py" and sources not in path.parents]


def package_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """svcnb/models/layers.py -> models.layers; svcnb/__init__.py -> the empty name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@cache
def notebook(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in notebook(path)["cells"] if cell["cell_type"] == "code"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def tagged(path: Path, tag: str) -> list[dict]:
    return [cell for cell in notebook(path)["cells"] if tag in cell["metadata"].get("tags", [])]


def parameters(path: Path) -> dict[str, object]:
    """Name -> default of the notebook's parameters cell; fails where a line is not a literal."""
    (cell,) = tagged(path, "parameters")
    values: dict[str, object] = {}
    for line in ast.parse(source(cell)).body:
        if not (
            isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name)
        ):
            raise AssertionError(
                f"{path.name}: not a plain assignment in the parameters cell: {ast.unparse(line)}"
            )
        values[line.targets[0].id] = ast.literal_eval(line.value)
    return values
