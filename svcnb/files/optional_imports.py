"""torchaudio where its binary cannot load: the pure-Python parts, for the packages that import it."""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

from svcnb import MissingExtra

EXTENSION = "torchaudio._extension"


class _AbsentExtension(types.ModuleType):
    """Stands in for torchaudio's loader of compiled code and says that there is none.

    torchaudio itself is written to work without its binary (flags are False, the few compiled functions
    refuse when called), but only if the file is absent: a binary built for another torch raises instead.
    """

    _IS_TORCHAUDIO_EXT_AVAILABLE = False
    _IS_ALIGN_AVAILABLE = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name.startswith("_IS_"):
            return False
        return _decorate_as_refusing  # fail_if_no_align and its likes are decorators


def _decorate_as_refusing(*_: Any, **__: Any) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError(
            "torchaudio's compiled part does not fit this torch: only its Python parts work here"
        )

    return refuse


def ensure_torchaudio() -> types.ModuleType:
    """torchaudio, complete where its binary loads, else its pure-Python parts (Resample, mel filters, ...).

    torchcrepe and torchfcpe import torchaudio for a file reader and a resampler that are plain Python, yet
    `import torchaudio` fails beside a torch of another build (a CPU torch, another CUDA). The one module
    that loads the binary is replaced in that case, and only then; nothing stays behind if that fails too.

    Raises:
        MissingExtra: torchaudio is not installed, or not even its Python parts can be imported.
    """
    before = {name: module for name, module in sys.modules.items() if _is_torchaudio(name)}
    try:
        return importlib.import_module("torchaudio")
    except ModuleNotFoundError as error:
        _restore(before)
        raise MissingExtra(f'torchaudio is needed ({error}); run: pip install "svcnb[f0]"') from error
    except (ImportError, OSError, RuntimeError):
        # OSError: a CUDA library is missing; RuntimeError: CUDA versions differ; ImportError: half a binary.
        _restore(before)
    sys.modules[EXTENSION] = _AbsentExtension(EXTENSION)
    try:
        return importlib.import_module("torchaudio")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        _restore(before)
        raise MissingExtra(
            f"torchaudio cannot be imported beside this torch, not even without its binary ({error}); "
            "install the torchaudio that belongs to your torch"
        ) from error


def _is_torchaudio(name: str) -> bool:
    return name == "torchaudio" or name.startswith("torchaudio.")


def _restore(modules: dict[str, types.ModuleType]) -> None:
    for name in [name for name in sys.modules if _is_torchaudio(name)]:
        del sys.modules[name]
    sys.modules.update(modules)


def import_optional(name: str, extra: str, *, note: str = "") -> types.ModuleType:
    """The package, or MissingExtra with the pip command that brings it."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # pyworld 0.3.5
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == "pkg_resources":
            raise MissingExtra(
                f'{name} needs an older setuptools; run: pip install "setuptools<81"'
            ) from error
        missing = f" ({error.name} is missing)" if error.name != name else ""
        raise MissingExtra(
            f'{name} is not installed{missing}; run: pip install "svcnb[{extra}]"{note}'
        ) from error
