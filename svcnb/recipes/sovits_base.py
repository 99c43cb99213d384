"""Base models: what a new voice starts from, and how one that starts there is trained."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from svcnb import SvcError, checkpoint
from svcnb.disk import copy_file
from svcnb.recipes.sovits_config import Config
from svcnb.weights_table import BUNDLED_FOLDER

log = logging.getLogger(__name__)

BUNDLED_BASE = BUNDLED_FOLDER / "base_voice.safetensors"  # its config is in its metadata
AUTO_BASE, NO_BASE = "auto", "none"
KEPT_BASE = "base_voice.safetensors"  # in a voice's folder
# Tensors that a base model may have in another size: one row per speaker.
PER_SPEAKER = ("emb_g.",)
MAY_MISS = ("enc_q.", "f0_decoder.", "emb_vol.")
# Of small voices that start from the bundled base: learning rate, and part of the base's weights in what is saved.
FINE_TUNING_RATE, FINE_TUNING_SHARE = 5e-4, 0.15


def choose_base(base: Path | str | None, config: Config) -> Path | None:
    """The base to start from: as named; for "auto" the bundled one where the config is of its sizes; "none" is None."""
    if base in (None, NO_BASE):
        return None
    if base != AUTO_BASE:
        return Path(base)
    if not (config.is_small and BUNDLED_BASE.is_file()):
        return None
    return BUNDLED_BASE if _fits(config, bundled_config()) else None


def bundled_config() -> Config:
    """What the bundled base was trained with."""
    return Config.model_validate(read_about(BUNDLED_BASE)["config"])


def read_about(base: Path) -> dict[str, Any]:
    """What a base voice's file says about itself: its data, steps and minutes, and the config it was trained with."""
    return json.loads(checkpoint.read_safetensors(base)[1]["svcnb"])


def _fits(config: Config, base: Config) -> bool:
    model = config.model.model_copy(update={name: getattr(base.model, name) for name in ("n_speakers", "vol_embedding")})
    lengths = ("sampling_rate", "hop_length", "filter_length", "unit_interpolate_mode")
    return model == base.model and all(getattr(config.data, name) == getattr(base.data, name) for name in lengths)


def use_fine_tuning(config: Config, base: Path | None) -> None:
    """Train more carefully what starts from the bundled base, and draw it back. Other bases keep the config's own rate."""
    is_bundled = base == BUNDLED_BASE
    changes = {"learning_rate": FINE_TUNING_RATE, "base_share": FINE_TUNING_SHARE} if is_bundled else {"base_share": 0.0}
    config.train = config.train.model_copy(update=changes)


def keep_base(base: Path | None, voice_folder: Path, config: Config) -> None:
    """A copy in the voice's folder, where the training will need it again."""
    kept = voice_folder / KEPT_BASE
    if base is not None and config.train.base_share > 0 and base != kept:
        copy_file(base, kept)


def kept_base(voice_folder: Path, config: Config) -> Path | None:
    """The base that a run is drawn back to, None where it is not.

    Raises:
        SvcError: it was removed.
    """
    if config.train.base_share == 0:
        return None
    path = voice_folder / KEPT_BASE
    if not path.is_file():
        raise SvcError(f"{path} is not there any more, and training goes on only with it: put the base voice that "
                       "this voice started from back there, or train into another folder")  # fmt: skip
    return path


def start_from(base: Path, generator: nn.Module, discriminator: nn.Module | None) -> None:
    """Warm start from base weights. Where the base has other speakers, each new one starts as their mean.

    Args:
        base: a G_*.pth or .safetensors, or a folder with G_*.pth and D_*.pth.

    Raises:
        SvcError: no base there, or weights of another architecture (every difference named).
    """
    pair = checkpoint.newest_pair(base) if base.is_dir() else None
    if base.is_dir() and pair is None:
        raise SvcError(f"no G_*.pth with its D_*.pth in {base}: put G_0.pth and D_0.pth of the base model there")
    generator_path, discriminator_path = pair or (base, None)
    stored = _read(generator_path)
    report = checkpoint.load_weights(generator, stored, may_miss=MAY_MISS, may_skip=PER_SPEAKER)
    log.info("started from %s: %s", generator_path.name, report)
    if "emb_g.weight" in report.reshaped:
        with torch.no_grad():
            generator.emb_g.weight.copy_(stored["emb_g.weight"].float().mean(0, keepdim=True).expand_as(generator.emb_g.weight))
    if discriminator is not None and discriminator_path is not None:
        checkpoint.load_weights(discriminator, checkpoint.read_sovits_checkpoint(discriminator_path).model)


class DrawnBack:
    """The weights of a generator in training, part of the way back to where it started.

    Minutes of one person's recordings take a voice further from what all people have in common than its likeness needs:
    with some of the base's weights in it, strangers' words come out better. Training goes on with its own weights.

    Args:
        share: of the start's weights in the mean; tables with a row per speaker stay as they are.

    Source: WiSE-FT (Wortsman et al. 2022).
    """

    def __init__(self, generator: nn.Module, share: float) -> None:
        self.share = share
        self.start = {
            name: value.detach().clone() for name, value in generator.named_parameters() if not name.startswith(PER_SPEAKER)
        }

    @contextmanager
    def applied(self, generator: nn.Module) -> Iterator[dict[str, Tensor]]:
        """Inside the block the generator has the mean, afterwards its own weights again, which the block is given."""
        moved = {name: value for name, value in generator.named_parameters() if name in self.start}
        own = {name: value.detach().clone() for name, value in moved.items()}
        try:
            with torch.no_grad():
                for name, value in moved.items():
                    value.lerp_(self.start[name], self.share)
            yield own
        finally:
            give_back(generator, own)


def give_back(generator: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Set parameters by name."""
    parameters = dict(generator.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return checkpoint.read_safetensors(path)[0]
    return checkpoint.read_sovits_checkpoint(path).model
