"""Static checks of the project: layers, size limits, packaging, README."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.places import PROJECT
from tests.sources import PACKAGE, module_name, package_files, project_files, python_files, syntax_tree

MAX_FILE_LINES = 550  # of tests; the formatter gives many arguments a line each
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 8

# Imports go only to the right in this line; the root modules (errors, device) may be imported by all.
ROOMS = "cli notebook evaluation plots models conversion training data features audio files nn".split()
# Inside models: auto knows every family; families do not know each other, but may use diffusion, and that the vocoder;
# settings is known by all and knows none of them.
MODEL_PACKAGES_USED = {
    "auto": {"sovits", "rvc"},
    "sovits": {"diffusion", "vocoder"},
    "rvc": {"diffusion", "vocoder"},
    "diffusion": {"vocoder"},
}
MAX_ENTRIES, MAX_PACKAGE_FILES, MAX_PACKAGE_FILE_LINES, MAX_HANDED_ON = 16, 14, 420, 12
# A mel spectrogram is defined by nine numbers; bundling them would only move them.
MANY_PARAMETERS = {("spectral.py", "__init__")}
PRINTING_ROOM = "cli"  # talks to a terminal
HEAVY = (
    "librosa transformers faiss pyworld parselmouth torchcrepe torchfcpe torchaudio resemblyzer accelerate "
    "matplotlib ipywidgets IPython pyloudnorm diffusers sklearn pandas onnxruntime onnx huggingface_hub jinja2"
).split()


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, imported svcnb module) of every import, also inside functions; names count as modules where they are."""
    names = {module_name(p) for p in package_files()}
    for node in ast.walk(syntax_tree(path)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: relative import"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for full in found:
            if full.split(".")[0] != "svcnb":
                continue
            inner = full.removeprefix("svcnb").lstrip(".")
            while inner and inner not in names:
                inner = inner.rpartition(".")[0]
            if inner:
                yield node.lineno, inner


def goes_right(module: str, imported: str) -> bool:
    """Whether a module may import another: from its own room or one to the right of it; between model packages as listed."""
    rooms = [name.split(".")[0] for name in (module, imported)]
    if rooms[1] not in ROOMS:
        return imported == "device" and rooms[0] != "nn"
    if rooms[0] not in ROOMS:
        return module == "__main__"
    if rooms == ["models", "models"]:
        if imported == "models.settings":
            return module != "models.settings"
        package, other = (name.split(".")[1] for name in (module, imported))
        return package == other or other in MODEL_PACKAGES_USED.get(package, ())
    return ROOMS.index(rooms[0]) <= ROOMS.index(rooms[1])


@pytest.mark.parametrize("path", package_files(), ids=module_name)
def test_imports_go_only_to_the_right(path: Path) -> None:
    module = module_name(path)
    assert not module or module.split(".")[0] in (*ROOMS, "device", "__main__"), f"{module} is in no room"
    for line, imported in imports_of(path):
        assert goes_right(module, imported), f"{path.name}:{line}: {module} imports {imported}"


@pytest.mark.parametrize(
    "module, imported",
    [
        ("audio.audio", "models.sovits.voice"),
        ("training.loop", "conversion.voice"),
        ("nn.layers", "files.disk"),
        ("nn.layers", "device"),
        ("models.rvc.voice", "models.sovits.config"),
        ("models.vocoder.train", "models.diffusion.config"),
        ("models.sovits.voice", "models.auto"),
        ("conversion.voice", "cli.main"),
        ("device", "files.disk"),
        ("models.settings", "models.rvc.config"),
    ],
)
def test_an_import_to_the_left_is_found(module: str, imported: str) -> None:
    assert not goes_right(module, imported)


def test_a_planted_import_is_seen_inside_functions_too(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text("def late():\n    from svcnb.models.sovits import train\n", encoding="utf-8")
    assert list(imports_of(planted)) == [(2, "models.sovits.train")]


def test_the_package_is_seen_in_one_look() -> None:
    assert len([p for p in PACKAGE.iterdir() if p.name != "__pycache__"]) <= MAX_ENTRIES
    for folder in {path.parent for path in package_files()} - {PACKAGE}:
        files = sorted(p.name for p in folder.glob("*.py") if p.name != "__init__.py")
        assert len(files) <= MAX_PACKAGE_FILES, f"{folder.name}: {len(files)} files"
        assert len(folder.relative_to(PACKAGE).parts) <= 2, f"{folder}: a third level of packages"


@pytest.mark.parametrize("path", [p for p in package_files() if p.name == "__init__.py"], ids=module_name)
def test_a_package_hands_on_few_names(path: Path) -> None:
    names = [
        n.name
        for node in syntax_tree(path).body
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for n in node.names
    ]
    assert len(names) <= MAX_HANDED_ON, names


def test_networks_import_nothing_but_torch_and_each_other() -> None:
    allowed = {"torch", "numpy", "svcnb", *sys.stdlib_module_names}
    for path in package_files():
        if not module_name(path).startswith("nn"):
            continue
        for node in ast.walk(syntax_tree(path)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in allowed, f"{path.name}:{node.lineno}: {name}"


def test_no_import_circles() -> None:
    edges = {module_name(p): {name for _, name in imports_of(p)} for p in package_files()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, "circle: " + " -> ".join([*trail, module])
        if module in done:
            return
        for imported in sorted(edges.get(module, ())):
            if imported != module:
                visit(imported, (*trail, module))
        done.add(module)

    for module in sorted(edges):
        visit(module, ())


@pytest.mark.parametrize("path", python_files(), ids=lambda p: str(p.relative_to(PROJECT)))
def test_every_import_is_used(path: Path) -> None:
    imported: set[str] = set()
    used: set[str] = set()
    for node in ast.walk(syntax_tree(path)):
        if isinstance(node, ast.Import | ast.ImportFrom) and getattr(node, "module", "") != "__future__":
            imported |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.Assign) and any(
            getattr(target, "id", "") == "__all__" for target in node.targets
        ):
            used |= set(ast.literal_eval(node.value))
    assert imported <= used, f"imported and not used: {', '.join(sorted(imported - used))}"


@pytest.mark.parametrize("path", python_files(), ids=lambda p: str(p.relative_to(PROJECT)))
def test_sizes_stay_readable(path: Path) -> None:
    n_lines = len(path.read_text(encoding="utf-8").splitlines())
    most = MAX_PACKAGE_FILE_LINES if PACKAGE in path.parents else MAX_FILE_LINES
    assert n_lines <= most, f"{n_lines} lines: two ideas in one file?"
    for node in ast.walk(syntax_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{path.name}:{node.lineno} {node.name} has {length} lines"
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            n_parameters = len([a for a in arguments if a.arg not in ("self", "cls")])
            excused = (path.name, node.name) in MANY_PARAMETERS
            assert excused or n_parameters <= MAX_PARAMETERS, (
                f"{path.name}:{node.lineno} {node.name} has {n_parameters} parameters"
            )


@pytest.mark.parametrize("path", package_files(), ids=module_name)
def test_no_swallowed_errors_globals_or_prints(path: Path) -> None:
    for node in ast.walk(syntax_tree(path)):
        where = f"{path.name}:{getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Global), f"{where}: global"
        if isinstance(node, ast.ExceptHandler):
            names = (
                [n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)]
                if node.type
                else ["everything"]
            )
            broad = {"everything", "Exception", "BaseException"} & set(names)
            assert not broad or any(isinstance(n, ast.Raise) for n in ast.walk(node)), (
                f"{where}: broad except"
            )
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called = node.func.id
            assert called not in ("exit", "quit"), f"{where}: {called}()"
            assert called != "print" or module_name(path).split(".")[0] == PRINTING_ROOM, (
                f"{where}: print in a library module"
            )


def test_no_module_has_a_name_that_says_nothing() -> None:
    empty = {"utils", "helpers", "common", "misc", "core", "base", "manager"}
    assert not [str(p) for p in python_files() if p.stem in empty]


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=" ".join)
def test_style_and_format_are_checked_by_ruff(arguments: list[str]) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments, "."], cwd=PROJECT, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stdout[-2000:]


def test_only_tables_of_data_are_kept_from_the_formatter() -> None:
    for path in python_files():
        lines = path.read_text(encoding="utf-8").splitlines()
        tables: set[int] = set()
        for node in syntax_tree(path).body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(
                node.value, ast.Dict | ast.Tuple | ast.List | ast.Set
            ):
                tables |= set(range(node.lineno, node.end_lineno + 1))
        skipped = {
            number for number, line in enumerate(lines, 1) if line.rstrip().endswith("# fmt: " + "skip")
        }
        assert skipped <= tables, f"{path.name}:{sorted(skipped - tables)}"


IMPORT_PROBE = """
import json, os, sys
import numpy, scipy, soundfile, soxr, torch, pydantic, safetensors.torch, joblib, tqdm.auto, yaml
before = dict(os.environ), torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype(), sys.argv[:]
library = tuple({os.path.realpath(p) for p in (sys.prefix, sys.base_prefix)})
touched = []
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        path = os.path.realpath(arguments[0])
        writes = isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        code = path.endswith((".py", ".pyc", ".so")) or ".egg-info" in path  # the latter: an editable install
        if writes or not (code or path.startswith(library) or path.startswith("/proc")):
            touched.append(path)
    elif event in ("os.mkdir", "os.remove", "os.rename", "os.putenv", "socket.connect", "subprocess.Popen", "os.chdir"):
        touched.append(event)
sys.addaudithook(watch)
import importlib
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
watched, touched = touched, []
after = dict(os.environ), torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype(), sys.argv[:]
loaded = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
print(json.dumps({"touched": watched, "changed": before != after, "loaded": loaded}))
"""


def test_importing_every_module_touches_nothing_and_loads_nothing_heavy(tmp_path: Path) -> None:
    modules = [f"svcnb.{module_name(p)}".rstrip(".") for p in package_files() if p.stem != "__main__"]
    command = [sys.executable, "-B", "-c", IMPORT_PROBE, json.dumps(modules), json.dumps(HEAVY)]
    finished = subprocess.run(
        command, cwd=tmp_path, env=_clean_environment(), capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    seen = json.loads(finished.stdout.splitlines()[-1])
    assert seen == {"touched": [], "changed": False, "loaded": []}
    assert not list(tmp_path.iterdir())


def _clean_environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(PROJECT)}


def test_help_answers_without_loading_torch() -> None:
    probe = "import sys; from svcnb.cli.main import build_parser; build_parser().format_help(); print('torch' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", probe], cwd=PROJECT, capture_output=True, text=True)
    assert finished.stdout.strip() == "False", finished.stderr


# Words of the project's own that a practitioner would have to translate, and the terms to take instead.
PRIVATE_WORDS = {
    r"middle[ _]pitch\w*": "median f0",
    r"likeness": "speaker similarity",
    r"hearing": "conditioned on, perceptual loss",
    r"mend(s|ed|ing)?": "refine",
    r"bent": "perturbed",
    r"drawn[ _]back": "weight interpolation",
    r"told[ _]plainly": "reports",
    r"rungs?": "reconstruction stage",
}
# Names of files and fields on disk, and flags that go on working, keep their words.
NAMES_ON_DISK = ("middle_pitch.json", '"middle_pitch_hz"', '"--mend"')


@pytest.mark.parametrize("word, term", PRIVATE_WORDS.items())
def test_the_fields_own_words_are_used(word: str, term: str) -> None:
    folders = ("svcnb", "notebooks", "pretrain")
    texts = [PROJECT / "README.md"]
    texts += [
        p
        for p in project_files()
        if p.suffix in (".py", ".md", ".ipynb") and p.relative_to(PROJECT).parts[0] in folders
    ]
    found = []
    for path in texts:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for name in NAMES_ON_DISK:
                line = line.replace(name, "")
            if re.search(rf"(?<![A-Za-z]){word}(?![A-Za-z])", line, re.IGNORECASE):
                found.append(f"{path.relative_to(PROJECT)}:{number}: {line.strip()[:80]}")
    assert not found, f"say {term}:\n" + "\n".join(found)


# --- packaging ---------------------------------------------------------------------------------------------------

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
CONDA_NAMES = {"torch": "pytorch", "soundfile": "pysoundfile", "soxr": "soxr-python"}
CONDA_ONLY = {"python", "pip", "ffmpeg"}


def requirement(text: str) -> tuple[str, str]:
    name, bounds = re.fullmatch(r"([A-Za-z0-9_.-]+)\s*(.*)", text.strip()).groups()
    return name.lower(), bounds.replace(" ", "")


def declared_requirements() -> dict[str, str]:
    project = PYPROJECT["project"]
    extras = {k: v for k, v in project["optional-dependencies"].items() if k not in ("all", "gpu")}
    return dict(requirement(text) for group in (project["dependencies"], *extras.values()) for text in group)


def test_environment_file_and_pyproject_need_the_same() -> None:
    listed = yaml.safe_load((PROJECT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    (pip_part,) = [entry["pip"] for entry in listed if isinstance(entry, dict)]
    conda = dict(requirement(entry) for entry in listed if isinstance(entry, str))
    pip_part = dict(requirement(entry) for entry in pip_part if not entry.startswith("--editable"))
    wanted = {CONDA_NAMES.get(name, name): bounds for name, bounds in declared_requirements().items()}
    assert conda["python"] == PYPROJECT["project"]["requires-python"]
    assert {k: v for k, v in conda.items() if k not in CONDA_ONLY} | pip_part == wanted


def test_pyproject_gives_ranges_and_constraints_give_versions() -> None:
    for name, bounds in declared_requirements().items():
        assert "==" not in bounds, f"{name} is pinned in pyproject.toml"
    lines = (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert "+" not in pinned["torch"]
    missing = set(declared_requirements()) - {name.lower() for name in pinned}
    assert not missing, f"constraints.txt lacks {missing}"


def test_every_file_that_is_no_code_is_packaged() -> None:
    (patterns,) = PYPROJECT["tool"]["setuptools"]["package-data"].values()
    packaged = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    others = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert others and others <= packaged, f"not in a wheel: {others - packaged}"


def test_all_is_every_extra_but_gpu() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    (line,) = extras["all"]
    assert set(re.search(r"\[(.*)\]", line)[1].split(",")) == set(extras) - {"all", "gpu"}


def test_files_name_no_machine_and_no_package_host() -> None:
    # Written in parts, so that this file does not find itself.
    folders = ["/ro" + "ot/", "/ho" + "me/", "/t" + "mp/", "/wo" + "rk/", "/con" + "tent/", "/con" + 'tent"']
    folders += ["C:" + "\\\\"]
    hosts = ["pypi" + ".org", "python" + "hosted", "download." + "pytorch", "ana" + "conda.org"]
    found = []
    for path in project_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            hits = [word for word in hosts if word in line]
            hits += [folder for folder in folders if re.search(r"(?<![\w.\-/}])" + re.escape(folder), line)]
            found += [f"{path.relative_to(PROJECT)}:{number}: {hit}" for hit in hits]
    assert not found, "\n".join(found)


# --- README ------------------------------------------------------------------------------------------------------

README = (PROJECT / "README.md").read_text(encoding="utf-8")


def readme_commands() -> list[str]:
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", README, re.S)
    inline = re.findall(r"`((?:make|svcnb|python -m svcnb)(?: [^`]*)?)`", README)
    lines = [
        line.strip().removeprefix("$ ")
        for block in blocks
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines + inline if line and not line.startswith("#")]


@pytest.mark.parametrize("line", readme_commands())
def test_readme_commands_exist(line: str) -> None:
    from svcnb.cli.main import build_parser

    words = shlex.split(line, comments=True)
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.M)
        named = [word for word in words[1:] if "=" not in word]
        assert set(named) <= set(targets)
    elif words[0] == "svcnb" or words[:3] == ["python", "-m", "svcnb"]:
        arguments = words[1:] if words[0] == "svcnb" else words[3:]
        if arguments and not any(word in ("...", "--help") or word.isupper() for word in arguments):
            build_parser().parse_args(arguments)
    elif words[0] == "python":
        assert (PROJECT / words[1]).is_file()
    else:
        assert words[0] in ("pip", "git", "cd", "conda", "jupyter", "papermill", "source"), (
            f"unknown command in README: {line}"
        )


def test_readme_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", README):
        if not target.startswith(("http", "mailto")):
            assert (PROJECT / target).exists(), target
