"""Signal-processing f0 predictors: dio and harvest (WORLD), pm (Praat); and what all predictors share.

A predictor estimates f0 on the model's frame grid: frame n is at time n * hop_samples / sample_rate_hz, 0 Hz
means unvoiced. Neural predictors are in neural.py; `PitchEstimator` in estimator.py selects one by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from svcnb import SvcError
from svcnb.files.optional_imports import import_optional

DEFAULT_THRESHOLD = 0.05
MAX_F0_HZ = 4000.0  # far above any voice; detects a sample rate or a period passed as f0
PRAAT_VOICING_THRESHOLD = 0.6  # the originals' value; Praat's own is 0.45


class PitchError(SvcError):
    """An f0 method, setting, weight file or f0 table that cannot be used."""


@dataclass(frozen=True)
class PitchSettings:
    """Settings of all f0 predictors.

    Args:
        f0_min_hz, f0_max_hz: search range; values of neural predictors outside it become unvoiced.
        threshold: confidence in 0..1 up to which a frame is unvoiced, for crepe, rmvpe and fcpe (None:
            0.05). Higher values drop breath and creaky voice, lower values keep soft note endings; below 0.02
            fcpe classifies white noise as voiced.
        pretrain_folder: folder of rmvpe.pt.
    """

    f0_min_hz: float = 50.0
    f0_max_hz: float = 1100.0
    threshold: float | None = DEFAULT_THRESHOLD
    pretrain_folder: Path = Path("pretrain")

    def __post_init__(self) -> None:
        if self.threshold is None:
            object.__setattr__(self, "threshold", DEFAULT_THRESHOLD)
        if not 0 < self.f0_min_hz < self.f0_max_hz <= MAX_F0_HZ:
            raise PitchError(
                f"f0 range {self.f0_min_hz:g}-{self.f0_max_hz:g} Hz: expected 0 < f0_min < f0_max <= {MAX_F0_HZ:g}"
            )
        if not 0 <= self.threshold < 1:
            raise PitchError(
                f"f0 threshold {self.threshold:g}: expected a confidence from 0 up to (not including) 1"
            )


@dataclass(frozen=True)
class FrameGrid:
    """Frames of `hop_samples` at `sample_rate_hz`, the first one at time 0."""

    sample_rate_hz: int
    hop_samples: int

    def __post_init__(self) -> None:
        if self.sample_rate_hz < 1 or self.hop_samples < 1:
            raise PitchError(
                f"rate {self.sample_rate_hz} Hz, hop {self.hop_samples} samples: both must be positive"
            )

    @property
    def hop_s(self) -> float:
        return self.hop_samples / self.sample_rate_hz

    def n_frames(self, n_samples: int) -> int:
        return n_samples // self.hop_samples


class Predictor(Protocol):
    """float32 samples [T] and the number of frames -> float64 f0 in Hz [N], 0 where unvoiced."""

    def __call__(self, samples: np.ndarray, n_frames: int) -> np.ndarray: ...


# ---------------------------------------------------------------- frame grids


def stretch_f0(f0_hz: np.ndarray, n_frames: int) -> np.ndarray:
    """f0 resampled to `n_frames`: linear interpolation at n * N / n_frames; unvoiced stays unvoiced.

    Between a voiced and an unvoiced frame the result is unvoiced.

    Source: so-vits-svc 4.x, resize_f0 of the dio and harvest predictors.
    """
    f0_hz = np.asarray(f0_hz, np.float64)
    if len(f0_hz) == 0 or n_frames == 0:
        return np.zeros(n_frames)
    gaps_as_nan = np.where(f0_hz < 0.001, np.nan, f0_hz)
    positions = np.arange(n_frames) * len(f0_hz) / n_frames
    return np.nan_to_num(np.interp(positions, np.arange(len(f0_hz)), gaps_as_nan))


def sample_f0(times_s: np.ndarray, f0_hz: np.ndarray, wanted_s: np.ndarray) -> np.ndarray:
    """f0 at other times: linear in log f0 between voiced neighbours, else the nearest frame's value.

    There is no interpolation between neighbours that differ by more than four semitones (octave jump, new
    note). A time further than one source step from every source frame is unvoiced.

    Args:
        times_s: ascending, [N].
        f0_hz: [N], 0 = unvoiced.
        wanted_s: [M], seconds.

    Returns:
        float64 [M].
    """
    f0_hz, times_s = np.asarray(f0_hz, np.float64), np.asarray(times_s, np.float64)
    wanted_s = np.asarray(wanted_s, np.float64)
    if len(f0_hz) == 0:
        return np.zeros(len(wanted_s))
    step_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
    right = np.clip(np.searchsorted(times_s, wanted_s, side="right"), 1, max(1, len(times_s) - 1))
    right = np.minimum(right, len(times_s) - 1)
    left = np.maximum(right - 1, 0)
    gap_s = times_s[right] - times_s[left]
    fraction = np.clip((wanted_s - times_s[left]) / np.where(gap_s > 0, gap_s, 1.0), 0.0, 1.0)
    nearest = np.where(fraction < 0.5, left, right)
    both_voiced = (f0_hz[left] > 0) & (f0_hz[right] > 0)
    ratio = np.where(both_voiced, f0_hz[right], 1.0) / np.where(both_voiced, f0_hz[left], 1.0)
    interpolated = both_voiced & (np.abs(np.log2(ratio)) < 4 / 12) & (gap_s <= 1.5 * step_s)
    found = np.where(interpolated, f0_hz[left] * ratio**fraction, f0_hz[nearest])
    return np.where(np.abs(times_s[nearest] - wanted_s) <= 1.001 * step_s + 1e-9, found, 0.0)


def center_f0(f0_hz: np.ndarray, n_frames: int) -> np.ndarray:
    """f0 padded with unvoiced frames on both sides (one more on the left), or cropped on both sides."""
    missing = n_frames - len(f0_hz)
    if missing < 0:
        return f0_hz[-missing // 2 :][:n_frames]
    left = (missing + 1) // 2
    return np.pad(f0_hz, (left, missing - left))


# ---------------------------------------------------------------- WORLD and Praat


class WorldPredictor:
    """dio or harvest with stonemask refinement.

    Args:
        algorithm: "dio" (fast, misses weakly voiced frames) or "harvest" (slow, few unvoiced frames).
        one_decimal: round to 0.1 Hz as so-vits-svc does after dio (the 4.0 forks after harvest too).

    Source: so-vits-svc 4.1, DioF0Predictor and HarvestF0Predictor.
    """

    def __init__(
        self, algorithm: str, grid: FrameGrid, settings: PitchSettings, *, one_decimal: bool
    ) -> None:
        self.world = import_optional("pyworld", "f0")
        self.estimate = getattr(self.world, algorithm)
        self.grid, self.settings, self.one_decimal = grid, settings, one_decimal

    def raw(self, samples: np.ndarray) -> np.ndarray:
        """f0 on WORLD's own T // hop + 1 frames."""
        samples = np.ascontiguousarray(samples, dtype=np.float64)
        coarse, times_s = self.estimate(
            samples,
            self.grid.sample_rate_hz,
            f0_floor=self.settings.f0_min_hz,
            f0_ceil=self.settings.f0_max_hz,
            frame_period=1000 * self.grid.hop_samples / self.grid.sample_rate_hz,
        )
        f0_hz = self.world.stonemask(samples, coarse, times_s, self.grid.sample_rate_hz)
        return np.round(f0_hz, 1) if self.one_decimal else f0_hz

    def __call__(self, samples: np.ndarray, n_frames: int) -> np.ndarray:
        return stretch_f0(self.raw(samples), n_frames)


class PraatPredictor:
    """Praat's autocorrelation method, the fastest; unvoiced at both ends, where Praat has no full window.

    Source: so-vits-svc 4.1, PMF0Predictor (here it is also cropped where Praat returns too many frames).
    """

    def __init__(self, grid: FrameGrid, settings: PitchSettings) -> None:
        note = ' (praat-parselmouth is under the GPL, hence optional); or choose "fcpe", which needs no GPL package'
        self.praat = import_optional("parselmouth", "pm", note=note)
        self.grid, self.settings = grid, settings

    def __call__(self, samples: np.ndarray, n_frames: int) -> np.ndarray:
        sound = self.praat.Sound(np.asarray(samples, np.float64), self.grid.sample_rate_hz)
        pitch = sound.to_pitch_ac(
            time_step=self.grid.hop_s,
            voicing_threshold=PRAAT_VOICING_THRESHOLD,
            pitch_floor=self.settings.f0_min_hz,
            pitch_ceiling=self.settings.f0_max_hz,
        )
        return center_f0(pitch.selected_array["frequency"], n_frames)
