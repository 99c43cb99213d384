"""Evaluation of a voice: converts recordings, measures the results, and gives advice.

    evaluation = evaluate_voice(voice, "recordings/target", ["recordings/others"], "data/evaluation/mine")
    evaluation.table(); advise(evaluation)

Works for any `EvaluatedVoice`. Recordings already measured with the same voice and settings are not measured
again. Everything works offline.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm.auto import tqdm

from svcnb import SvcError
from svcnb.audio.audio import Audio, AudioError, find_audio_files, write_audio
from svcnb.audio.recording import open_audio
from svcnb.conversion.result_names import distinct_names
from svcnb.conversion.settings import ConversionSettings
from svcnb.data.dataset import load_split
from svcnb.data.feature_store import INT16_SCALE, FeatureStore
from svcnb.evaluation.mel_cepstral import SpectralDistance, mel_cepstral_distance
from svcnb.evaluation.metrics import SpeakerSimilarity, compare_pitch
from svcnb.evaluation.results import (
    CopyResult,
    Reconstruction,
    Skipped,
    SourceResult,
    Target,
    VoiceEvaluation,
)
from svcnb.evaluation.settings import EvaluationSettings
from svcnb.evaluation.words import WordErrors, WordRecogniser, find_transcript
from svcnb.features.pitch.track import F0Track, looks_sung
from svcnb.files.disk import WriteError

MAX_SHIFT_SEMITONES = 24


class EvaluatedVoice(Protocol):
    """The interface of a voice, of any model family."""

    name: str
    step: int | None  # of the training, if known
    has_posterior: bool  # whether resynthesise works; False: no copy synthesis

    def fingerprint(self) -> str:
        """A hash that changes with the weights and other files that conversions depend on."""

    def speaker_name(self, speaker: str | int | None) -> str: ...

    def estimate_f0(self, audio: Audio, method: str = "auto") -> F0Track: ...

    def convert(self, audio: Audio, settings: ConversionSettings | None = None) -> Audio: ...

    def resynthesise(self, audio: Audio, speaker: str | int | None = None) -> Audio: ...


@dataclass(frozen=True)
class _Job:
    """One recording to measure."""

    key: str
    name: str
    measure: Callable[[], SourceResult | CopyResult]


def evaluate_voice(
    voice: EvaluatedVoice,
    target: Path | str | Sequence[Path],
    sources: Sequence[Path | str],
    folder: Path | str,
    settings: EvaluationSettings | None = None,
    *,
    overwrite: bool = False,
) -> VoiceEvaluation:
    """Measure a voice on recordings of others and on the target's own; resumes an interrupted call.

    Args:
        target: recordings of the target speaker (a folder or a list), preferably not used in training.
        sources: recordings to convert, or folders of them; a folder becomes a row of the table.
        folder: gets converted/, copies/, evaluation.json and evaluation.csv (see evaluation_page for the web page).
        overwrite: measure everything again.

    Returns:
        the metrics; recordings that failed are listed in `skipped`.

    Raises:
        MissingExtra: Resemblyzer, or with transcripts pocketsphinx and jiwer, are not installed.
        SvcError: nothing to compare with, no source found, or a full disk.
    """
    started = time.monotonic()
    settings, folder = settings or EvaluationSettings(), Path(folder)
    found = [
        (Path(source).stem, path) if Path(source).is_file() else (Path(source).name, path)
        for source in sources
        for path in _recordings(source)[: settings.most]
    ]
    if not found and not settings.n_copies:
        raise SvcError("nothing to measure: name recordings to convert, or set n_copies above 0")
    bench = _Bench(voice, settings, folder, _references(target, settings))
    known = {} if overwrite else _known_results(folder)
    if settings.words and any(
        find_transcript(path) for path in [*bench.references, *(path for _, path in found)]
    ):
        bench.recogniser = WordRecogniser()
    jobs = [*bench.copy_jobs(), *bench.source_jobs(found)]
    evaluation = VoiceEvaluation(
        voice.name, voice.speaker_name(settings.conversion.speaker), bench.target, voice.step
    )
    evaluation = replace(evaluation, notes=bench.notes(), skipped=tuple(bench.skipped))
    for job in tqdm(jobs, desc="evaluate", unit="recording", mininterval=0.5):
        evaluation = _add(evaluation, job, known)
        evaluation.save(folder)
    return _finish(evaluation, folder, time.monotonic() - started)


def _finish(evaluation: VoiceEvaluation, folder: Path, seconds: float) -> VoiceEvaluation:
    evaluation = replace(evaluation, seconds=round(seconds, 1))
    evaluation.save(folder)
    return evaluation


def _add(evaluation: VoiceEvaluation, job: _Job, known: dict[str, Any]) -> VoiceEvaluation:
    """The evaluation with one more recording: known, measured or skipped."""
    try:
        result = known[job.key] if job.key in known else job.measure()
    except WriteError:
        raise  # a full disk would fail for every other recording too
    except SvcError as error:
        return replace(evaluation, skipped=(*evaluation.skipped, Skipped(job.name, str(error))))
    if isinstance(result, SourceResult):
        return replace(evaluation, sources=(*evaluation.sources, result))
    return replace(evaluation, copies=(*evaluation.copies, result))


def _known_results(folder: Path) -> dict[str, Any]:
    """Results of an earlier call by key, if their audio files still exist."""
    if not (folder / "evaluation.json").is_file():
        return {}
    earlier = VoiceEvaluation.load(folder)
    reconstructions = [
        (copy, [reconstruction.file for reconstruction in (copy.copy, copy.conversion) if reconstruction])
        for copy in earlier.copies
    ]
    files = [*reconstructions, *((source, [source.file]) for source in earlier.sources)]
    return {result.key: result for result, names in files if all((folder / name).is_file() for name in names)}


def _recordings(path: Path | str) -> list[Path]:
    path = Path(path)
    if path.is_file():
        return [path]
    found = find_audio_files(path)
    if not found:
        raise AudioError(f"{path}: no recordings in this folder")
    return found


def _references(target: Path | str | Sequence[Path], settings: EvaluationSettings) -> list[Path]:
    paths = _recordings(target) if isinstance(target, Path | str) else [Path(path) for path in target]
    if not paths:
        raise SvcError("no recordings of the target to compare with: name at least one, preferably five")
    return paths[-settings.n_references :]


def held_out_clips(features: Path | str, folder: Path | str, *, speaker: str | None = None) -> list[Path]:
    """Write the held-out clips of a voice as FLAC files into `folder`, as the target for evaluate_voice.

    Args:
        features: the feature folder of the voice's training; its split gives the held-out clips.
        speaker: name; None takes all speakers.

    Raises:
        SvcError: no features, or no clip of this speaker is held out.
    """
    store, folder = FeatureStore.open(features), Path(folder)
    names = [name for name in load_split(store).validation if speaker in (None, store.record(name).speaker)]
    if not names:
        of_speaker = f"of {speaker} " if speaker else ""
        raise SvcError(
            f"no clip {of_speaker}in {features} is held out: "
            "name a folder with recordings of the target instead"
        )
    paths = [folder / Path(name).with_suffix(".flac").as_posix().replace("/", "_") for name in names]
    for name, path in zip(names, paths, strict=True):
        if not path.is_file():
            samples = store.read(name)["audio"].astype(np.float32) / INT16_SCALE
            write_audio(path, Audio(samples, store.settings.sample_rate_hz))
    return paths


def choose_transposition(suggested: int | None, *, sung: bool) -> float:
    """Transposition in semitones: the suggested one, rounded to octaves for songs, which keep their key."""
    step = 12 if sung else 1
    return float(np.clip(step * round((suggested or 0) / step), -MAX_SHIFT_SEMITONES, MAX_SHIFT_SEMITONES))


class _Bench:
    """The voice, the target's recordings and the networks that measure, each loaded once."""

    def __init__(
        self, voice: EvaluatedVoice, settings: EvaluationSettings, folder: Path, references: list[Path]
    ) -> None:
        self.voice, self.settings, self.folder = voice, settings, folder
        self.similarity = SpeakerSimilarity()
        self.recogniser: WordRecogniser | None = None
        self.skipped: list[Skipped] = []
        self.embeddings: dict[Path, np.ndarray] = {}
        self.pitches: list[np.ndarray] = []
        for path in tqdm(references, desc="target", unit="recording", mininterval=0.5, leave=False):
            self._add_reference(path)
        if not self.embeddings:
            reasons = "; ".join(f"{skipped.name}: {skipped.reason}" for skipped in self.skipped[:3])
            raise SvcError(f"none of the target's {len(references)} recordings can be used. {reasons}")
        self.references = list(self.embeddings)
        self.mean = self._mean_without(None)

    def _add_reference(self, path: Path) -> None:
        try:
            audio = self.read(path)
            self.embeddings[path] = self.similarity.embed(audio)
        except SvcError as error:
            self.skipped.append(Skipped(path.name, str(error)))
            return
        track = self.voice.estimate_f0(audio)
        self.pitches.append(track.f0_hz[track.voiced])

    def _mean_without(self, left_out: Path | None) -> np.ndarray:
        """Mean speaker embedding of the target (unit vector), without one recording if there are others."""
        others = [vector for path, vector in self.embeddings.items() if path != left_out]
        mean = np.mean(others or list(self.embeddings.values()), axis=0)
        return mean / np.linalg.norm(mean)

    @cached_property
    def target(self) -> Target:
        paths = self.references if len(self.references) > 1 else []
        own = tuple(float(self.embeddings[path] @ self._mean_without(path)) for path in paths)
        voiced = np.concatenate(self.pitches)
        return Target(len(self.references), own, float(np.median(voiced)) if len(voiced) else 0.0)

    def notes(self) -> tuple[str, ...]:
        found = []
        if self.recogniser is not None:
            found.append("word errors were counted in English speech with a transcript, not in songs")
        else:
            reason = "no transcripts were found" if self.settings.words else "not asked for"
            found.append(f"word errors were not counted: {reason}")
        if self.settings.n_copies and not self.voice.has_posterior:
            found.append("copy synthesis was left out: this is a release file, without the posterior encoder")
        if len(self.references) == 1:
            found.append(
                "one recording of the target only: the similarity of the target's own recordings, "
                "the ceiling for any conversion, is unknown"
            )
        return tuple(found)

    def read(self, path: Path) -> Audio:
        with open_audio(path) as recording:
            return recording.slice_s(0.0, self.settings.max_seconds)

    # ------------------------------------------------------------------------------------------- jobs

    def copy_jobs(self) -> list[_Job]:
        paths = self.references[: self.settings.n_copies]
        names = distinct_names([f"{path.stem}.flac" for path in paths])
        return [
            self._job(path, path.name, lambda key, path=path, name=name: self.measure_copy(key, path, name))
            for path, name in zip(paths, names, strict=True)
        ]

    def source_jobs(self, found: Sequence[tuple[str, Path]]) -> list[_Job]:
        names = distinct_names([f"{group}_{path.stem}.flac" for group, path in found])
        return [
            self._job(
                path,
                f"{group}/{path.name}",
                lambda key, group=group, path=path, name=name: self.measure_source(
                    key, group, path, file=name
                ),
            )
            for (group, path), name in zip(found, names, strict=True)
        ]

    def _job(self, path: Path, name: str, measure: Callable[[str], Any]) -> _Job:
        key = self._key(path, name)
        return _Job(key, name, lambda: measure(key))

    def _key(self, path: Path, name: str) -> str:
        """Hash of voice, settings, recording, transcript and references; files count by size and time."""
        relevant = self.settings.model_dump(mode="json", exclude={"most", "n_copies"})
        stats = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in [path, *self.references]]
        content = [
            self._fingerprint,
            relevant,
            stats,
            name,
            self.voice.has_posterior,
            self.recogniser and find_transcript(path),
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @cached_property
    def _fingerprint(self) -> str:
        return self.voice.fingerprint()

    # ------------------------------------------------------------------------------------------- measuring

    def measure_source(self, key: str, group: str, path: Path, *, file: str) -> SourceResult:
        source = self.read(path)
        source_f0 = self.voice.estimate_f0(source, self.settings.conversion.f0_method)
        shift, sung = self._choose_shift(source_f0), looks_sung(source_f0)
        result = self.voice.convert(
            source, self.settings.conversion.model_copy(update={"transpose_semitones": shift})
        )
        write_audio(self.folder / "converted" / file, result)
        result_f0 = self.voice.estimate_f0(result, self.settings.conversion.f0_method)
        return SourceResult(
            key=key,
            name=path.name,
            group=group,
            recording=str(path),
            file=f"converted/{file}",
            seconds=round(source.duration_s, 3),
            sung=sung,
            transpose_semitones=shift,
            similarity_source=float(self.similarity.embed(source) @ self.mean),
            similarity_result=float(self.similarity.embed(result) @ self.mean),
            pitch=compare_pitch(source_f0.transposed(shift), result_f0),
            words_source=None if sung else self._words(path, source),
            words_result=None if sung else self._words(path, result),
            distance_source=self._parallel_distance(path, source),
            distance_result=self._parallel_distance(path, result),
        )

    def measure_copy(self, key: str, path: Path, file: str) -> CopyResult:
        recording = self.read(path)
        settings = self.settings.conversion.model_copy(update={"transpose_semitones": 0.0})
        copied = None
        if self.voice.has_posterior:
            remade = self.voice.resynthesise(recording, settings.speaker)
            copied = self._reconstruction(path, recording, remade, f"copies/copy_{file}")
        converted = self._reconstruction(
            path, recording, self.voice.convert(recording, settings), f"copies/converted_{file}"
        )
        alone = len(self.references) == 1
        similarity = float("nan") if alone else float(self.embeddings[path] @ self._mean_without(path))
        return CopyResult(
            key, path.name, str(path), similarity, converted, copied, self._words(path, recording)
        )

    def _reconstruction(self, path: Path, recording: Audio, remade: Audio, file: str) -> Reconstruction:
        write_audio(self.folder / file, remade)
        return Reconstruction(
            file=file,
            similarity=float(self.similarity.embed(remade) @ self._mean_without(path)),
            distance=mel_cepstral_distance(recording, remade, align=False),
            pitch=compare_pitch(*(self.voice.estimate_f0(audio) for audio in (recording, remade))),
            words=self._words(path, remade),
        )

    def _choose_shift(self, f0: F0Track) -> float:
        base, mode = self.settings.conversion.transpose_semitones, self.settings.transposition
        target_hz, source_hz = self.target.median_f0_hz, f0.median_hz()
        if mode == "none" or not (target_hz > 0 and source_hz > 0):
            return base
        octaves = mode == "octaves" or (mode == "auto" and looks_sung(f0))
        return base + choose_transposition(round(12 * np.log2(target_hz / source_hz)), sung=octaves)

    def _words(self, path: Path, audio: Audio) -> WordErrors | None:
        """Word errors; None without a transcript, or if only the start of the recording is evaluated."""
        if self.recogniser is None or audio.duration_s > self.settings.max_seconds - 0.05:
            return None
        transcript = find_transcript(path)
        return self.recogniser.count_errors(audio, transcript) if transcript else None

    def _parallel_distance(self, path: Path, audio: Audio) -> SpectralDistance | None:
        same = [own for own in self.references if own.stem == path.stem] if self.settings.parallel else []
        return mel_cepstral_distance(self.read(same[0]), audio) if same else None
