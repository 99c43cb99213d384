"""Table of content encoders, loading by name, and alignment of content to the acoustic frame grid.

Content encoders give linguistic content at 50 frames per second with little speaker information. A new
encoder is a new row of the table, and a `load` function if its network is new; the modules beside this one
read third-party files without the programs that made them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svcnb import SvcError
from svcnb.features.content.bundled import LearnedUnits, load_network
from svcnb.features.content.dphubert import load_dphubert
from svcnb.features.content.hubert import load_hubert, load_wavlm
from svcnb.features.content.onnx import load_onnx
from svcnb.features.content.whisper import load_whisper
from svcnb.files.downloads import find_weights, has_weights

EXPAND_MODES = ("left", "nearest", "linear", "twice")


class ContentError(SvcError):
    """An encoder that is unknown, missing, or does not fit the model."""


class ContentEncoder(Protocol):
    """Interface of all encoders; samples are mono at 16 kHz."""

    name: str
    width: int
    hop_samples: int
    network: nn.Module

    def encode(self, samples: Tensor | np.ndarray) -> Tensor:
        """float32 [N, D] of samples [T], on the encoder's device."""

    def for_recording(self, *clips: Tensor | np.ndarray) -> ContentEncoder:
        """The encoder with the statistics of one speaker's recordings; itself if it needs none."""


def align_to_frames(features: Tensor, n_frames: int, *, mode: str = "nearest") -> Tensor:
    """Stretch content features to the acoustic frame grid.

    Args:
        features: float32 [D, N_in], usually 50 frames per second.
        n_frames: output length, at least 1; normally T // hop_samples.
        mode: "nearest" repeats frames; "left" likewise, but if the input is longer it keeps the first frames
            instead of skipping some; "linear" interpolates; "twice" repeats every frame twice and then the
            last one (RVC). Use the mode that the checkpoint was trained with.

    Returns:
        float32 [D, n_frames], same device.

    Raises:
        ValueError: empty features, n_frames < 1 (the message gives both numbers), or an unknown mode.

    Source: so-vits-svc 4.1, config key data.unit_interpolate_mode.
    """
    if mode not in EXPAND_MODES:
        raise ValueError(f"unit_interpolate_mode is {mode!r}, expected one of {', '.join(EXPAND_MODES)}")
    if features.ndim != 2 or not features.shape[1] or n_frames < 1:
        shape = tuple(features.shape)
        raise ValueError(f"cannot stretch features of shape {shape} to {n_frames} frames, need at least 1")
    if mode == "linear":
        return F.interpolate(features[None], size=n_frames, mode="linear")[0]
    n_in = features.shape[1]
    if mode == "twice":
        return features[:, (torch.arange(n_frames, device=features.device) // 2).clamp(max=n_in - 1)]
    if mode == "left" and n_in > n_frames:
        return features[:, :n_frames]
    # integers: the original's float comparisons for "left" differ from this in ties only
    return features[:, torch.arange(n_frames, device=features.device) * n_in // n_frames]


# The table -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncoderRow:
    """One encoder.

    width: of the published file; it identifies the encoder of a config without a name.
    load: called as load(path, name=...); reads the sizes from the file itself.
    """

    name: str
    weights: str  # name in downloads.WEIGHTS
    width: int
    load: Callable[..., ContentEncoder]
    note: str


def _load_learned_units(path: Path, *, name: str) -> LearnedUnits:
    return LearnedUnits(load_network(path))


# n_layers: number of transformer layers to run; all if absent.
_vec256l9 = partial(load_hubert, n_layers=9, projected=True)
# 40 samples = (400 - 320) / 2: as many frames as hops
_hubert_soft = partial(load_hubert, n_layers=12, projected=True, padding_samples=40)
# If a config has no name, the first row of its width is used.
ENCODERS: dict[str, EncoderRow] = {
    row.name: row
    for row in (
        EncoderRow(
            "vec768l12",
            "contentvec",
            768,
            partial(load_hubert, n_layers=12),
            "ContentVec; the default of so-vits-svc 4.1, and RVC v2's",
        ),
        EncoderRow("vec256l9", "contentvec", 256, _vec256l9, "ContentVec; so-vits-svc 4.0 and RVC v1"),
        EncoderRow("hubertsoft", "hubert-soft", 256, _hubert_soft, "soft speech units"),
        EncoderRow(
            "whisper-ppg", "whisper-medium", 1024, load_whisper, "Whisper medium: many languages, slow"
        ),
        EncoderRow(
            "whisper-ppg-large", "whisper-large", 1280, load_whisper, "Whisper large-v2: slower still"
        ),
        EncoderRow(
            "whisper-ppg-small",
            "whisper-small",
            768,
            load_whisper,
            "Whisper small; not in so-vits-svc's list",
        ),
        EncoderRow("cnhubertlarge", "chinese-hubert-large", 1024, load_hubert, "HuBERT large for Chinese"),
        EncoderRow("dphubert", "dphubert", 768, load_dphubert, "DPHuBERT: a quarter of HuBERT base, quick"),
        EncoderRow("wavlmbase+", "wavlm-base-plus", 768, load_wavlm, "WavLM Base+; more speaker leakage"),
        EncoderRow("vec256l9-onnx", "vec256l9-onnx", 256, load_onnx, "ContentVec as an ONNX file"),
        EncoderRow("vec256l12-onnx", "vec256l12-onnx", 256, load_onnx, "ContentVec as an ONNX file"),
        EncoderRow("vec768l9-onnx", "vec768l9-onnx", 768, load_onnx, "ContentVec as an ONNX file"),
        EncoderRow("vec768l12-onnx", "vec768l12-onnx", 768, load_onnx, "ContentVec as an ONNX file"),
        EncoderRow("hubertsoft-onnx", "hubertsoft-onnx", 256, load_onnx, "soft speech units as an ONNX file"),
        EncoderRow(
            "svcnb-units",
            "svcnb-units",
            96,
            _load_learned_units,
            "bundled and learned (from English), needs no download",
        ),
    )
}

REMOVED_ENCODERS = ("soft-units",)  # cepstral; svcnb-units was better in every measurement


def load_encoder(
    name: str = "auto",
    *,
    folder: str | Path = Path("pretrain"),
    device: str | torch.device = "cpu",
    width: int | None = None,
) -> ContentEncoder:
    """Load an encoder with its weights from `folder`; "auto" is the best one available.

    Args:
        width: content width that the model needs; None accepts any, with a warning if it is not the published
            file's.

    Raises:
        ContentError: unknown name, or another width. SvcError: weights missing (the message names the file)
            or unusable.
    """
    row = ENCODERS[resolve_encoder(name, folder)]
    path = find_weights(row.weights, folder)
    encoder = row.load(path, name=row.name)
    if width is not None and encoder.width != width:
        found = f"{path} gives {encoder.width}"
        raise ContentError(f"the model needs {width} values per frame, {found}: is it {row.name}'s own file?")
    if encoder.width not in (row.width, width):
        found = f"{path} gives {encoder.width} values per frame, {row.name} has {row.width}"
        warnings.warn(
            f"{found}: is it another model's file? A model trained with it cannot be loaded", stacklevel=2
        )
    encoder.network.to(device)
    return encoder


def resolve_encoder(name: str, folder: str | Path = Path("pretrain")) -> str:
    """Resolve an encoder name; "auto" is vec768l12 if its file is in `folder`, else svcnb-units."""
    if name == "auto":
        return "vec768l12" if has_weights("contentvec", folder) else "svcnb-units"
    refuse_removed(name, "this choice")
    if name not in ENCODERS:
        raise ContentError(
            f"speech encoder {name!r} is not known, expected auto or one of {', '.join(ENCODERS)}."
        )
    return name


def refuse_removed(name: str, what: str) -> None:
    """Raise ContentError where `what` (a voice, features) needs an encoder that svcnb no longer has."""
    if name in REMOVED_ENCODERS:
        raise ContentError(
            f"{what} needs the content encoder {name}, which is no longer part of svcnb: extract the "
            "features again with svcnb-units (or auto) and --overwrite, and train on them"
        )


def encoder_for_width(ssl_dim: int, speech_encoder: str | None = None) -> str:
    """The encoder of a model: from its config or, if not named there (4.0), from the content width.

    256 without a name means vec256l9, the only encoder of so-vits-svc 4.0.
    """
    fitting = [row.name for row in ENCODERS.values() if row.width == ssl_dim]
    if speech_encoder is None and fitting:
        return fitting[0]
    if speech_encoder is not None:
        refuse_removed(speech_encoder, "this voice")
    if speech_encoder is None:
        widths = sorted({row.width for row in ENCODERS.values()})
        raise ContentError(
            f"ssl_dim is {ssl_dim}, expected one of {widths}: no known encoder gives that width."
        )
    name = resolve_encoder(speech_encoder)
    if name not in fitting:
        raise ContentError(
            f"the config names {name} ({ENCODERS[name].width} values per frame) but ssl_dim is {ssl_dim}. "
            f"Set speech_encoder to {' or '.join(fitting) or 'the encoder it was trained with'}."
        )
    return name
