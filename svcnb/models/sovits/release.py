"""Mix several trained voices into one by averaging weights, and compress a voice to a release file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from svcnb import SvcError
from svcnb.data.extractor import MEDIAN_F0_FILE
from svcnb.features.content.encoders import encoder_for_width
from svcnb.files.checkpoint import mix_states, read_checkpoint, write_checkpoint
from svcnb.files.disk import write_text
from svcnb.models.sovits.checkpoint import (
    describe_sovits,
    read_sovits_checkpoint,
    save_sovits_checkpoint,
    slim_sovits,
)
from svcnb.models.sovits.config import Config
from svcnb.models.sovits.files import find_voice

MIX_MODES = ("convex", "linear")
# Keys of a config in which mixed voices may differ: they do not change what the weights compute.
UNIMPORTANT_KEYS = {
    "training_files", "validation_files", "max_wav_value", "unit_interpolate_mode",
    "p_dropout", "n_layers_q", "use_spectral_norm", "speaker_embedding",
}  # fmt: skip
RELEASE_LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class MixReport:
    """A mixed voice: its checkpoint, what was mixed with which weight, and the first one's speakers, which it keeps."""

    path: Path
    weights: dict[Path, float]
    speakers: tuple[str, ...]

    def __str__(self) -> str:
        parts = " + ".join(
            f"{weight:.3f} x {path.parent.name}/{path.name}" for path, weight in self.weights.items()
        )
        return f"{self.path} = {parts}; speakers: {', '.join(self.speakers)}"


@dataclass(frozen=True)
class ReleaseReport:
    """A release file and the one it was made from, with their sizes."""

    path: Path
    source: Path
    n_bytes: int
    n_bytes_before: int

    def __str__(self) -> str:
        percent = 100 * self.n_bytes / self.n_bytes_before
        before = f"{self.n_bytes_before / 1e6:.1f} MB"
        return f"{self.path}: {self.n_bytes / 1e6:.1f} MB, {percent:.0f} % of {before}"


def mixing_weights(rates: Sequence[float], mode: str = "convex") -> list[float]:
    """The factor of each model in a mix.

    Args:
        rates: one per model; 100 is a factor of 1.
        mode: "convex" takes the softmax of rates / 100: it sums to 1, and every factor is above 0;
            "linear" takes rates / 100 unchanged.

    Source: so-vits-svc 4.1, mix_model.
    """
    if mode not in MIX_MODES:
        raise SvcError(f"mode {mode!r}: choose {' or '.join(MIX_MODES)}")
    factors = [rate / 100 for rate in rates]
    if not all(map(math.isfinite, factors)):
        raise SvcError(f"rates {list(rates)}: expected numbers, 100 is a factor of 1")
    if mode == "linear":
        return factors
    powers = [math.exp(factor - max(factors)) for factor in factors]
    return [power / sum(powers) for power in powers]


def mix_voices(
    sources: Sequence[Path | str],
    output: Path | str,
    *,
    rates: Sequence[float] | None = None,
    mode: str = "convex",
) -> MixReport:
    """Weighted sum of the weights of several voices, as one voice.

    It works for voices trained from the same base model, or checkpoints of one training; others give noise.

    Args:
        sources: folders of voices or their G_*.pth, two or more.
        output: a .pth file, or a folder, which gets G_<step of the first>.pth; config.json is written beside it.
        rates: one per source, see `mixing_weights`; None takes equal ones.
        mode: "convex" or "linear".

    Raises:
        SvcError: fewer than two sources, configs or tensors that differ (all named), another voice in `output`.
    """
    found = [find_voice(Path(source)) for source in sources]
    if len({files.weights.resolve() for files in found}) < 2:
        raise SvcError(
            "mixing needs two different checkpoints or more: name folders of voices, or their G_*.pth"
        )
    rates = [100 / len(found)] * len(found) if rates is None else list(rates)
    if len(rates) != len(found):
        raise SvcError(f"{len(rates)} rates for {len(found)} checkpoints: give one for each")
    weights = mixing_weights(rates, mode)
    configs = {files.weights: Config.load(files.config, strict=False) for files in found}
    _refuse_unlike_configs(configs)
    (first, config), target = next(iter(configs.items())), Path(output)
    target = target if target.suffix == ".pth" else target / first.name
    _refuse_target(target, config, list(configs))
    states = {str(path): read_sovits_checkpoint(path).model for path in configs}
    for state in states.values():
        describe_sovits(state)
    mixed = mix_states(states, weights)
    write_checkpoint(target, read_checkpoint(first) | {"model": mixed})
    config.save(target.parent / "config.json")
    return MixReport(target, dict(zip(configs, weights, strict=True)), tuple(config.spk))


def compress_voice(
    source: Path | str, output: Path | str | None = None, *, half: bool = False
) -> ReleaseReport:
    """Write a release file with the weights for conversion only: a third of the size, with `half` a sixth.

    It converts exactly as before (with `half` up to rounding), here and in so-vits-svc; it cannot be trained.

    Args:
        source: folder of a voice, or its G_*.pth.
        output: the new file; None takes <source>_release.pth or <source>_release_half.pth. In another folder the
            config.json is copied beside it.
        half: store weights as float16.

    Source: so-vits-svc 4.1, compress_model.py.
    """
    files = find_voice(Path(source))
    path, config_path = files.weights, files.config
    target = Path(output) if output else path.with_name(f"{path.stem}_release{'_half' if half else ''}.pth")
    if target.suffix != ".pth":
        target = target / path.name
    if target.resolve() == path.resolve():
        raise SvcError(f"{path} would be overwritten: give another name, training needs the whole file")
    _refuse_target(target, Config.load(config_path, strict=False), [path])
    whole = read_sovits_checkpoint(path).model
    describe_sovits(whole)
    save_sovits_checkpoint(
        target,
        model_state=slim_sovits(whole, half=half),
        iteration=0,
        learning_rate=RELEASE_LEARNING_RATE,
        whole_state=whole,
    )
    for beside in (config_path, path.parent / MEDIAN_F0_FILE):
        if beside.is_file() and not (target.parent / beside.name).exists():
            write_text(target.parent / beside.name, beside.read_text(encoding="utf-8"))
    return ReleaseReport(target, path, target.stat().st_size, path.stat().st_size)


def _refuse_unlike_configs(configs: dict[Path, Config]) -> None:
    (first, reference), *others = configs.items()
    compared = _compared(reference)
    differences = [
        f"{section}.{key} is {value!r} for {first}, {other_values[key]!r} for {path}"
        for path, other in others
        for section, values, other_values in zip(("data", "model"), compared, _compared(other), strict=True)
        for key, value in values.items()
        if value != other_values[key]
    ]
    if differences:
        raise SvcError(
            f"these voices cannot be mixed: {'; '.join(differences)}. "
            "Take voices with one configuration, content encoder and number of speakers"
        )


def _compared(config: Config) -> tuple[dict, dict]:
    """The data and model sections without the unimportant keys, and with the encoder's name filled in."""
    model = config.model.model_dump()
    model["speech_encoder"] = encoder_for_width(config.model.ssl_dim, config.model.speech_encoder)
    sections = (config.data.model_dump(), model)
    return tuple(
        {key: value for key, value in part.items() if key not in UNIMPORTANT_KEYS} for part in sections
    )


def _refuse_target(target: Path, config: Config, sources: Sequence[Path]) -> None:
    """Raise a SvcError if the target is one of the sources, or its folder has a config.json that differs."""
    if target.resolve() in [path.resolve() for path in sources]:
        raise SvcError(f"{target} is one of the files to be mixed: choose another name or folder")
    there = target.parent / "config.json"
    if there.is_file() and Config.load(there, strict=False) != config:
        raise SvcError(
            f"{target.parent} holds another voice (its config.json differs): choose an empty folder"
        )
