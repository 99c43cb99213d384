"""Find and read vocoder files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from svcnb import SvcError
from svcnb.files.archives import list_archive, unpack
from svcnb.files.checkpoint import load_weights, read_checkpoint
from svcnb.models.vocoder.network import CONFIG_NAME, MODEL_NAMES, Vocoder, VocoderError, VocoderSettings
from svcnb.nn.layers import fold_weight_norm

VOICE_SUBFOLDER, PRETRAIN_SUBFOLDER = "vocoder", "nsf_hifigan"
RELEASED_ZIPS = "nsf_hifigan_*.zip"
MAX_UNPACKED_BYTES = 2_000_000_000  # the published vocoder has 57 MB


# ---------------------------------------------------------------- files


def find_vocoder(
    named: Path | str | None = None,
    *,
    voice_folder: Path | None = None,
    pretrain_folder: Path | str = Path("pretrain"),
) -> Path:
    """Path of the vocoder that a voice uses: the first of

    1. `named`: its folder, the `model` file in it, or a released zip;
    2. the folder `vocoder` beside the voice's checkpoint;
    3. the folder `nsf_hifigan` in `pretrain_folder`;
    4. the newest nsf_hifigan_*.zip there.

    Raises:
        VocoderError: there is none; the message names the files to add and how to train a small vocoder.
    """
    if named is not None:
        if not Path(named).exists():
            raise VocoderError(
                f"{named}: no such vocoder; expected a folder with model and config.json, or a released zip"
            )
        return Path(named)
    pretrain = Path(pretrain_folder)
    folders = [pretrain / PRETRAIN_SUBFOLDER]
    if voice_folder is not None:
        folders.insert(0, voice_folder / VOICE_SUBFOLDER)
    for folder in folders:
        if any((folder / name).is_file() for name in MODEL_NAMES):
            return folder
    if zips := sorted(pretrain.glob(RELEASED_ZIPS)):
        return zips[-1]
    raise VocoderError(
        f"there is no vocoder in {' or '.join(map(str, folders))}. Put nsf_hifigan_20221211.zip "
        f"(openvpi/vocoders on GitHub, release nsf-hifigan-v1) into {pretrain}, or its two files into "
        f"{folders[-1]} as model and config.json; or train a small one: svcnb vocoder CLIPS {folders[0]}"
    )


def load_vocoder(path: Path | str, *, device: str | torch.device = "cpu") -> Vocoder:
    """Load a vocoder from a folder, from the `model` file in it, or from a released zip; ready for inference.

    Raises:
        VocoderError: a file is missing, or is another kind of file.
        CheckpointError: the weights do not fit the config, or the file would run code.
    """
    with _folder_of(Path(path)) as (model_path, config_path):
        vocoder = Vocoder(VocoderSettings.from_config(_read_config(config_path)))
        load_weights(vocoder.generator, _read_weights(model_path, path))
    fold_weight_norm(vocoder.generator)
    return vocoder.eval().to(device)


def load_generator(generator: nn.Module, path: Path) -> None:
    """Load a vocoder's weights (folder, `model` file or zip) into a generator to be fine-tuned; strict."""
    with _folder_of(path) as (model_path, _):
        load_weights(generator, _read_weights(model_path, path))


def _read_weights(model_path: Path, named: Path | str) -> dict[str, Tensor]:
    stored = read_checkpoint(model_path)
    if not isinstance(stored.get("generator"), dict):
        keys = sorted(map(str, stored))[:8]
        raise VocoderError(
            f"{named} has the keys {keys}, expected 'generator' as in the model of an NSF-HiFiGAN"
        )
    return stored["generator"]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise VocoderError(
            f"{path} is not a JSON config ({error}): use the config.json of the vocoder's download"
        ) from None
    if not isinstance(config, dict):
        raise VocoderError(f"{path} holds a {type(config).__name__}, expected the vocoder's settings by name")
    return config


@contextmanager
def _folder_of(path: Path) -> Iterator[tuple[Path, Path]]:
    """Paths of weights and config while they are read; those in a zip are unpacked to a temporary folder."""
    if path.is_file() and path.suffix.lower() == ".zip":
        with tempfile.TemporaryDirectory() as folder:
            try:
                yield _copy_from_zip(path, Path(folder))
            except SvcError as error:  # name the user's file, not the temporary one
                raise type(error)(str(error).replace(folder, str(path))) from error
        return
    folder = path.parent if path.is_file() else path
    models = (
        [path] if path.is_file() else [folder / name for name in MODEL_NAMES if (folder / name).is_file()]
    )
    missing = [
        *([] if models else [MODEL_NAMES[0]]),
        *([] if (folder / CONFIG_NAME).is_file() else [CONFIG_NAME]),
    ]
    if missing:
        absent = " and ".join(str(folder / name) for name in missing)
        raise VocoderError(f"{absent}: no such file. The vocoder's folder holds 'model' and 'config.json'.")
    yield models[0], folder / CONFIG_NAME


def _copy_from_zip(path: Path, folder: Path) -> tuple[Path, Path]:
    """Unpack weights and config of a released zip, from any folder in it, into `folder`; skip other files."""
    members = list_archive(path)
    found = []
    for member, name in members.items():
        config = members.get(member.with_name(CONFIG_NAME))
        if member.name in MODEL_NAMES and config is not None:
            found.append((name, config))
    if len(found) != 1:
        raise VocoderError(
            f"{path} holds {len(found)} vocoders (model with config.json beside it), expected one: "
            "unpack the one you want and name its folder"
        )
    targets = folder / MODEL_NAMES[0], folder / CONFIG_NAME
    unpack(path, dict(zip(found[0], targets, strict=True)), max_bytes=MAX_UNPACKED_BYTES)
    return targets
