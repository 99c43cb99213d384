"""transformers' networks for the encoders: imported late, built without values, since a file fills them."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn

from svcnb import MissingExtra
from svcnb.torchaudio_parts import ensure_torchaudio


def import_transformers() -> Any:
    """transformers, which imports torchaudio where it is installed, whether it fits this torch or not.

    Raises:
        MissingExtra: transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra('this content encoder needs transformers: pip install "svcnb[content]"') from error
    if importlib.util.find_spec("torchaudio"):
        ensure_torchaudio()
    return transformers


def build_unfilled(network_class: type[nn.Module], config: Any) -> nn.Module:
    """A network whose values are whatever was in memory: for strict loading at once.

    Drawing random values that are then replaced takes seconds for the large encoders.
    """
    with torch.device("meta"):
        network = network_class(config)
    return network.to_empty(device="cpu")
