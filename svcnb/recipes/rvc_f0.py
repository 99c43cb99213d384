"""RVC's melody: f0 of 16 kHz clips on a 10 ms grid, and the coarse bins that its text encoder embeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from svcnb.pitch import METHODS, SHORTEST_INPUT_S, PitchEstimator
from svcnb.predictors import FrameGrid, PitchError, PitchSettings, WorldPredictor

RATE_HZ, HOP_SAMPLES = 16000, 160
F0_MIN_HZ, F0_MAX_HZ = 50.0, 1100.0
N_BINS = 256  # rows of the embedding; bin 0 is never produced
THRESHOLDS = {"rmvpe": 0.03}  # RVC's own, where they differ from ours
WORLD_METHODS = ("dio", "harvest")


class RvcPitch:
    """Estimates f0 as RVC 20240604 does.

    Args:
        method: pm, harvest, dio, rmvpe, crepe or fcpe.
        pretrain_folder: where rmvpe.pt is looked for.

    Source: RVC 20240604, step 2b. WORLD is not rounded to 0.1 Hz and not resampled, as so-vits-svc does.
    """

    def __init__(self, method: str = "harvest", *, device: str = "cpu", pretrain_folder: Path = Path("pretrain")) -> None:
        if method not in METHODS:
            raise PitchError(f"f0 method {method!r} is unknown: choose one of {', '.join(METHODS)}")
        settings = PitchSettings(
            f0_min_hz=F0_MIN_HZ, f0_max_hz=F0_MAX_HZ, threshold=THRESHOLDS.get(method), pretrain_folder=pretrain_folder
        )
        self.method = method
        if method in WORLD_METHODS:
            self.world = WorldPredictor(method, FrameGrid(RATE_HZ, HOP_SAMPLES), settings, one_decimal=False)
        else:
            self.estimator = PitchEstimator(
                method, sample_rate_hz=RATE_HZ, hop_samples=HOP_SAMPLES, settings=settings, device=device
            )

    def n_frames(self, n_samples: int) -> int:
        """Frames of a clip: n // 160 for pm, one more for the others."""
        return n_samples // HOP_SAMPLES + (self.method != "pm")

    def __call__(self, samples_16k: np.ndarray) -> np.ndarray:
        """float [T] at 16 kHz -> float64 Hz [N], 0 where unvoiced."""
        samples = np.asarray(samples_16k, np.float32)
        n_frames = self.n_frames(len(samples))
        if self.method not in WORLD_METHODS:
            return self.estimator(samples, n_frames=n_frames).f0_hz.astype(np.float64)
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise PitchError(f"f0 needs finite mono samples [T], got shape {samples.shape} or NaN: check the recording")
        missing = max(0, round(SHORTEST_INPUT_S * RATE_HZ) - len(samples))
        return self.world.raw(np.pad(samples, (0, missing)))[:n_frames]


def coarse_f0(f0_hz: np.ndarray) -> np.ndarray:
    """Bins 1..255 of f0 on a mel scale from 50 to 1100 Hz; unvoiced (0 Hz) and everything below 50 Hz is bin 1.

    Args:
        f0_hz: float, any shape.

    Returns:
        int64, same shape.

    Source: RVC, all versions. so-vits-svc's bins (`svcnb.pitch.f0_to_coarse`) agree below 1100 Hz only.
    """
    lowest, highest = (1127 * np.log1p(hz / 700) for hz in (F0_MIN_HZ, F0_MAX_HZ))
    mel = 1127 * np.log(1 + np.asarray(f0_hz, np.float64) / 700)
    scaled = np.where(mel > 0, (mel - lowest) * (N_BINS - 2) / (highest - lowest) + 1, mel)
    return np.rint(np.clip(scaled, 1, N_BINS - 1)).astype(np.int64)
