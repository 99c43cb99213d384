"""Metrics of a conversion: speaker similarity to the target, and f0 accuracy relative to the source.

Metrics are a guide; listening decides. Each is one function over recordings or f0 tracks;
`evaluate_conversion` puts them into one report. Everything works offline.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator

from svcnb import MissingExtra, SvcError
from svcnb.audio.audio import Audio, read_audio
from svcnb.features.pitch.track import F0Track

Recording = Audio | Path | str
# A float that may be undefined: NaN in memory, null in JSON, and NaN again when it is read back.
MetricValue = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


class SpeakerSimilarity:
    """Speaker similarity: cosine similarity of speaker embeddings (Resemblyzer); loads the network once.

    Typical values, measured on sentences of several readers: 0.88 to 0.97 for the same speaker, 0.6 to 0.75
        for a
    similar one, 0.4 to 0.6 for a very different one.
    """

    def __init__(self, device: str = "cpu") -> None:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # from webrtcvad
                import resemblyzer
        except ImportError as error:
            raise MissingExtra(
                'speaker similarity needs Resemblyzer: pip install "svcnb[evaluate]"'
            ) from error
        self._prepare = resemblyzer.preprocess_wav
        self._encoder = resemblyzer.VoiceEncoder(device, verbose=False)

    def embed(self, recording: Recording) -> np.ndarray:
        """Speaker embedding of a recording: unit vector float32 [256]; silence is skipped.

        Raises:
            SvcError: the recording is silent, or no voice is found in it.
        """
        audio = recording if isinstance(recording, Audio) else read_audio(recording)
        if audio.peak == 0:
            raise SvcError(f"{_name(recording)} is silent, so it has no speaker embedding: use another")
        voiced = self._prepare(audio.samples, audio.sample_rate_hz)
        if len(voiced) == 0:
            raise SvcError(f"no voice found in {_name(recording)}: use one with at least a second of voice")
        return self._encoder.embed_utterance(voiced)

    def mean_embedding(self, recordings: Sequence[Recording]) -> np.ndarray:
        """Mean speaker embedding of several recordings: unit vector float32 [256]."""
        if not recordings:
            raise SvcError("no recordings to compare with: name at least one")
        mean = np.mean([self.embed(recording) for recording in recordings], axis=0)
        return mean / np.linalg.norm(mean)

    def compare(self, candidates: Sequence[Recording], references: Sequence[Recording]) -> float:
        """Cosine similarity to the references' mean embedding, -1..1, averaged over the candidates."""
        reference = self.mean_embedding(references)
        if not candidates:
            raise SvcError("no candidates to compare: name at least one")
        return float(np.mean([self.embed(candidate) @ reference for candidate in candidates]))


def speaker_similarity(
    candidates: Sequence[Recording], references: Sequence[Recording], device: str = "cpu"
) -> float:
    """Speaker similarity of candidates to references; for many calls use SpeakerSimilarity."""
    return SpeakerSimilarity(device).compare(candidates, references)


@dataclass(frozen=True)
class PitchComparison:
    """f0 accuracy of a candidate relative to a reference.

    Attributes:
        correlation: of log f0 over frames voiced in both, -1..1; NaN if one of them is constant.
        median_shift_cents: median f0 difference; positive if the candidate is higher (100 cents = 1
            semitone).
        median_error_cents: median absolute difference after removing that shift.
        octave_error_ratio: fraction of frames that differ by more than 600 cents after the shift, 0..1.
        voicing_error_ratio: fraction of all frames that are voiced in one track only, 0..1.
        n_common_frames: frames voiced in both.
        rmse_cents: root mean square difference, with shift and octave errors.
        rmse_after_shift_cents: the same after removing the shift.

    Typical values, measured on 29 sentences of seven readers and a song, converted by a trained voice:
    correlation above 0.95, median error of 3 to 12 cents, 12 to 60 cents rmse after the shift, and 2 to 5 %
    voicing errors. 1 to 2 % octave errors, 1200 cents each, raise that rmse to 140 or 160.
    """

    correlation: MetricValue
    median_shift_cents: MetricValue
    median_error_cents: MetricValue
    octave_error_ratio: MetricValue
    voicing_error_ratio: MetricValue
    n_common_frames: int
    rmse_cents: MetricValue = math.nan
    rmse_after_shift_cents: MetricValue = math.nan


def compare_pitch(reference: F0Track, candidate: F0Track) -> PitchComparison:
    """Compare two f0 tracks frame by frame, on the reference's time grid."""
    first, second = _on_common_grid(reference, candidate)
    common = (first > 0) & (second > 0)
    n_common = int(common.sum())
    voicing_error = float(np.mean((first > 0) != (second > 0))) if len(first) else 0.0
    if n_common == 0:
        return PitchComparison(math.nan, math.nan, math.nan, math.nan, voicing_error, 0)
    first_cents, second_cents = (1200 * np.log2(f0_hz[common]) for f0_hz in (first, second))
    distance = second_cents - first_cents
    shift = float(np.median(distance))
    moves = n_common > 1 and first_cents.std() > 1e-6 and second_cents.std() > 1e-6
    return PitchComparison(
        correlation=float(np.corrcoef(first_cents, second_cents)[0, 1]) if moves else math.nan,
        median_shift_cents=shift,
        median_error_cents=float(np.median(np.abs(distance - shift))),
        octave_error_ratio=float(np.mean(np.abs(distance - shift) > 600)),
        voicing_error_ratio=voicing_error,
        n_common_frames=n_common,
        rmse_cents=float(np.sqrt(np.mean(distance**2))),
        rmse_after_shift_cents=float(np.sqrt(np.mean((distance - shift) ** 2))),
    )


def f0_correlation(a: F0Track, b: F0Track) -> float:
    """Correlation of log f0 over the frames voiced in both, -1..1; NaN if one of them is constant."""
    return compare_pitch(a, b).correlation


def f0_rmse_cents(a: F0Track, b: F0Track, *, without_shift: bool = False) -> float:
    """Root mean square f0 difference in cents over the frames voiced in both.

    Args:
        without_shift: remove the median difference first, for tracks in different keys.
    """
    compared = compare_pitch(a, b)
    return compared.rmse_after_shift_cents if without_shift else compared.rmse_cents


def _on_common_grid(reference: F0Track, candidate: F0Track) -> tuple[np.ndarray, np.ndarray]:
    """f0 in Hz of both, float64 [N], the candidate's nearest frame at each of the reference's times."""
    first, second = (np.asarray(track.f0_hz, np.float64) for track in (reference, candidate))
    if len(first) == 0 or len(second) == 0:
        raise SvcError(
            f"f0 tracks of {len(first)} and {len(second)} frames cannot be compared: both need frames"
        )
    nearest = np.rint(np.arange(len(first)) * (reference.hop_s / candidate.hop_s)).astype(int)
    inside = nearest < len(second)
    return first[inside], second[nearest[inside]]


@dataclass(frozen=True)
class ConversionReport:
    """Metrics of one conversion.

    Attributes:
        similarity_result: speaker similarity of the result to the target's recordings, -1..1; higher is
            better.
        similarity_source: speaker similarity of the source to them, as the baseline.
        pitch: the result's f0 compared with the source's.
    """

    similarity_result: float
    similarity_source: float
    pitch: PitchComparison

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; None for undefined values."""
        return _without_nan(asdict(self))


@dataclass(frozen=True)
class F0Pair:
    """The f0 tracks of source and result of one conversion."""

    source: F0Track
    result: F0Track


def evaluate_conversion(
    source: Recording,
    result: Recording,
    references: Sequence[Recording],
    *,
    melodies: F0Pair,
    similarity: SpeakerSimilarity | None = None,
) -> ConversionReport:
    """Speaker similarity and f0 accuracy of one conversion.

    Args:
        source, result: input and output of the conversion.
        references: recordings of the target voice, preferably not those it was trained on.
        melodies: f0 tracks of source and result, estimated by the same method.
        similarity: the loaded network, to evaluate several conversions.
    """
    similarity = similarity or SpeakerSimilarity()
    return ConversionReport(
        similarity_result=similarity.compare([result], references),
        similarity_source=similarity.compare([source], references),
        pitch=compare_pitch(melodies.source, melodies.result),
    )


def _name(recording: Recording) -> str:
    return "the recording" if isinstance(recording, Audio) else str(recording)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
