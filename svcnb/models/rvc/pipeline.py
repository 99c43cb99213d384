"""Steps of RVC's conversion: high-pass, smoothing of f0, content between the index and its own.

The original's order of these steps, and its cuts, are in the tests (parity_sets/rvc_original), for comparison.

Source: RVC 20240604, vc/pipeline.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from svcnb.audio.spectral import HIGH_PASS_HZ, HIGH_PASS_ORDER
from svcnb.models.rvc.network import RATE_HZ, coarse_f0

FILTER_WIDTH = 3  # of the median; the original's radius only switches it on
NO_PROTECTION = 0.5
Blend = Callable[[Tensor], Tensor]  # content [N50, D] -> the same shape, nearer to the voice


def without_rumble(samples_16k: np.ndarray) -> np.ndarray:
    """High-pass of order 5 at 48 Hz, forwards and backwards, so that nothing is delayed: float [T] -> float64 [T]."""
    from scipy.signal import butter, filtfilt

    taps = butter(HIGH_PASS_ORDER, HIGH_PASS_HZ, btype="high", fs=RATE_HZ)
    shortest = 3 * max(map(len, taps))
    padded = np.pad(np.asarray(samples_16k, np.float64), (0, max(0, shortest + 1 - len(samples_16k))))
    return filtfilt(*taps, padded)[: len(samples_16k)]


def smoothed(f0_hz: np.ndarray, method: str, filter_radius: int) -> np.ndarray:
    """A median over three frames, for harvest and a radius above 2."""
    if method != "harvest" or filter_radius <= 2:
        return f0_hz
    from scipy.signal import medfilt

    return medfilt(f0_hz, FILTER_WIDTH)


def guided_content(
    content: Tensor, f0_hz: np.ndarray | None, *, n_frames: int, blend: Blend | None, protect: float
) -> Tensor:
    """Content [N50, D] on the frame grid of f0, pulled towards the voice, but less so where there is no pitch.

    Returns:
        [min(n_frames, 2 * N50), D].
    """
    pulled = content if blend is None else blend(content)
    pulled = pulled.repeat_interleave(2, dim=0)[:n_frames]
    if blend is None or f0_hz is None or protect >= NO_PROTECTION:
        return pulled
    own = content.repeat_interleave(2, dim=0)[:n_frames]
    voiced = torch.from_numpy(f0_hz[: len(pulled)] >= 1).to(pulled.device)
    share = torch.where(voiced, 1.0, protect).unsqueeze(1).to(pulled.dtype)  # [N, 1]
    return share * pulled + (1 - share) * own


def network_inputs(content: Tensor, f0_hz: np.ndarray | None, device: torch.device) -> tuple[Tensor, ...]:
    """What `RvcSynthesizer.infer` takes first: content [1, N, D], coarse [1, N] and f0 [1, N], None without guidance."""
    if f0_hz is None:
        return content[None].to(device), None, None
    coarse = torch.from_numpy(coarse_f0(f0_hz))[None].to(device)
    return content[None].to(device), coarse, torch.from_numpy(f0_hz).float()[None].to(device)
