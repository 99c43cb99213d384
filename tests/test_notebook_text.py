"""Checks of the text of every notebook, without running it: forms, order of names, size, no outputs."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import json
import re
from pathlib import Path

import pytest

from svcnb.audio.settings import CutSettings
from svcnb.files.options import options_of
from svcnb.files.pretrained_table import WEIGHTS
from svcnb.notebook.forms import form_default
from tests.places import PROJECT
from tests.sources import NOTEBOOKS, code_cells, notebook, parameters, source, tagged

MAX_CELL_LINES = 12
MAX_LINE_LENGTH = 105
MAX_SENTENCES = 4
WORDS = range(120, 700)
TOUR, TOUR_WORDS = "10_how_it_works", range(700, 2200)  # read as much as it is run
LONG_CELLS = ("setup", "parameters")  # the form, and the one cell that may call git and pip
MAIN_LINE = ["00_setup", "01_slice", "02_features", "03_train", "04_cluster", "05_convert"]
FORM = re.compile(r"^(?P<name>\w+) = (?P<default>.+?)  #@param (?P<form>.+)$")
COLAB_ROOT = "/con" + "tent"  # in two parts: no file of the project names a machine's folders
PLACEHOLDER = re.compile(r"your|placeholder|xxx|todo|example\.com|<.*>", re.I)

NO_OPTIONS = {"00_setup": ["speaker"]}  # names of options for something else: a folder to be made

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def load_builder():
    spec = importlib.util.spec_from_file_location("notebook_builder", PROJECT / "notebooks" / "build.py")
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_main_line_is_there() -> None:
    assert [path.stem for path in NOTEBOOKS if path.stem < "06"] == MAIN_LINE


def test_notebooks_are_what_their_sources_make() -> None:
    builder = load_builder()
    assert [path.stem for path in builder.sources()] == [path.stem for path in NOTEBOOKS]
    for path in builder.sources():
        stored = (PROJECT / "notebooks" / f"{path.stem}.ipynb").read_text(encoding="utf-8")
        assert stored == builder.render(path), f"{path.stem} differs from its source: run make notebooks"
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert readme == builder.render_readme(), "README.md has badges of another repository: run make notebooks"
    assert {found[1] for found in builder.README_BADGE.finditer(readme)} == {path.stem for path in NOTEBOOKS}


@each_notebook
def test_valid_stripped_and_readable_by_every_tool(path: Path) -> None:
    import nbformat

    stored = notebook(path)
    nbformat.validate(stored)
    assert stored["metadata"]["kernelspec"]["language"] == "python"
    assert stored["metadata"]["language_info"]["name"] == "python"
    for cell in code_cells(path):
        assert cell["outputs"] == [] and cell["execution_count"] is None
    ids = [cell["id"] for cell in stored["cells"]]
    assert len(set(ids)) == len(ids) and all(name.startswith(f"{path.stem}-") for name in ids)
    assert "widgets" not in stored["metadata"]


@each_notebook
def test_every_notebook_has_the_same_frame(path: Path) -> None:
    cells = notebook(path)["cells"]
    assert f"notebooks/{path.stem}.ipynb" in source(cells[0]) and "colab-badge" in source(cells[0])
    assert "T4" in source(cells[0]) and "2 CPU cores" in source(cells[0])
    names = [cell["id"].removeprefix(f"{path.stem}-") for cell in cells]
    assert names[1:3] == ["setup-text", "setup"]
    assert names[-1] == "files" and "show_files" in source(cells[-1])
    assert len(tagged(path, "parameters")) == 1
    before_form = [name for name in names[3 : names.index("parameters")] if not name.endswith("-text")]
    assert set(before_form) <= {"consent"}, "cells with code stand before the parameters"
    assert source(cells[2]) == source(notebook(NOTEBOOKS[0])["cells"][2])


@each_notebook
def test_text_and_code_take_turns_in_small_steps(path: Path) -> None:
    cells = notebook(path)["cells"]
    n_words = 0
    for before, cell in zip([None, *cells], cells, strict=False):
        text = source(cell)
        if cell["cell_type"] == "markdown":
            n_words += len(text.split())
            continue
        assert before is not None and before["cell_type"] == "markdown", f"{cell['id']}: no text before it"
        widest = max(text.splitlines(), key=lambda line: len(line.partition("  #@param")[0]))
        assert len(widest.partition("  #@param")[0]) <= MAX_LINE_LENGTH, f"{cell['id']}: {widest}"
        if not cell["id"].endswith(LONG_CELLS):
            n_lines = len([line for line in text.splitlines() if line.strip()])
            assert n_lines <= MAX_CELL_LINES, f"{cell['id']} has {n_lines} lines"
    for cell in cells[1:]:
        if cell["cell_type"] == "markdown":
            prose = " ".join(line for line in source(cell).splitlines() if not line.startswith(("#", "|")))
            n_sentences = len(re.findall(r"[.?!:](?:\s|$)", prose))
            assert 1 <= n_sentences <= MAX_SENTENCES + 1, f"{cell['id']} has {n_sentences} sentences"
    assert n_words in (TOUR_WORDS if path.stem == TOUR else WORDS), f"{n_words} words"


@each_notebook
def test_no_shell_no_tricks_no_definitions(path: Path) -> None:
    for cell in code_cells(path):
        text = source(cell)
        is_setup = cell["id"].endswith("-setup")
        for word in ("os.kill", "os._exit", "do_shutdown", "capture_output", "%%capture", "eval(", "exec("):
            assert word not in text.replace(".eval()", ""), f"{cell['id']}: {word}"
        assert "google.colab" not in text and COLAB_ROOT not in text, f"{cell['id']} is made for one machine"
        assert not re.search(r"^\s*[!%]", text, re.M), f"{cell['id']}: shell or magic"
        assert is_setup or ("subprocess" not in text and "http" not in text), f"{cell['id']}: goes outside"
        for node in ast.walk(ast.parse(text)):
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda), (
                f"{cell['id']} defines something"
            )
            assert not isinstance(node, ast.Try), f"{cell['id']} hides errors"


@each_notebook
def test_every_name_is_made_before_it_is_used(path: Path) -> None:
    known = set(dir(builtins)) | {"display"}
    for cell in code_cells(path):
        used, made = [], set()
        for node in ast.walk(ast.parse(source(cell))):
            if isinstance(node, ast.Name):
                if isinstance(node.ctx, ast.Load):
                    used.append(node.id)
                else:
                    made.add(node.id)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                made |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        unknown = set(used) - known - made
        assert not unknown, f"{cell['id']} uses {unknown} before any cell makes it"
        known |= made


@each_notebook
def test_imports_from_the_package_exist(path: Path) -> None:
    for cell in code_cells(path):
        for node in ast.walk(ast.parse(source(cell))):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("svcnb"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    found = hasattr(module, alias.name) or importlib.util.find_spec(
                        f"{node.module}.{alias.name}"
                    )
                    assert found, f"{cell['id']}: {node.module} has no {alias.name}"


@each_notebook
def test_what_is_taken_from_an_imported_module_is_there(path: Path) -> None:
    trees = [(cell["id"], ast.parse(source(cell))) for cell in code_cells(path)]
    modules = {}
    for node in (node for _, tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)):
        for alias in node.names:
            if (
                node.module.startswith("svcnb")
                and importlib.util.find_spec(node.module).submodule_search_locations
            ):
                name = f"{node.module}.{alias.name}"
                modules |= (
                    {alias.asname or alias.name: importlib.import_module(name)}
                    if importlib.util.find_spec(name)
                    else {}
                )
    for cell, tree in trees:
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in modules
            ):
                module = modules[node.value.id]
                assert hasattr(module, node.attr), f"{cell}: {module.__name__} has no {node.attr}"


@each_notebook
def test_parameters_are_form_fields_with_help_and_working_defaults(path: Path) -> None:
    (cell,) = tagged(path, "parameters")
    title, *lines = source(cell).splitlines()
    assert title == "#@title Parameters"
    assert len(lines) % 2 == 0
    for help_line, line in zip(lines[::2], lines[1::2], strict=True):
        assert re.fullmatch(r"#@markdown .{10,}", help_line), f"no help above: {line}"
        form = FORM.match(line)
        assert form, f"not a form field: {line}"
        check_form(form["name"], ast.literal_eval(form["default"]), form["form"])
    assert set(parameters(path)) == {FORM.match(line)["name"] for line in lines[1::2]}


def check_form(name: str, default: object, form: str) -> None:
    """One field: its type fits its default, and the default is a value that works."""
    decoder = json.JSONDecoder()
    first, end = decoder.raw_decode(form)
    options = json.loads(form[end:]) if form[end:].strip() else {}
    if isinstance(first, list):
        assert default in first, f"{name}: {default!r} is not among {first}"
        assert set(options) <= {"allow-input", "type"}
        assert all(isinstance(choice, type(default)) for choice in first)
        return
    kind = first["type"]
    if kind == "slider":
        assert set(first) == {"type", "min", "max", "step"}
        assert first["min"] <= default <= first["max"] and not isinstance(default, bool)
        steps = (default - first["min"]) / first["step"]
        assert abs(steps - round(steps)) < 1e-6, f"{name}: {default} is not on the slider"
    elif kind == "string":
        assert isinstance(default, str) and not PLACEHOLDER.search(default), (
            f"{name}: {default!r} cannot work"
        )
        assert not re.fullmatch(r"-?[\d.]+", default), f"{name}: a number in a text field"
    else:
        assert type(default) is {"boolean": bool, "integer": int, "number": float}[kind], (
            f"{name}: {default!r}"
        )


def offered_by(name: str, field: str) -> list:
    """The choices in a notebook's form for a field."""
    (cell,) = tagged(PROJECT / "notebooks" / f"{name}.ipynb", "parameters")
    (form,) = [
        m["form"] for line in source(cell).splitlines() if (m := FORM.match(line)) and m["name"] == field
    ]
    return json.JSONDecoder().raw_decode(form)[0]


@each_notebook
def test_fields_that_are_options_are_made_from_them_basic_ones_first(path: Path) -> None:
    builder = load_builder()
    source_path = builder.SOURCES / f"{path.stem}.py"
    (form,) = [cell.text for cell in builder.read_cells(source_path) if cell.name == "parameters"]
    assert builder.unmarked_options(form) == NO_OPTIONS.get(path.stem, [])
    marks = builder.form_marks(source_path)
    assert marks, "no field of this form is an option of the package"
    advanced = [option.advanced for _, option in marks]
    assert advanced == sorted(advanced), "an advanced field is above a basic one"
    for mark, option in marks:
        written = FORM.match(form_line(path, mark["field"]))
        assert form_line(path, mark["field"], above=True).startswith(
            "#@markdown " + option.sentence.removesuffix(".")
        )
        value = ast.literal_eval(mark["value"]) if mark["value"] else form_default(option)
        assert ast.literal_eval(written["default"]) == value
        offered, _ = json.JSONDecoder().raw_decode(written["form"])
        if option.choices and not option.is_open:
            assert offered == list(option.choices)
        elif option.slider and not option.choices:
            assert (offered["min"], offered["max"], offered["step"]) == option.slider


@each_notebook
def test_a_closed_dropdown_is_an_option_of_the_package(path: Path) -> None:
    marked = {
        mark["field"]
        for mark, _ in load_builder().form_marks(PROJECT / "notebooks" / "source" / f"{path.stem}.py")
    }
    for line in source(tagged(path, "parameters")[0]).splitlines():
        form = FORM.match(line)
        if form and form["form"].startswith("[") and "allow-input" not in form["form"]:
            assert form["name"] in marked, f"who says that {form['name']} has these choices?"


def form_line(path: Path, field: str, *, above: bool = False) -> str:
    """The line of a field in a notebook's form, or the help above it."""
    lines = source(tagged(path, "parameters")[0]).splitlines()
    (number,) = [i for i, line in enumerate(lines) if line.startswith(f"{field} = ")]
    return lines[number - above]


def test_base_models_on_the_form_are_in_the_table_and_those_of_so_vits_are_all_there() -> None:
    choices = {name for row in WEIGHTS.values() for name in row.needed_for if name.startswith("base")}
    offered = set(offered_by("00_setup", "base_model"))
    assert {"", *(name for name in choices if "rvc" not in name)} <= offered <= {"", *choices}


def test_levels_on_the_form_are_all_there_are() -> None:
    from svcnb import SvcError
    from svcnb.audio.audio import Audio
    from svcnb.audio.loudness import level

    audio = Audio([0.1, -0.1], 16000)
    for mode in options_of(CutSettings)["level"].choices:
        if mode != "lufs":  # needs longer sounds
            level(audio, mode=mode, target_db=-20)
    with pytest.raises(SvcError, match="off, peak or lufs"):
        level(audio, mode="unknown", target_db=-20)


def test_the_conversion_form_has_the_fields_people_know() -> None:
    wanted = (
        "wav model speaker trans cluster_infer_ratio auto_predict_f0 f0_mean_pooling enhance slice_db wav_format "
        "download f0_predictor"
    ).split()
    assert set(wanted) <= set(parameters(PROJECT / "notebooks" / "05_convert.ipynb"))
