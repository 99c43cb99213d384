"""Read the pickles inside torch files without running anything that they contain.

torch's weights-only reader does the reading. Foreign files also name classes of programs that are not
installed here (fairseq's Dictionary, omegaconf's DictConfig, GPT-SoVITS's HParams): those become inert
stand-ins that only collect what was stored. Everything else is refused, by name, before any of it is built.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from svcnb import SvcError

# torch's own list decides about these; it contains tensors, storages, dtypes and plain containers.
LEFT_TO_TORCH = ("torch.",)
LEFT_TO_TORCH_NAMES = {
    "collections.OrderedDict",
    "collections.Counter",
    "_codecs.encode",
    "builtins.bytearray",
    "builtins.set",
    "builtins.complex",
}
PLAIN_TYPES = {
    f"builtins.{t.__name__}": t for t in (dict, list, tuple, int, float, str, bool, bytes, frozenset)
}
STAND_IN_MODULES = ("fairseq.", "omegaconf.", "typing.", "utils.", "GPT_SoVITS.")
STAND_IN_NAMES = {"argparse.Namespace", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath"}
LEGACY_PICKLES = 5  # magic number, protocol, system, the object, storage names; raw storages follow
MALFORMED = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
)


class CheckpointError(SvcError):
    """A weights file that cannot be used; the message names the file and what is wrong with it."""


class UnsafePickle(CheckpointError):
    """A weights file that asks for code to be run; nothing of it was run."""


class StandIn:
    """Takes the place of a class that is not installed: keeps what the file stored, does nothing."""

    def __init__(self, *args: Any) -> None:
        self.stored_args = args

    def __new__(cls, *args: Any) -> StandIn:
        made = super().__new__(cls)
        made.stored_args = args
        made.stored_state = None
        return made

    def __setstate__(self, state: Any) -> None:
        self.stored_state = state


def load_pickled(path: str | Path) -> Any:
    """What a `torch.save` file holds, as tensors, arrays and plain Python values on the CPU.

    Both file formats of torch are read (zip and the older stream), and GPT-SoVITS files whose first two
    bytes are a version number.

    Raises:
        UnsafePickle: the file names a function or class outside the list above (each is named).
        CheckpointError: missing, cut short, or no torch file at all.
    """
    path = Path(path)
    source = _open(path)
    with source:
        try:
            wanted = {name for name in _names_in(source) if not _left_to_torch(name)}
        except MALFORMED as error:
            raise CheckpointError(_unreadable(path, error)) from error
        refused = sorted(name for name in wanted if not _known(name))
        if refused:
            raise UnsafePickle(_refusal(path, ", ".join(refused)))
        source.seek(0)
        try:
            with torch.serialization.safe_globals(_allowances(wanted)):
                loaded = torch.load(source, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise UnsafePickle(_refusal(path, _last_line(error))) from error
        except MALFORMED as error:
            raise CheckpointError(_unreadable(path, error)) from error
    return to_plain(loaded)


def to_plain(value: Any, _parents: tuple[int, ...] = ()) -> Any:
    """`value` with every stand-in replaced by the dict, list or value that it stored."""
    if id(value) in _parents:
        return None  # omegaconf's nodes point back at their parents
    parents = (*_parents, id(value))
    if isinstance(value, StandIn):
        return _plain_stand_in(value, parents)
    if isinstance(value, dict):
        return {_plain_key(k): to_plain(v, parents) for k, v in value.items()}
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return type(value)(to_plain(v, parents) for v in value)
    return value


def _plain_key(key: Any) -> Any:
    return str(to_plain(key)) if isinstance(key, StandIn) else key


def _plain_stand_in(value: StandIn, parents: tuple[int, ...]) -> Any:
    state = value.stored_state
    if isinstance(state, tuple) and len(state) == 2:  # (attributes, slots)
        state = {**(state[0] or {}), **(state[1] or {})}
    if isinstance(state, dict):
        for content in ("_content", "_val"):  # omegaconf: containers and leaves
            if content in state:
                return to_plain(state[content], parents)
        return to_plain(state, parents)
    args = value.stored_args
    return to_plain(args[0] if len(args) == 1 else list(args), parents)


def _open(path: Path) -> BinaryIO:
    """The file, or a copy in memory with the zip mark that newer GPT-SoVITS files overwrite."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Check the name, or download it first.")
    with path.open("rb") as file:
        head = file.read(4)
        if not head:
            raise CheckpointError(
                f"{path} is empty (0 bytes): the download or the save was interrupted. Get it again."
            )
        if head[:2].isdigit() and head[2:] == b"\x03\x04":
            return io.BytesIO(b"PK\x03\x04" + file.read())
    return path.open("rb")


def _names_in(source: BinaryIO) -> Iterator[str]:
    """Every `module.name` that the pickles of the file mention; only reads, builds nothing."""
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            for entry in archive.namelist():
                if entry.endswith("data.pkl"):
                    yield from _names_in_pickle(io.BytesIO(archive.read(entry)))
        return
    source.seek(0)
    if source.read(4) == b"PK\x03\x04":
        raise zipfile.BadZipFile("the end of the archive is missing")
    source.seek(0)
    for _ in range(LEGACY_PICKLES):
        yield from _names_in_pickle(source)
        if source.peek(1)[:1] != b"\x80":  # a lone pickle, not torch's stream
            return


def _names_in_pickle(stream: BinaryIO) -> Iterator[str]:
    strings: list[str] = []
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            yield _modern_name(*argument.split(" ", 1))
        elif opcode.name == "STACK_GLOBAL":
            yield _modern_name(*(strings[-2:] if len(strings) > 1 else ("unknown", "name")))
        elif isinstance(argument, str):
            strings.append(argument)


def _modern_name(module: str, name: str) -> str:
    return f"{ {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}.get(module, module) }.{name}"


def _left_to_torch(name: str) -> bool:
    return name.startswith(LEFT_TO_TORCH) or name in LEFT_TO_TORCH_NAMES


def _stands_in(name: str) -> bool:
    return name.startswith(STAND_IN_MODULES) or name in STAND_IN_NAMES


def _known(name: str) -> bool:
    return name in PLAIN_TYPES or name in _numpy_names() or _stands_in(name)


def _allowances(names: set[str]) -> list[tuple[Any, str]]:
    """(object, name in the file) pairs for torch's reader."""
    allowed: list[tuple[Any, str]] = []
    for name in sorted(names):
        if name in PLAIN_TYPES:
            allowed.append((PLAIN_TYPES[name], name))
        elif name in _numpy_names():
            allowed.append((_numpy_names()[name], name))
        else:
            allowed.append((type(name.rsplit(".", 1)[1], (StandIn,), {}), name))
    if any(name.startswith("numpy.") for name in names):
        allowed += [(kind, f"numpy.dtypes.{kind.__name__}") for kind in _number_types()]
    return allowed


def _number_types() -> list[type]:
    return sorted(
        {type(np.dtype(code)) for code in "?bBhHiIlLqQefd"} | {type(np.dtype("U1"))}, key=lambda t: t.__name__
    )


def _numpy_names() -> dict[str, Any]:
    """Arrays of numbers, under the module names of numpy 1 and 2. Arrays of objects are not among them."""
    rebuild, scalar = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    names: dict[str, Any] = {"numpy.ndarray": np.ndarray, "numpy.dtype": np.dtype}
    for package in ("numpy.core", "numpy._core"):
        names[f"{package}.multiarray._reconstruct"] = rebuild
        names[f"{package}.multiarray.scalar"] = scalar
    return names | {f"numpy.dtypes.{kind.__name__}": kind for kind in _number_types()}


def _refusal(path: Path, what: str) -> str:
    return (
        f"{path} was not loaded: it asks for {what}, which could run code. Weights files hold only tensors and "
        "plain values. Use another copy of the file, or convert it to safetensors where you trust it."
    )


def _last_line(error: Exception) -> str:
    """The cause in torch's long explanation, without its advice to trust the file."""
    text = str(error)
    cause = text.split("WeightsUnpickler error:")[-1].strip().splitlines() or [text]
    return cause[0].split("Please use")[0].strip().rstrip(".")


def _unreadable(path: Path, error: Exception) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(20)
    if head.lstrip().startswith(b"<"):
        why = "is a web page, not weights: the address led to a login or error page"
    elif head.startswith(b"version https://git"):
        why = "is only a pointer to the real file (Git LFS)"
    elif head[:2] == b"PK" or head[:1] == b"\x80":
        why = f"is cut short or damaged ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'end of file'})"
    else:
        why = "is not a torch file"
    return f"{path} {why}; {size} bytes. Download or copy it again."
