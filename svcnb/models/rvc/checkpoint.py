"""RVC's checkpoints: small models (as shared online), G_*.pth and D_*.pth of a training; read, write, merge.

Source: RVC 20240604 (keys, order, types); variants written by programs derived from RVC are read too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from svcnb import SvcError
from svcnb.files.checkpoint import mix_states, read_checkpoint, to_plain_names, write_checkpoint
from svcnb.models.rvc.config import Config, rate_of

SMALL_KEYS = ("weight", "config", "info", "sr", "f0", "version")
SPEAKERS = "emb_g.weight"  # [speakers, width]
UNUSED = "enc_q"  # the posterior encoder: needed in training only
N_SPEAKERS_INDEX = -3  # in the list of a small model
CONTENT = "enc_p.emb_phone.weight"
VERSION_OF_WIDTH = {256: "v1", 768: "v2"}


@dataclass(frozen=True)
class SmallModel:
    """The parts of a voice that conversion needs.

    Attributes:
        weights: plain names, without the posterior encoder; float16 in files.
        config: sizes, version, and whether there is pitch guidance.
        info: free text, such as "200epoch".
        extra: keys added by programs derived from RVC (author, embedder_model ...), kept unchanged.
    """

    weights: Mapping[str, Tensor]
    config: Config
    info: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, state: Mapping[str, Tensor], config: Config, *, info: str = "Extracted model.") -> SmallModel:
        """The small model of a whole state dict, parametrised names or plain ones."""
        return cls(
            {name: value for name, value in to_plain_names(state).items() if UNUSED not in name}, config, info
        )

    def __str__(self) -> str:
        guidance = "with" if self.config.f0 else "without"
        n_speakers = self.weights[SPEAKERS].shape[0]
        return (
            f"RVC {self.config.version}, {self.config.rate_name}, {guidance} pitch guidance, "
            f"{n_speakers} speakers: {self.info or 'no info'}"
        )


def is_small_model(stored: Mapping[str, Any]) -> bool:
    return isinstance(stored.get("weight"), Mapping) and "config" in stored


def read_small_model(path: Path | str) -> SmallModel:
    """Read a small model; no code in the file is run.

    A missing version is v1 (older files), unless the weights take 768 content values; sample rates may be
    numbers or "40k", f0 a number or a word; the number of speakers is taken from the weights.

    Raises:
        CheckpointError: missing, damaged, or a file that would run code.
        SvcError: another kind of file (the message names the kind).
    """
    stored = read_checkpoint(path)
    if not is_small_model(stored):
        hint = (
            "this is a training's G_*.pth: extract a small model from it"
            if "model" in stored
            else "another kind of file"
        )
        raise SvcError(
            f"{path} has the keys {sorted(map(str, stored))[:8]}, expected those of an RVC small model "
            f"({', '.join(SMALL_KEYS)}): {hint}"
        )
    weights = {name: value for name, value in to_plain_names(stored["weight"]).items() if UNUSED not in name}
    missing = [name for name in (SPEAKERS, CONTENT) if name not in weights]
    if missing:
        raise SvcError(f"{path} lacks {' and '.join(missing)}: not an RVC voice, or an incomplete file")
    listed = list(stored["config"])
    if len(listed) >= -N_SPEAKERS_INDEX:
        listed[N_SPEAKERS_INDEX] = weights[SPEAKERS].shape[0]
    rate_hz = rate_of(stored.get("sr") or listed[-1])
    if rate_of(listed[-1]) != rate_hz:
        raise SvcError(f"{path} has two sample rates, {stored['sr']} and {listed[-1]}: get the model again")
    version = stored.get("version") or VERSION_OF_WIDTH.get(weights[CONTENT].shape[1], "v1")
    config = Config.from_list(listed, version=version, f0=_as_flag(stored.get("f0", 1), path))
    extra = {name: value for name, value in stored.items() if name not in SMALL_KEYS}
    return SmallModel(weights, config, str(stored.get("info", "")), extra)


def _as_flag(value: Any, path: Path | str) -> bool:
    if isinstance(value, str):
        value = {"true": 1, "false": 0, "1": 1, "0": 0}.get(value.strip().lower(), value)
    if value not in (0, 1):
        raise SvcError(f"f0 is {value!r} in {path}, expected 0 or 1")
    return bool(value)


def write_small_model(path: Path | str, model: SmallModel) -> Path:
    """Write a file that RVC and programs derived from it read: its keys in its order, weights as float16."""
    weights = {name: value.detach().cpu().half() for name, value in model.weights.items()}
    listed = model.config.to_list()
    listed[N_SPEAKERS_INDEX] = weights[SPEAKERS].shape[0]
    contents = OrderedDict(
        weight=weights,
        config=listed,
        info=model.info,
        sr=model.config.rate_name,
        f0=int(model.config.f0),
        version=model.config.version,
    )
    return write_checkpoint(path, contents | model.extra)


def set_info(path: Path | str, info: str, *, target: Path | str | None = None) -> Path:
    """Change a small model's free text, in place or into another file."""
    return write_small_model(target or path, replace(read_small_model(path), info=info))


# ---------------------------------------------------------------- checkpoints of a training


@dataclass(frozen=True)
class RvcCheckpoint:
    """A G_*.pth or D_*.pth: `epoch` (key `iteration`) is the last complete one; the step is in the name."""

    model: dict[str, Tensor]
    epoch: int
    optimizer: dict[str, Any] | None
    learning_rate: float


def read_rvc_checkpoint(path: Path | str) -> RvcCheckpoint:
    """Read a G_*.pth or D_*.pth, or a pretrained f0G40k.pth and the like (`model` alone).

    Raises:
        SvcError: another kind of file.
    """
    stored = read_checkpoint(path)
    if not isinstance(stored.get("model"), Mapping):
        hint = (
            "this is a small model, which cannot be trained on"
            if is_small_model(stored)
            else "another kind of file"
        )
        raise SvcError(
            f"{path} has the keys {sorted(map(str, stored))[:8]}, expected 'model' as in RVC's G_*.pth: {hint}"
        )
    epoch, rate = int(stored.get("iteration") or 0), float(stored.get("learning_rate") or 0.0)
    return RvcCheckpoint(to_plain_names(stored["model"]), epoch, stored.get("optimizer"), rate)


def write_rvc_checkpoint(path: Path | str, checkpoint: RvcCheckpoint) -> Path:
    """Write a G_*.pth or D_*.pth as RVC does."""
    model = {name: value.detach().cpu() for name, value in to_plain_names(checkpoint.model).items()}
    contents = {
        "model": model,
        "iteration": checkpoint.epoch,
        "optimizer": checkpoint.optimizer,
        "learning_rate": checkpoint.learning_rate,
    }
    return write_checkpoint(path, contents)


def extract_small_model(
    checkpoint: Path | str, config: Config, target: Path | str, *, info: str = "Extracted model."
) -> Path:
    """The small model of a G_*.pth; `config` is the training's.

    Raises:
        SvcError: a config whose content width is not that of the weights.
    """
    state = read_rvc_checkpoint(checkpoint).model
    width = state[CONTENT].shape[1] if CONTENT in state else None
    if width != config.settings().content_width:
        wanted = config.settings().content_width
        raise SvcError(
            f"{checkpoint} takes {width} content values per frame, RVC {config.version} takes "
            f"{wanted}: give the version that it was trained as"
        )
    return write_small_model(target, SmallModel.of(state, config, info=info))


# ---------------------------------------------------------------- merging


def merge_small_models(one: SmallModel, other: SmallModel, ratio: float, *, info: str = "") -> SmallModel:
    """ratio * one + (1 - ratio) * other, computed in float64; only the first speakers if the numbers differ.

    Raises:
        SvcError: a ratio outside 0..1, or models of different kinds (the differences are named).
        CheckpointError: tensors that only one has, or of other shapes.
    """
    if not 0 <= ratio <= 1:
        raise SvcError(f"the ratio is {ratio}: expected 0 (only the second model) to 1 (only the first)")
    pairs = {
        "version": (one.config.version, other.config.version),
        "sample rate": (one.config.data.sampling_rate, other.config.data.sampling_rate),
        "pitch guidance": (one.config.f0, other.config.f0),
    }
    differences = [
        f"{name}: {first} and {second}" for name, (first, second) in pairs.items() if first != second
    ]
    if differences:
        raise SvcError(f"these models cannot be merged, they differ in {'; '.join(differences)}")
    n_speakers = min(model.weights[SPEAKERS].shape[0] for model in (one, other))
    states = {
        name: {key: value[:n_speakers] if key == SPEAKERS else value for key, value in model.weights.items()}
        for name, model in (("the first", one), ("the second", other))
    }
    config = one.config.model_copy(deep=True)
    config.model.spk_embed_dim = n_speakers
    return SmallModel(
        mix_states(states, [ratio, 1 - ratio]), config, info or f"{ratio:g} of {one.info}, rest {other.info}"
    )
