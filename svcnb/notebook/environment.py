"""The machine that runs a notebook: its description, and its missing packages."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from svcnb import SvcError, __version__

# Extras for a hosted notebook besides the hard dependencies; no GPL pitch tracker, no test tools.
NOTEBOOK_EXTRAS = ("f0", "content", "index", "loudness")
# Replacing one of these while the kernel runs breaks it: pip must keep the installed versions.
HELD = ("torch", "torchaudio", "torchvision", "numpy", "scipy", "ipython", "ipywidgets", "numba", "pandas")
BYTES_PER_GB = 1e9


def on_colab() -> bool:
    """Whether this is a Google Colab kernel."""
    return find_spec("google") is not None and find_spec("google.colab") is not None


def missing_packages(
    extras: tuple[str, ...] = NOTEBOOK_EXTRAS, pyproject: Path = Path("pyproject.toml")
) -> list[str]:
    """Requirements of pyproject.toml that are not installed (by name only: installed versions are kept)."""
    declared = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    wanted = list(declared["dependencies"])
    for extra in extras:
        wanted += declared["optional-dependencies"][extra]
    return [text for text in wanted if not _is_installed(_package_name(text))]


def _package_name(requirement: str) -> str:
    length = next((i for i, letter in enumerate(requirement) if letter in "<>=!~[; "), len(requirement))
    return requirement[:length]


def _is_installed(name: str) -> bool:
    if name == "faiss-cpu" and _is_installed("faiss-gpu-cu12"):
        return True
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def install_missing(extras: tuple[str, ...] = NOTEBOOK_EXTRAS) -> list[str]:
    """Install missing packages of a hosted notebook; torch, numpy and the kernel's packages stay unchanged.

    Args:
        extras: groups of pyproject.toml that are needed besides the hard dependencies.

    Returns:
        the requirements that were installed; empty if none was missing.

    Raises:
        SvcError: pip failed; its last lines are in the message.
    """
    missing = missing_packages(extras)
    if not missing:
        return []
    held = [f"{name}=={metadata.version(name)}\n" for name in HELD if _is_installed(name)]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "held.txt"
        constraints.write_text("".join(held), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "-q", "--constraint", str(constraints), *missing]
        finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        last = " | ".join(finished.stderr.strip().splitlines()[-3:])
        raise SvcError(f"could not install {', '.join(missing)}: {last}")
    return missing


def describe_machine() -> dict[str, str]:
    """Facts for error reports: versions, processor, memory, disk."""
    import torch

    free_gb = shutil.disk_usage(Path.cwd()).free / BYTES_PER_GB
    device = f"{os.cpu_count()} CPU cores, no GPU"
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        device = f"{properties.name}, {properties.total_memory / BYTES_PER_GB:.0f} GB"
    facts = {"svcnb": __version__, "Python": platform.python_version(), "torch": torch.__version__}
    facts |= {
        name: metadata.version(name) for name in ("numpy", "librosa", "ipywidgets") if _is_installed(name)
    }
    facts |= {"device": device, "free disk": f"{free_gb:.0f} GB", "folder": str(Path.cwd())}
    if missing := missing_packages():
        facts["not installed"] = ", ".join(_package_name(text) for text in missing)
    return facts
