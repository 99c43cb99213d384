"""Input of all content encoders (mono waveform at 16 kHz), and lazy imports of transformers."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from svcnb import MissingExtra
from svcnb.files.optional_imports import ensure_torchaudio

SAMPLE_RATE_HZ = 16000
HOP_SAMPLES = 320  # 20 ms: hop of all content encoders here


def as_waveform(samples: Tensor | np.ndarray, device: torch.device | str) -> Tensor:
    """float32 [T] on the device.

    Raises:
        ValueError: another shape, or no samples (the message gives the shape).
    """
    waveform = torch.as_tensor(samples, dtype=torch.float32, device=device)
    if waveform.ndim != 1 or not len(waveform):
        raise ValueError(f"samples have shape {tuple(waveform.shape)}, expected [T] with at least one sample")
    return waveform


def import_transformers() -> Any:
    """Import transformers, which imports an installed torchaudio even if it does not fit this torch.

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
    """Build a network with uninitialised weights, for strict loading right after.

    Random initialisation that is then overwritten takes seconds for the large encoders.
    """
    with torch.device("meta"):
        network = network_class(config)
    return network.to_empty(device="cpu")
