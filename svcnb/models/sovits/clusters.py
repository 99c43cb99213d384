"""Build the files of feature retrieval: k-means centers of a voice's content, and an index of its frames.

Both functions read the training clips of a feature store and write beside the voice, in so-vits-svc's
formats. Intermediate results are stored in hidden files there until the result is written: if a call is
killed at any point, the same call resumes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from svcnb import SvcError
from svcnb.data.dataset import load_split
from svcnb.data.feature_store import FeatureStore
from svcnb.features.content.clustering import (
    MAX_INDEX_FRAMES,
    REDUCED_FRAMES,
    SOVITS_CENTERS,
    CenterFit,
    FitProgress,
    build_index,
    choose_n_centers,
    count_steps,
    fit_centers,
)
from svcnb.features.content.encoders import encoder_for_width
from svcnb.features.content.retrieval import INDEX_FILE, FeatureIndex, SpeakerCenters
from svcnb.files.checkpoint import read_safetensors, write_safetensors
from svcnb.models.settings import ClusterSettings
from svcnb.models.sovits.config import Config

if TYPE_CHECKING:
    from tqdm import tqdm

FIT_PREFIX, INDEX_PREFIX = "centres_", "index_"  # of hidden files with intermediate results
FRAMES_PER_SECOND = 50  # of every content encoder
FEW_FRAMES = 30 * FRAMES_PER_SECOND


@dataclass(frozen=True)
class SpeakerPart:
    """Result for one speaker.

    Attributes:
        n_frames: content frames it was made from, 50 per second.
        n_vectors: centers, or vectors in the index.
        mean_squared_distance: from the frames to their nearest vectors; 0 if the index holds every frame.
        seconds: of this call; short if an earlier call that was killed had done most of the work.
        note: deviations from the request and other hints; empty if there are none.
    """

    speaker: str
    n_frames: int
    n_vectors: int
    mean_squared_distance: float
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class ClusterReport:
    """The file that was written, and its contents per speaker."""

    path: Path
    speakers: tuple[SpeakerPart, ...]

    @property
    def seconds(self) -> float:
        return sum(part.seconds for part in self.speakers)

    def __str__(self) -> str:
        lines = [
            f"{part.speaker}: {part.n_vectors} vectors of {part.n_frames} frames, "
            f"mean squared distance {part.mean_squared_distance:.4g}, {part.seconds:.1f} s"
            + (f" ({part.note})" if part.note else "")
            for part in self.speakers
        ]
        return "\n".join([*lines, str(self.path)])


def fit_voice_centers(
    features_folder: Path | str, voice_folder: Path | str, settings: ClusterSettings | None = None
) -> ClusterReport:
    """K-means centers of every speaker's content, written as kmeans_<n>.pt (n: largest number of centers).

    Args:
        features_folder: what the voice was trained on; clips held out from training are excluded here too.
        voice_folder: a trained voice; its config names the speakers.

    Raises:
        SvcError: no features, no config, features of another encoder or of other speakers. MissingExtra: no faiss.
    """
    settings = settings or ClusterSettings()
    source = _Source.open(features_folder, voice_folder)
    parts, centers = [], {}
    with _progress_bar("centers", source.n_clip_frames.values()) as bar:
        for speaker, weight in source.n_clip_frames.items():
            started, frames = time.monotonic(), source.frames(speaker)
            n_centers = settings.n_centers or choose_n_centers(len(frames))
            fitting = settings.model_copy(update={"n_centers": n_centers})
            fit = _fit(source.hidden(FIT_PREFIX, frames, fitting), frames, fitting, _SpeakerBar(bar, weight))
            centers[speaker] = fit.centers
            note = fit.note or _note(len(frames), chosen_centers=None if settings.n_centers else n_centers)
            counts = (fit.n_frames, len(fit.centers), fit.mean_squared_distance)
            parts.append(SpeakerPart(speaker, *counts, time.monotonic() - started, note))
    largest = max(part.n_vectors for part in parts)
    path = SpeakerCenters(centers).write(source.voice_folder / f"kmeans_{largest}.pt")
    _remove_leftovers(source.voice_folder, FIT_PREFIX, "kmeans_")
    return ClusterReport(path, tuple(parts))


def build_voice_index(
    features_folder: Path | str, voice_folder: Path | str, *, seed: int = 0
) -> ClusterReport:
    """An index of every speaker's content frames: feature_and_index.pkl, by the ids of the voice's config.

    More than 200 000 frames of a speaker (over an hour) are reduced to 10 000 centers first, as in
    so-vits-svc; this takes minutes on a CPU.

    Raises:
        SvcError: as `fit_voice_centers`.
    """
    source = _Source.open(features_folder, voice_folder)
    parts, indexes = [], {}
    with _progress_bar("index", source.n_clip_frames.values()) as bar:
        for speaker, weight in source.n_clip_frames.items():
            started, frames, speaker_bar = time.monotonic(), source.frames(speaker), _SpeakerBar(bar, weight)
            n_frames, distance, note = len(frames), 0.0, _note(len(frames))
            if n_frames > MAX_INDEX_FRAMES:
                fitting = ClusterSettings(n_centers=REDUCED_FRAMES, seed=seed, n_rounds=0)
                fit = _fit(source.hidden(INDEX_PREFIX, frames, fitting), frames, fitting, speaker_bar)
                frames, distance = fit.centers.numpy(), fit.mean_squared_distance
                note = f"{n_frames} frames were reduced to {len(frames)} centers first"
            kept = source.hidden(INDEX_PREFIX, frames, seed)
            indexes |= _kept_or_built_index(kept, frames, source.speaker_ids[speaker], seed)
            speaker_bar.finish()
            parts.append(
                SpeakerPart(speaker, n_frames, len(frames), distance, time.monotonic() - started, note)
            )
    path = FeatureIndex(indexes).write(source.voice_folder / INDEX_FILE)
    _remove_leftovers(source.voice_folder, INDEX_PREFIX, INDEX_FILE)
    return ClusterReport(path, tuple(parts))


# Training clips ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """The training clips of a voice.

    Attributes:
        clips: names in the store, by speaker.
        n_clip_frames: their length, by speaker; in frames of the voice.
        speaker_ids: by name, as in the voice's config.
    """

    store: FeatureStore
    voice_folder: Path
    clips: dict[str, list[str]]
    n_clip_frames: dict[str, int]
    speaker_ids: dict[str, int]

    @classmethod
    def open(cls, features_folder: Path | str, voice_folder: Path | str) -> _Source:
        """Check that features and voice belong together.

        Raises:
            SvcError: no features, no voice, another encoder, or speakers that the voice does not have.
        """
        store, voice_folder = FeatureStore.open(features_folder), Path(voice_folder)
        if not (voice_folder / "config.json").is_file():
            raise SvcError(
                f"no config.json in {voice_folder}: give the folder of a trained voice, or train it first"
            )
        config = Config.load(voice_folder / "config.json", strict=False)
        encoder = encoder_for_width(config.model.ssl_dim, config.model.speech_encoder)
        if store.settings.encoder != encoder:
            raise SvcError(
                f"{store.folder} was made with the encoder {store.settings.encoder}, the voice in "
                f"{voice_folder} uses {encoder}: give the features it was trained on"
            )
        clips: dict[str, list[str]] = {}
        for name in load_split(store, seed=config.train.seed).training:
            clips.setdefault(store.record(name).speaker, []).append(name)
        unknown = sorted(clips.keys() - config.spk.keys())
        if unknown:
            raise SvcError(
                f"the voice in {voice_folder} has no speaker {', '.join(unknown)}, only "
                f"{', '.join(config.spk) or 'unnamed ones'}: "
                "give the features it was trained on"
            )
        counts = {speaker: sum(store.record(name).n_frames for name in own) for speaker, own in clips.items()}
        return cls(store, voice_folder, clips, counts, config.spk)

    def frames(self, speaker: str) -> np.ndarray:
        """float32 [M, D], 50 frames per second, in the order of the clips."""
        return np.concatenate(
            [self.store.read(name)["content"].astype(np.float32) for name in self.clips[speaker]]
        )

    def hidden(self, prefix: str, frames: np.ndarray, settings: object) -> Path:
        """Path of the intermediate results; the name is a hash of the frames and the settings."""
        digest = hashlib.sha256(f"{settings} {frames.shape} ".encode())
        digest.update(np.ascontiguousarray(frames))
        suffix = "safetensors" if isinstance(settings, ClusterSettings) else "index"
        return self.voice_folder / f".{prefix}{digest.hexdigest()[:16]}.{suffix}"


def _note(n_frames: int, *, chosen_centers: int | None = None) -> str:
    notes = []
    if chosen_centers is not None and chosen_centers < SOVITS_CENTERS:
        wanted = f"so-vits-svc uses {SOVITS_CENTERS} centers"
        notes.append(f"{wanted}; for {n_frames} frames {chosen_centers} were chosen")
    if n_frames < FEW_FRAMES:
        seconds = n_frames / FRAMES_PER_SECOND
        notes.append(f"only {seconds:.0f} s of audio: some phones of the language may be missing")
    return "; ".join(notes)


# Fits that resume after a kill ---------------------------------------------------------------------


def _fit(kept: Path, frames: np.ndarray, settings: ClusterSettings, bar: _SpeakerBar) -> CenterFit:
    """Centers of one speaker; resumes from the file `kept`, which holds the last step of a killed call."""
    n_steps = count_steps(settings.n_rounds)
    start = None
    if kept.is_file():
        tensors, metadata = read_safetensors(kept)
        start = FitProgress(tensors["centres"], int(metadata["step"]))
        bar.skip_to(start.step / n_steps)

    def keep(progress: FitProgress) -> None:
        metadata = {
            "kind": "svcnb centres under way",
            "step": str(progress.step),
            "settings": settings.model_dump_json(),
        }
        write_safetensors(kept, {"centres": progress.centers}, metadata)
        bar.advance_to(progress.step / n_steps)

    return fit_centers(
        frames,
        settings.n_centers,
        seed=settings.seed,
        n_rounds=settings.n_rounds,
        start=start,
        after_step=keep,
    )


def _kept_or_built_index(kept: Path, frames: np.ndarray, speaker_id: int, seed: int) -> dict[int, Any]:
    if kept.is_file():
        return FeatureIndex.read(kept, speaker_id=speaker_id).indexes
    index = FeatureIndex({speaker_id: build_index(frames, seed=seed)})
    index.write(kept)
    return index.indexes


def _remove_leftovers(folder: Path, *prefixes: str) -> None:
    """Delete the hidden files: intermediate results, and incomplete files of a call that was killed."""
    for path in folder.glob(".*"):
        if path.name.lstrip(".").startswith(prefixes):
            path.unlink()


@contextmanager
def _progress_bar(title: str, weights: Iterable[int]) -> Iterator[tqdm]:
    from tqdm.auto import tqdm

    look = "{desc} {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
    with tqdm(total=sum(weights), desc=title, bar_format=look, mininterval=0.5) as bar:
        yield bar


class _SpeakerBar:
    """One speaker's part of a progress bar."""

    def __init__(self, bar: tqdm, weight: int) -> None:
        self.bar, self.weight, self.first = bar, weight, bar.n

    def skip_to(self, ratio: float) -> None:
        """Progress of an earlier call: shown as done, but not counted in the speed."""
        self.bar.initial += ratio * self.weight
        self.advance_to(ratio)

    def advance_to(self, ratio: float) -> None:
        self.bar.update(self.first + ratio * self.weight - self.bar.n)

    def finish(self) -> None:
        self.advance_to(1.0)
