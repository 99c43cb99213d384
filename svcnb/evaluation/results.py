"""Results of an evaluation: data classes with units, and the files and tables made from them."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from svcnb import SvcError
from svcnb.evaluation.mel_cepstral import SpectralDistance
from svcnb.evaluation.metrics import MetricValue, PitchComparison
from svcnb.evaluation.words import WordErrors, total_errors
from svcnb.files.disk import write_text

VERSION = 1
LEAST_GAIN = 0.1  # below this difference of ceiling and source the relative similarity is undefined
MISSING = "-"


@dataclass(frozen=True)
class Target:
    """Statistics of the target speaker's own recordings.

    Attributes:
        similarities: speaker similarity of each recording to the mean of the others, -1..1: the ceiling for
            any conversion. Empty if there is one recording only.
        median_f0_hz: median over the voiced frames of all of them.
    """

    n_recordings: int
    similarities: tuple[float, ...]
    median_f0_hz: Annotated[float, Field(alias="middle_pitch_hz")]  # in the file as it was before

    @property
    def ceiling(self) -> float:
        """Mean speaker similarity of the target's own recordings; NaN if it is unknown."""
        return statistics.fmean(self.similarities) if self.similarities else math.nan


@dataclass(frozen=True)
class Reconstruction:
    """One reconstruction of a recording of the target, compared with the recording.

    Attributes:
        file: the audio file, relative to the evaluation's folder.
        similarity: to the target's other recordings, -1..1.
        distance: mel-cepstral, frame by frame; None if the recording is silent.
    """

    file: str
    similarity: float
    distance: SpectralDistance
    pitch: PitchComparison
    words: WordErrors | None = None


@dataclass(frozen=True)
class CopyResult:
    """Reconstructions of one recording of the target: copy synthesis, and the conversion to its own voice.

    Copy synthesis uses posterior and decoder only, the conversion all stages (content, f0, prior, flow,
    decoder).

    Attributes:
        similarity: of the recording itself to the target's others; NaN if there are none.
        copy: copy synthesis; None if the voice has no posterior encoder.
    """

    key: str
    name: str
    recording: str
    similarity: MetricValue
    conversion: Reconstruction
    copy: Reconstruction | None = None
    words: WordErrors | None = None


@dataclass(frozen=True)
class SourceResult:
    """One recording of another speaker, before and after conversion.

    Attributes:
        key: hash of everything the metrics depend on; equal keys are not measured again.
        group: name of its folder.
        file: the result, relative to the evaluation's folder.
        transpose_semitones: transposition of f0.
        similarity_source, similarity_result: to the target's recordings, -1..1.
        pitch: the result's f0 compared with the source's, transposed by transpose_semitones.
        distance_source, distance_result: mel-cepstral, to the target's own reading of the same words, if
            there is one.
    """

    key: str
    name: str
    group: str
    recording: str
    file: str
    seconds: float
    sung: bool
    transpose_semitones: float
    similarity_source: float
    similarity_result: float
    pitch: PitchComparison
    words_source: WordErrors | None = None
    words_result: WordErrors | None = None
    distance_source: SpectralDistance | None = None
    distance_result: SpectralDistance | None = None

    def relative_similarity(self, ceiling: float) -> float:
        """Similarity of the result between the source's (0) and the ceiling (1); NaN if both are close."""
        return relative_similarity(self.similarity_source, self.similarity_result, ceiling)


def relative_similarity(source: float, result: float, ceiling: float) -> float:
    """(result - source) / (ceiling - source); NaN if the source is close to the ceiling or it is unknown."""
    if math.isnan(ceiling) or ceiling - source < LEAST_GAIN:
        return math.nan
    return (result - source) / (ceiling - source)


@dataclass(frozen=True)
class Skipped:
    """A recording that could not be measured, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class VoiceEvaluation:
    """Results of the evaluation of a voice.

    Attributes:
        voice, speaker: names; step: training steps, if known.
        copies: the target's own recordings, see CopyResult.
        sources: recordings of other speakers.
        skipped: recordings that could not be measured.
        notes: what was left out, and why.
        seconds: duration of this call.
    """

    voice: str
    speaker: str
    target: Target
    step: int | None = None
    copies: tuple[CopyResult, ...] = ()
    sources: tuple[SourceResult, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    version: int = field(default=VERSION, kw_only=True)

    def groups(self) -> dict[str, list[SourceResult]]:
        """The sources by folder."""
        found: dict[str, list[SourceResult]] = {}
        for source in self.sources:
            found.setdefault(source.group, []).append(source)
        return found

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Headings and rows to display: means of each folder of sources, then the target's own recordings."""
        rows = [_group_row(name, members, self.target.ceiling) for name, members in self.groups().items()]
        if len(rows) > 1:
            rows.append(_group_row("all", self.sources, self.target.ceiling))
        return TABLE_HEADINGS, rows + _reconstruction_rows(self)

    def save(self, folder: Path | str) -> Path:
        """Write evaluation.json and evaluation.csv, each atomically."""
        folder = Path(folder)
        write_text(folder / "evaluation.csv", _as_csv(flat_rows(self)))
        return write_text(
            folder / "evaluation.json", _adapter().dump_json(self, indent=1, by_alias=True).decode() + "\n"
        )

    @classmethod
    def load(cls, folder: Path | str) -> VoiceEvaluation:
        """Read evaluation.json.

        Raises:
            SvcError: no such file, or not of this version.
        """
        from pydantic import ValidationError

        path = Path(folder) / "evaluation.json"
        if not path.is_file():
            raise SvcError(f"no evaluation at {path}: evaluate a voice first")
        try:
            found = _adapter().validate_json(path.read_bytes())
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"])) or "file"
            raise SvcError(
                f"{path} is not an evaluation of this version ({where}: {problem['msg']}): "
                "delete it, or evaluate with overwrite=True (--overwrite)"
            ) from None
        if found.version != VERSION:
            raise SvcError(
                f"{path} has version {found.version}, expected {VERSION}: delete it and evaluate again"
            )
        return found


def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(VoiceEvaluation)


def mean(values: Iterable[MetricValue]) -> float:
    """Mean without NaN values; NaN if there are no others."""
    present = [value for value in values if not math.isnan(value)]
    return statistics.fmean(present) if present else math.nan


# ----------------------------------------------------------------------------------------------- tables

TABLE_HEADINGS = (
    "recordings", "n", "similarity before", "after", "relative similarity (%)", "f0 correlation",
    "f0 error (cents)", "voicing differs (%)", "distance (dB)", "words wrong before", "after",
)  # fmt: skip


def _group_row(name: str, members: Sequence[SourceResult], ceiling: float) -> tuple[Any, ...]:
    distances = (m.distance_result.mean_db for m in members if m.distance_result)
    return (
        name,
        len(members),
        shown(mean(m.similarity_source for m in members)),
        shown(mean(m.similarity_result for m in members)),
        shown(100 * mean(m.relative_similarity(ceiling) for m in members), 0),
        *_pitch_cells([m.pitch for m in members]),
        shown(mean(distances), 1),
        shown_words(total_errors([m.words_source for m in members])),
        shown_words(total_errors([m.words_result for m in members])),
    )


def _reconstruction_rows(evaluation: VoiceEvaluation) -> list[tuple[Any, ...]]:
    copies = evaluation.copies
    own = mean(c.similarity for c in copies)
    rows = []
    for title, reconstructions in (
        ("target's own, copy synthesis", [c.copy for c in copies if c.copy]),
        ("target's own, converted", [c.conversion for c in copies]),
    ):
        if reconstructions:
            words = total_errors([reconstruction.words for reconstruction in reconstructions])
            rows.append(
                (
                    title,
                    len(reconstructions),
                    shown(own),
                    shown(mean(r.similarity for r in reconstructions)),
                    MISSING,
                    *_pitch_cells([r.pitch for r in reconstructions]),
                    shown(mean(r.distance.mean_db for r in reconstructions), 1),
                    shown_words(total_errors([c.words for c in copies])),
                    shown_words(words),
                )
            )
    return rows


def _pitch_cells(pitches: Sequence[PitchComparison]) -> tuple[Any, ...]:
    return (
        shown(mean(p.correlation for p in pitches), 3),
        shown(mean(p.median_error_cents for p in pitches), 0),
        shown(100 * mean(p.voicing_error_ratio for p in pitches), 0),
    )


def shown(value: float, digits: int = 2) -> str:
    """A value as text; a dash if it is undefined."""
    return MISSING if math.isnan(value) else f"{value:.{digits}f}"


def shown_words(words: WordErrors | None) -> str:
    """Word error rate in percent, and over how many words."""
    return MISSING if words is None else f"{100 * words.rate:.0f} % of {words.n_words}"


def flat_rows(evaluation: VoiceEvaluation) -> list[dict[str, Any]]:
    """One row per recording and version of it, for the CSV; None for undefined values."""
    rows = []
    for s in evaluation.sources:
        shared = {"group": s.group, "recording": s.name, "seconds": s.seconds}
        before = _cells(similarity=s.similarity_source, words=s.words_source, distance=s.distance_source)
        rows.append(shared | {"version": "source", "file": s.recording} | before)
        after = _cells(
            similarity=s.similarity_result, words=s.words_result, distance=s.distance_result, pitch=s.pitch
        )
        after |= {"transpose_semitones": s.transpose_semitones}
        after |= {"reach_ratio": _or_none(s.relative_similarity(evaluation.target.ceiling))}
        rows.append(shared | {"version": "result", "file": s.file} | after)
    for c in evaluation.copies:
        shared = {"group": "target", "recording": c.name}
        own = _cells(similarity=c.similarity, words=c.words)
        rows.append(shared | {"version": "recording", "file": c.recording} | own)
        for version, reconstruction in (("copy", c.copy), ("conversion", c.conversion)):
            if reconstruction:
                cells = _cells(
                    similarity=reconstruction.similarity,
                    words=reconstruction.words,
                    distance=reconstruction.distance,
                    pitch=reconstruction.pitch,
                )
                rows.append(shared | {"version": version, "file": reconstruction.file} | cells)
    return rows


CSV_COLUMNS = (
    "group", "recording", "version", "seconds", "transpose_semitones", "similarity", "reach_ratio", "f0_correlation",
    "f0_median_shift_cents", "f0_median_error_cents", "f0_rmse_cents", "f0_rmse_after_shift_cents",
    "octave_error_ratio", "voicing_error_ratio", "mel_cepstral_distance_db", "n_words", "n_word_errors",
    "word_error_rate", "file",
)  # fmt: skip


def _cells(
    *,
    similarity: float,
    words: WordErrors | None,
    distance: SpectralDistance | None = None,
    pitch: PitchComparison | None = None,
) -> dict[str, Any]:
    cells: dict[str, Any] = {"similarity": similarity}
    if words:
        cells |= {"n_words": words.n_words, "n_word_errors": words.n_errors, "word_error_rate": words.rate}
    if distance:
        cells["mel_cepstral_distance_db"] = distance.mean_db
    if pitch:
        cells |= {
            "f0_correlation": pitch.correlation,
            "f0_median_shift_cents": pitch.median_shift_cents,
            "f0_median_error_cents": pitch.median_error_cents,
            "f0_rmse_cents": pitch.rmse_cents,
            "f0_rmse_after_shift_cents": pitch.rmse_after_shift_cents,
            "octave_error_ratio": pitch.octave_error_ratio,
            "voicing_error_ratio": pitch.voicing_error_ratio,
        }
    return {name: _or_none(value) for name, value in cells.items()}


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _as_csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue()
