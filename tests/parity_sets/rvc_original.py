"""Reference for RVC's conversion of one recording: 16 kHz input, segments cut at quiet positions.

`Voice` uses the same steps (svcnb.models.rvc.pipeline) per chunk; the order of steps, the cuts and the f0 here
are the original's.

Source: RVC 20240604, vc/pipeline.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from torch import Tensor

from svcnb.audio.loudness import match_loudness_envelope
from svcnb.features.pitch.classical import FrameGrid, PitchError, PitchSettings, WorldPredictor
from svcnb.features.pitch.estimator import SHORTEST_INPUT_S, PitchEstimator
from svcnb.models.rvc.network import F0_MAX_HZ, F0_MIN_HZ, HOP_SAMPLES, RATE_HZ
from svcnb.models.rvc.pipeline import Blend, guided_content, smoothed, without_rumble

FULL_SCALE, HEADROOM = 32768, 0.99
Encode = Callable[[np.ndarray], Tensor]  # float32 [T] at 16 kHz -> content [N50, D]
Infer = Callable[
    [Tensor, "np.ndarray | None"], np.ndarray
]  # content [N, D], f0 [N] in Hz -> waveform [N * hop]
THRESHOLDS = {"rmvpe": 0.03}  # RVC's own, where they differ from ours
WORLD_METHODS = ("dio", "harvest")


@dataclass(frozen=True)
class Windows:
    """Cutting of a recording, in seconds; the defaults are those of the original in full precision.

    Attributes:
        pad_s: reflection padding around the recording and around every segment.
        query_s: largest distance of a cut from its regular position.
        center_s: distance of the regular positions.
        longest_s: recordings up to this length are not cut.
    """

    pad_s: float = 1.0
    query_s: float = 6.0
    center_s: float = 38.0
    longest_s: float = 41.0


@dataclass(frozen=True)
class PipelineSettings:
    """Settings of a conversion.

    Attributes:
        transpose_semitones: transposition of f0.
        protect: 0..0.5; weight of the retrieved features in unvoiced frames; 0.5 switches the protection off.
        filter_radius: above 2 a median over three frames smooths the f0 of harvest.
        rms_mix_rate: 1 keeps the voice's own loudness over time, 0 takes the recording's.
    """

    transpose_semitones: float = 0.0
    protect: float = 0.33
    filter_radius: int = 3
    rms_mix_rate: float = 0.25
    windows: Windows = Windows()


def find_cuts(samples_16k: np.ndarray, windows: Windows) -> list[int]:
    """Samples at which a recording is cut: multiples of 160, at the quietest position near every center."""
    n_samples, query, center = (
        len(samples_16k),
        round(windows.query_s * RATE_HZ),
        round(windows.center_s * RATE_HZ),
    )
    if n_samples + HOP_SAMPLES <= windows.longest_s * RATE_HZ:
        return []
    padded = np.abs(np.pad(samples_16k, HOP_SAMPLES // 2, mode="reflect"))
    sums = np.concatenate([[0.0], padded.cumsum()])
    loudness = (
        sums[HOP_SAMPLES : HOP_SAMPLES + n_samples] - sums[:n_samples]
    )  # of the 10 ms around every sample
    cuts = []
    for position in range(center, n_samples, center):
        first = position - query
        cuts.append((first + int(loudness[first : position + query].argmin())) // HOP_SAMPLES * HOP_SAMPLES)
    return cuts


def transposed_f0(padded_16k: np.ndarray, pitch: RvcPitch, settings: PipelineSettings) -> np.ndarray:
    """f0 of a padded recording, transposed: float64 [T // 160] in Hz, 0 = unvoiced."""
    n_frames = len(padded_16k) // HOP_SAMPLES
    f0_hz = smoothed(pitch(padded_16k), pitch.method, settings.filter_radius) * 2 ** (
        settings.transpose_semitones / 12
    )
    return np.pad(f0_hz, (0, max(0, n_frames - len(f0_hz))))[:n_frames]


def convert_segments(
    samples_16k: np.ndarray, parts: PipelineParts, settings: PipelineSettings
) -> Iterator[tuple[np.ndarray, int]]:
    """Each segment with its padding, and its number of samples without padding."""
    n_pad = round(settings.windows.pad_s * RATE_HZ)
    padded = np.pad(samples_16k, n_pad, mode="reflect")
    f0_hz = None if parts.pitch is None else transposed_f0(padded, parts.pitch, settings)
    cuts = [0, *find_cuts(samples_16k, settings.windows), len(samples_16k)]
    for start, end in pairwise(cuts):
        is_last = end == len(samples_16k)
        segment = padded[start:] if is_last else padded[start : end + 2 * n_pad + HOP_SAMPLES]
        n_frames = len(segment) // HOP_SAMPLES
        own_f0 = None if f0_hz is None else f0_hz[start // HOP_SAMPLES :][:n_frames]
        content = parts.encode(segment.astype(np.float32))
        content = guided_content(
            content, own_f0, n_frames=n_frames, blend=parts.blend, protect=settings.protect
        )
        own_f0 = None if own_f0 is None else own_f0[: len(content)]
        n_samples = round(end * parts.output_hz / RATE_HZ) - round(start * parts.output_hz / RATE_HZ)
        yield parts.infer(content, own_f0), n_samples


def convert_recording(
    samples_16k: np.ndarray, parts: PipelineParts, settings: PipelineSettings, *, like_original: bool = False
) -> np.ndarray:
    """Convert a whole recording: float32 [T * output_hz / 16000] in -1..1.

    Args:
        like_original: end segments where the original does, each up to about 20 ms early, so that everything
            after a join is early too. Otherwise the timing is exact.
    """
    samples = without_rumble(samples_16k)
    n_pad = round(settings.windows.pad_s * parts.output_hz)
    segments = []
    for audio, n_samples in convert_segments(samples, parts, settings):
        whole = np.pad(audio, (0, max(0, n_pad + n_samples - len(audio))))
        exact = whole[n_pad : n_pad + n_samples]
        segments.append(audio[n_pad : len(audio) - n_pad] if like_original else exact)
    result = np.concatenate(segments)
    if settings.rms_mix_rate < 1:
        result = match_loudness_envelope(samples, RATE_HZ, result, parts.output_hz, settings.rms_mix_rate)
    return result / max(1.0, float(np.abs(result).max(initial=0.0)) / HEADROOM)


def to_int16(samples: np.ndarray) -> np.ndarray:
    """int16 samples, truncated towards zero as in the original."""
    return (samples * FULL_SCALE).astype(np.int16)


class RvcPitch:
    """f0 estimation as in RVC 20240604.

    Args:
        method: pm, harvest, dio, rmvpe, crepe or fcpe.
        pretrain_folder: folder of rmvpe.pt.

    Source: RVC 20240604, step 2b. WORLD is not rounded to 0.1 Hz and not resampled, as so-vits-svc does.
    """

    def __init__(
        self, method: str = "harvest", *, device: str = "cpu", pretrain_folder: Path = Path("pretrain")
    ) -> None:
        settings = PitchSettings(
            f0_min_hz=F0_MIN_HZ,
            f0_max_hz=F0_MAX_HZ,
            threshold=THRESHOLDS.get(method),
            pretrain_folder=pretrain_folder,
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
            raise PitchError(
                f"f0 needs finite mono samples [T], got shape {samples.shape} or NaN: check the recording"
            )
        missing = max(0, round(SHORTEST_INPUT_S * RATE_HZ) - len(samples))
        return self.world.raw(np.pad(samples, (0, missing)))[:n_frames]


@dataclass(frozen=True)
class PipelineParts:
    """The networks: content encoder, feature retrieval (None: no index), synthesizer, f0 (None: no guidance).

    The synthesizer gives output_hz / 100 samples for each frame.
    """

    encode: Encode
    infer: Infer
    output_hz: int
    pitch: RvcPitch | None = None
    blend: Blend | None = None
