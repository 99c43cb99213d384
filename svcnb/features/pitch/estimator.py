"""f0 estimation by method name: table of methods, resolution of "auto", and the estimator class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from svcnb.features.pitch.classical import (
    FrameGrid,
    PitchError,
    PitchSettings,
    PraatPredictor,
    Predictor,
    WorldPredictor,
)
from svcnb.features.pitch.neural import RMVPE_FILE, CrepePredictor, FcpePredictor, RmvpePredictor
from svcnb.features.pitch.track import F0Track

SHORTEST_INPUT_S = 0.2  # WORLD and Praat need a few periods; shorter input is padded with silence
# ---------------------------------------------------------------- estimation

PREDICTORS: dict[str, Callable[[FrameGrid, PitchSettings, str], Predictor]] = {
    "fcpe": FcpePredictor,
    "rmvpe": RmvpePredictor,
    "crepe": CrepePredictor,
    "dio": lambda grid, settings, device: WorldPredictor("dio", grid, settings, one_decimal=True),
    "harvest": lambda grid, settings, device: WorldPredictor("harvest", grid, settings, one_decimal=False),
    "pm": lambda grid, settings, device: PraatPredictor(grid, settings),
}
METHODS = tuple(PREDICTORS)


def resolve_method(method: str = "auto", folder: Path | str = "pretrain") -> str:
    """Resolve a method name; "auto" is rmvpe if its weights are in `folder`, else fcpe.

    Raises:
        PitchError: unknown name (the message lists the valid names).
    """
    if method == "auto":
        return "rmvpe" if (Path(folder) / RMVPE_FILE).is_file() else "fcpe"
    if method not in METHODS:
        raise PitchError(f"f0 method {method!r} is unknown: choose one of auto, {', '.join(METHODS)}")
    return method


class PitchEstimator:
    """f0 estimator of one method, loaded once, for any number of recordings at one sample rate.

    Args:
        method: a name of METHODS, or "auto" (see resolve_method).
        sample_rate_hz, hop_samples: the frame grid, for example 44100 and 512.
        settings: range, threshold, folder of weights.
        device: of a neural method ("cpu", "cuda").

    Raises:
        PitchError: unknown method, or rmvpe without its file.
        MissingExtra: the method's package is not installed.
    """

    def __init__(
        self,
        method: str = "auto",
        *,
        sample_rate_hz: int,
        hop_samples: int,
        settings: PitchSettings | None = None,
        device: str = "cpu",
    ) -> None:
        self.settings = settings or PitchSettings()
        self.method = resolve_method(method, self.settings.pretrain_folder)
        self.grid = FrameGrid(sample_rate_hz, hop_samples)
        self.predictor = PREDICTORS[self.method](self.grid, self.settings, device)

    def __call__(self, samples: np.ndarray, *, n_frames: int | None = None) -> F0Track:
        """f0 contour of one recording.

        Args:
            samples: float [T], mono, at the estimator's rate.
            n_frames: number of frames, default T // hop_samples.
        """
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise PitchError(
                f"f0 needs finite mono samples [T], got shape {samples.shape} or NaN: check the recording"
            )
        if n_frames is None:
            n_frames = self.grid.n_frames(len(samples))
        if n_frames == 0:
            return F0Track(np.zeros(0), self.grid.hop_s)
        missing = round(SHORTEST_INPUT_S * self.grid.sample_rate_hz) - len(samples)
        if missing > 0:
            padded = np.pad(samples, (0, missing))
            n_padded = max(n_frames, self.grid.n_frames(len(padded)))
            return F0Track(self.predictor(padded, n_padded)[:n_frames], self.grid.hop_s)
        return F0Track(self.predictor(samples, n_frames), self.grid.hop_s)
