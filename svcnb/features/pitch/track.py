"""f0 tracks: gap filling, filters, CSV files, and the detection of singing.

    track = PitchEstimator("auto", sample_rate_hz=44100, hop_samples=512)(samples)
    track.transposed(+3).interpolated()

`F0Track` is the f0 contour on the model's frame grid, 0 Hz where unvoiced. `PitchEstimator` loads its
predictor once and may then be called for any number of recordings.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from svcnb.features.pitch.classical import MAX_F0_HZ, PitchError, sample_f0
from svcnb.files.disk import atomic_path

CSV_COLUMNS = ("time_s", "f0_hz")


# ---------------------------------------------------------------- tracks


@dataclass(frozen=True, eq=False)
class F0Track:
    """Fundamental frequency of N frames.

    Args:
        f0_hz: float [N], 0 = unvoiced.
        hop_s: frame distance in seconds; frame n is at time n * hop_s.
    """

    f0_hz: np.ndarray
    hop_s: float

    def __post_init__(self) -> None:
        f0_hz = np.asarray(self.f0_hz)
        if f0_hz.ndim != 1 or self.hop_s <= 0:
            raise PitchError(
                f"an f0 track needs values [N] and a hop above 0, got {f0_hz.shape} and {self.hop_s} s"
            )
        if not (np.isfinite(f0_hz).all() and (f0_hz >= 0).all()):
            raise PitchError("f0 must be finite and at least 0 Hz (unvoiced); found NaN or negative values")
        object.__setattr__(self, "f0_hz", f0_hz)

    @property
    def n_frames(self) -> int:
        return len(self.f0_hz)

    @property
    def voiced(self) -> np.ndarray:
        """bool [N]."""
        return self.f0_hz > 0

    @property
    def times_s(self) -> np.ndarray:
        return np.arange(self.n_frames) * self.hop_s

    def interpolated(self, *, rule: str = "4.1") -> np.ndarray:
        """float64 [N] without gaps (see fill_gaps); all zeros where nothing is voiced."""
        return fill_gaps(self.f0_hz, self.hop_s, rule=rule)

    def transposed(self, semitones: float) -> F0Track:
        return replace(self, f0_hz=self.f0_hz * 2 ** (semitones / 12))

    def mean_filtered(self, n: int = 3) -> F0Track:
        """Each voiced frame becomes the mean of the voiced frames among `n` around it (so-vits-svc 4.0's -fmp)."""
        return replace(self, f0_hz=_filter_voiced(self.f0_hz, n, lambda windows: np.nanmean(windows, axis=1)))

    def median_hz(self) -> float:
        """Median f0 of the voiced frames, 0.0 if there are none."""
        return float(np.median(self.f0_hz[self.voiced])) if self.voiced.any() else 0.0

    def to_csv(self, path: Path | str) -> Path:
        """Write `time_s,f0_hz` rows, one per frame, for editing in another program."""
        rows = ((f"{time:.6f}", f"{f0:.4f}") for time, f0 in zip(self.times_s, self.f0_hz, strict=True))
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([CSV_COLUMNS, *rows])
        return Path(path)

    @classmethod
    def from_csv(
        cls, path: Path | str, *, hop_s: float | None = None, n_frames: int | None = None
    ) -> F0Track:
        """Read a `time_s,f0_hz` table onto a frame grid.

        Args:
            path: header, then rows of ascending time; 0 Hz, or no row for more than one step, means unvoiced.
            hop_s: hop of the grid (default: median step of the table).
            n_frames: length of the grid (default: up to the last row).

        Raises:
            PitchError: the first invalid row, with its line number.
        """
        times_s, f0_hz = _read_csv(Path(path))
        if hop_s is None:
            hop_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.01
        if n_frames is None:
            n_frames = math.floor(times_s[-1] / hop_s + 0.5) + 1
        return cls(sample_f0(times_s, f0_hz, np.arange(n_frames) * hop_s), hop_s)


def fill_gaps(f0_hz: np.ndarray, hop_s: float, *, rule: str = "4.1") -> np.ndarray:
    """f0 with unvoiced frames filled: linear interpolation between voiced frames, constant at the ends.

    Args:
        f0_hz: [N], 0 = unvoiced.
        hop_s: seconds per frame.
        rule: "4.1" interpolates over time; "4.0" reaches the next value one frame early, and keeps the last
            value if only the very last frame is voiced again.

    Returns:
        float64 [N]; all zeros if no frame is voiced. With one voiced frame its value fills everything (the
        original of 4.1 takes the first frame's value, usually 0).

    Source: so-vits-svc 4.1 and 4.0, interpolate_f0.
    """
    if rule not in ("4.0", "4.1"):
        raise ValueError(f"rule {rule!r}: expected '4.0' or '4.1'")
    f0_hz = np.asarray(f0_hz, np.float64)
    voiced = np.flatnonzero(f0_hz > 0)
    if len(voiced) == 0:
        return np.zeros(len(f0_hz))
    if rule == "4.0":
        return _fill_gaps_40(f0_hz, voiced)
    # As in the original the voiced frames' times are float32, the targets' float64: voiced values change by
    # 1e-7.
    voiced_s = np.float32(hop_s) * voiced.astype(np.float32)
    return np.interp(np.arange(len(f0_hz)) * hop_s, voiced_s, f0_hz[voiced])


def _fill_gaps_40(f0_hz: np.ndarray, voiced: np.ndarray) -> np.ndarray:
    last_frame = len(f0_hz) - 1
    frames = np.arange(len(f0_hz))
    after = np.searchsorted(voiced, frames)  # the first voiced frame at or after each one
    right = voiced[np.minimum(after, len(voiced) - 1)]
    left = voiced[np.maximum(after - 1, 0)]
    gap = np.maximum(right - left - 1, 1)
    line = f0_hz[left] + (f0_hz[right] - f0_hz[left]) / gap * (frames - left)
    filled = np.where((right == last_frame) | (after == len(voiced)), f0_hz[left], line)
    filled = np.where(after == 0, f0_hz[voiced[0]], filled)
    return np.where(f0_hz > 0, f0_hz, filled)


def _filter_voiced(f0_hz: np.ndarray, n: int, pick: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply `pick` to windows of `n` frames around every voiced frame, NaN where unvoiced; the rest is 0."""
    if n < 1 or n % 2 == 0:
        raise ValueError(f"filter over {n} frames: expected an odd number of at least 1")
    f0_hz = np.asarray(f0_hz)
    voiced = f0_hz > 0
    with_gaps = np.pad(np.where(voiced, f0_hz.astype(np.float64), np.nan), n // 2, constant_values=np.nan)
    result = np.zeros_like(f0_hz)
    if voiced.any():
        windows = np.lib.stride_tricks.sliding_window_view(with_gaps, n)  # [N, n]
        result[voiced] = pick(windows[voiced])
    return result


def _read_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise PitchError(f"{path} cannot be read as a text table ({error})") from error
    expected = ",".join(CSV_COLUMNS)
    if not rows or tuple(cell.strip().lower() for cell in rows[0]) != CSV_COLUMNS:
        found = ",".join(rows[0]) if rows else "nothing"
        raise PitchError(f"{path}, line 1: found {found!r}, expected the header {expected!r}")
    values: list[tuple[float, float]] = []
    for line, cells in enumerate(rows[1:], start=2):
        if cells:
            time_s, f0 = _csv_row(cells, f"{path}, line {line}")
            if values and time_s <= values[-1][0]:
                before = values[-1][0]
                raise PitchError(
                    f"{path}, line {line}: time {time_s} s does not come after {before} s: sort the rows"
                )
            values.append((time_s, f0))
    if not values:
        raise PitchError(f"{path} has no rows below the header: expected {expected} per frame")
    times_s, f0_hz = np.array(values).T
    return times_s, f0_hz


def _csv_row(cells: list[str], where: str) -> tuple[float, float]:
    try:
        time_s, f0_hz = (float(cell) for cell in cells)
    except ValueError as error:
        raise PitchError(f"{where}: found {','.join(cells)!r}, expected two numbers, time_s,f0_hz") from error
    if not (math.isfinite(time_s) and time_s >= 0):
        raise PitchError(f"{where}: time {time_s} s, expected 0 or more")
    if not 0 <= f0_hz <= MAX_F0_HZ:  # NaN fails too
        raise PitchError(f"{where}: f0 {f0_hz} Hz, expected 0 (unvoiced) to {MAX_F0_HZ:g}")
    return time_s, f0_hz


# ---------------------------------------------------------------- speech or singing


def sung_score(track: F0Track) -> float:
    """Fraction of the voiced time in sustained notes: at least 0.2 in singing, mostly below 0.05 in speech.

    A note is sustained while f0, averaged over one vibrato period (0.18 s), changes by less than 6 semitones
    per second for at least 0.2 s. f0 below 65 Hz is ignored: it is mains hum, not singing.
    """
    f0_hz = np.asarray(track.f0_hz, np.float64)
    voiced = f0_hz >= 65
    semitones = 12 * np.log2(np.maximum(f0_hz, 1))
    window, shortest = max(2, round(0.18 / track.hop_s)), 0.2 / track.hop_s
    sustained = 0
    for start, end in _runs(voiced):
        if end - start > window:
            smooth = np.convolve(semitones[start:end], np.ones(window) / window, "valid")
            steady = np.abs(np.diff(smooth)) < 6 * track.hop_s
            sustained += sum(b - a for a, b in _runs(steady) if b - a >= shortest)
    return sustained / max(1, int(voiced.sum()))


def looks_sung(track: F0Track) -> bool:
    """True for singing, where automatic f0 prediction (-a) would be harmful: it is meant for speech."""
    return sung_score(track) > 0.15


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Start and end of every run of True."""
    edges = np.diff(np.concatenate([[0], np.asarray(flags, np.int8), [0]]))
    return list(zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True))
