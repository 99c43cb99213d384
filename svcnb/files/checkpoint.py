"""Read and write weights: state dicts, so-vits-svc's G_*.pth / D_*.pth, safetensors.

Old weight-norm names (`conv.weight_g`, `conv.weight_v`) are what files hold; torch's parametrised names
(`conv.parametrizations.weight.original0`, `...original1`) are what modules have. Loading takes both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from svcnb.files.disk import atomic_path, watched_file, write_bytes
from svcnb.files.unpickling import CheckpointError, load_pickled

PARAMETRIZED = re.compile(r"^(?P<module>(?:.*\.)?)parametrizations\.(?P<name>\w+)\.original(?P<part>[01])$")
STEP = re.compile(r"^(?P<letter>[GD])_(?P<step>\d+)\.pth$")
# Filters of the snake activations: stored, but no parameters, so no optimiser counts them.
BUFFER = re.compile(r"(^|\.)(upsample\.filter|downsample\.lowpass\.filter)$")
MOST_NAMED = 12  # differences of two models: all of a missing encoder would be hundreds


# Reading -------------------------------------------------------------------------------------------


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The dictionary in a torch file, on the CPU, read without running anything the file contains.

    Classes of programs that are not installed (fairseq, omegaconf, argparse, GPT-SoVITS' HParams) come
    back as plain dictionaries.

    Raises:
        UnsafePickle: the file asks for anything but tensors, arrays and plain values; each is named.
        CheckpointError: missing, empty, cut short, no torch file, or no dictionary inside.
    """
    loaded = load_pickled(path)
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, expected a dictionary of weights.")
    return loaded


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Check the name, or download it first.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is no complete safetensors file ({error}). Download or copy it again."
        ) from error


def write_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write tensors and text metadata; the file appears whole or not at all."""
    from safetensors.torch import save

    # clone: safetensors refuses tensors that share memory
    whole = save({n: t.detach().cpu().clone().contiguous() for n, t in tensors.items()}, dict(metadata or {}))
    return write_bytes(path, whole)  # its own save_file would hide the file from other users (mode 600)


# Names and loading ---------------------------------------------------------------------------------


def to_plain_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """`X.parametrizations.weight.original0/1` renamed to `X.weight_g/_v`, order kept."""
    return {_plain_name(name): value for name, value in state.items()}


def _plain_name(name: str) -> str:
    match = PARAMETRIZED.match(name)
    return f"{match['module']}{match['name']}_{'gv'[int(match['part'])]}" if match else name


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did; the names are those of the file (old weight-norm names).

    `missing`: in the module only (kept its own values). `unexpected`: in the file only (unused).
    `reshaped`: in both, with another shape (kept its own values).
    """

    taken: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]

    def __str__(self) -> str:
        rest = [
            f"{len(n)} {word}" for word in ("missing", "unexpected", "reshaped") if (n := getattr(self, word))
        ]
        return ", ".join([f"{len(self.taken)} tensors taken", *rest])


def load_weights(
    module: nn.Module,
    state: Mapping[str, Any],
    *,
    may_miss: tuple[str, ...] = (),
    may_skip: tuple[str, ...] = (),
) -> LoadReport:
    """Copy a state dict into a module, strictly but for differences that are declared by name.

    Args:
        state: names and tensors, with old or new weight-norm names; other dtypes are cast.
        may_miss: prefixes that the state may lack, e.g. ("enc_q.",) for a released voice.
        may_skip: prefixes whose stored tensors may stay unused, because the module lacks them or has
            another shape, e.g. ("emb_g.",) when a base model with other speakers is fine-tuned.

    Raises:
        CheckpointError: any other difference; one message lists all of them, and nothing was copied.
    """
    stored = to_plain_names(state)
    own = {_plain_name(name): (name, value) for name, value in module.state_dict().items()}
    common = [name for name in own if name in stored]
    reshaped = [name for name in common if _shape(stored[name]) != tuple(own[name][1].shape)]
    differences = [
        *(f"missing {n} {_shape(own[n][1])}" for n in own if n not in stored and not n.startswith(may_miss)),
        *(
            f"unexpected {n} {_shape(stored[n])}"
            for n in stored
            if n not in own and not n.startswith(may_skip)
        ),
        *(
            f"{n} is {_shape(stored[n])}, expected {_shape(own[n][1])}"
            for n in reshaped
            if not n.startswith(may_skip)
        ),
    ]
    if differences:
        raise CheckpointError(
            f"the weights do not fit {type(module).__name__}, {len(differences)} differences: {'; '.join(differences)}. "
            "Check that the config belongs to these weights."
        )
    taken = [name for name in common if name not in set(reshaped)]
    module.load_state_dict({own[name][0]: stored[name] for name in taken}, strict=False)
    return LoadReport(
        taken=tuple(taken),
        missing=tuple(n for n in own if n not in stored),
        unexpected=tuple(n for n in stored if n not in own),
        reshaped=tuple(reshaped),
    )


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else f"a {type(value).__name__}"


def write_own(path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Path:
    """Write weights of our own making with what they are; `read_own` reads both."""
    # one entry: the library writes several in random order
    return write_safetensors(path, tensors, {"svcnb": json.dumps(about)})


def read_own(path: str | Path, *, kind: str, version: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of such a file, and what it says about them.

    Raises:
        CheckpointError: another kind of file, or another version.
    """
    tensors, metadata = read_safetensors(path)
    about = json.loads(metadata.get("svcnb", "{}"))
    if (about.get("kind"), about.get("version")) != (kind, version):
        raise CheckpointError(f"{path} is no {kind} file of version {version}. Get the bundled one again.")
    return tensors, about


def write_checkpoint(path: str | Path, contents: Mapping[str, Any]) -> Path:
    """Write a torch file; it appears whole or not at all."""
    with atomic_path(path) as temporary, watched_file(temporary) as file:
        torch.save(dict(contents), file)
    return Path(path)


def each_once(state: Mapping[str, Tensor], change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Every tensor changed; names that share one still do (shared flow layers are stored once)."""
    changed: dict[tuple, Tensor] = {}
    keys = {name: memory_key(value) for name, value in state.items()}
    for name, value in state.items():
        if keys[name] not in changed:
            changed[keys[name]] = change(value)
    return {name: changed[key] for name, key in keys.items()}


def memory_key(value: Tensor) -> tuple:
    return value.data_ptr(), value.shape, value.dtype


def mix_states(states: Mapping[str, Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """Weighted sum of every tensor of several models of one architecture, in the dtype of the first.

    Args:
        states: by the name that errors call them.
        weights: one for each; they are taken as they are.

    Raises:
        CheckpointError: a tensor that only some have, or of another shape; the differences are named.
    """
    (first_name, first), *others = ((name, to_plain_names(state)) for name, state in states.items())
    differences = [
        text for name, other in others for text in _state_differences(first_name, first, name, other)
    ]
    if differences:
        named = "; ".join(differences[:MOST_NAMED]) + ("; ..." if len(differences) > MOST_NAMED else "")
        raise CheckpointError(
            f"these models cannot be mixed, {len(differences)} differences: {named}. "
            "Take models of one architecture and one encoder, all whole or all released"
        )
    models = [first, *(other for _, other in others)]
    mixed: dict[tuple, Tensor] = {}
    keys = {name: tuple(memory_key(model[name]) for model in models) for name in first}
    for name, key in keys.items():
        if key not in mixed:
            parts = (weight * model[name].double() for weight, model in zip(weights, models, strict=True))
            mixed[key] = first[name] if BUFFER.search(name) else sum(parts).to(first[name].dtype)
    return {name: mixed[key] for name, key in keys.items()}


def _state_differences(
    name: str, one: Mapping[str, Any], other_name: str, other: Mapping[str, Any]
) -> list[str]:
    found = [f"{key} is in {name}, not in {other_name}" for key in one if key not in other]
    found += [f"{key} is in {other_name}, not in {name}" for key in other if key not in one]
    shared = [key for key in one if key in other and _shape(one[key]) != _shape(other[key])]
    return found + [
        f"{key} is {_shape(one[key])} in {name}, {_shape(other[key])} in {other_name}" for key in shared
    ]


def find_numbered(folder: str | Path, letter: str) -> dict[int, Path]:
    matches = ((STEP.match(path.name), path) for path in Path(folder).glob(f"{letter}_*.pth"))
    return {int(match["step"]): path for match, path in matches if match}


def newest_pair(folder: str | Path) -> tuple[Path, Path] | None:
    """G_n.pth and D_n.pth of the largest step n that has both; None where there is no such pair."""
    generators, discriminators = find_numbered(folder, "G"), find_numbered(folder, "D")
    steps = generators.keys() & discriminators.keys()
    return (generators[max(steps)], discriminators[max(steps)]) if steps else None
