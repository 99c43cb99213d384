"""What every content encoder is fed: one mono waveform at 16 kHz."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SAMPLE_RATE_HZ = 16000
HOP_SAMPLES = 320  # 20 ms: the grid of every speech encoder here


def as_waveform(samples: Tensor | np.ndarray, device: torch.device | str) -> Tensor:
    """float32 [T] on the device.

    Raises:
        ValueError: another shape, or no sample at all (the message gives the shape).
    """
    waveform = torch.as_tensor(samples, dtype=torch.float32, device=device)
    if waveform.ndim != 1 or not len(waveform):
        raise ValueError(f"samples have shape {tuple(waveform.shape)}, expected [T] with at least one sample")
    return waveform
