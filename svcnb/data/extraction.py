"""Extract features of clips into a feature store, in one or several processes; resumable at any point."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from svcnb import MissingExtra, SvcError
from svcnb.audio.audio import find_audio_files
from svcnb.data.feature_store import INT16_SCALE, Arrays, Clip, ClipRecord, FeatureSettings, FeatureStore
from svcnb.device import reporting_memory_errors

FLUSH_CLIPS = 16
FLUSH_SECONDS = 20.0
# Largest difference of frame counts within a clip: f0 methods and encoders pad differently.
FRAME_SLACK = 2
# Builds the extractor of a worker, once. If the extractor has `for_speaker(speaker, clips)`, this is called
# before the first clip of each speaker, with all clips of that speaker.
MakeExtractor = Callable[[FeatureSettings], Callable[[Clip], Arrays]]
log = logging.getLogger(__name__)
LOCAL = "local"
CONNECT_SECONDS = 10


@dataclass
class FeatureReport:
    """Result of an extraction. `done` and `reused` are clip names; `skipped` clips are not in the store."""

    done: list[str]
    reused: list[str]
    skipped: list[tuple[Clip, str]]
    seconds: float

    def __str__(self) -> str:
        counts = f"{len(self.done)} clips extracted, {len(self.reused)} reused, {len(self.skipped)} skipped"
        return f"{counts} in {self.seconds:.1f} s"


def scan_clips(folder: Path | str) -> list[Clip]:
    """List the audio files of every speaker; speakers are the sub-folders, in alphabetical order.

    Raises:
        SvcError: no such folder, or no audio in any sub-folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SvcError(f"{folder}: no such folder; expected one with a sub-folder of clips for each speaker")
    clips = []
    for speaker_folder in sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    ):
        paths = find_audio_files(speaker_folder)
        if not paths:
            log.warning("%s has no audio files and is not used as a speaker", speaker_folder)
        clips += [Clip(path, speaker_folder.name, path.relative_to(folder).as_posix()) for path in paths]
    loose = find_audio_files(folder, recursive=False)
    if not clips:
        found = f"{len(loose)} audio files but no speaker folder" if loose else "no audio files"
        raise SvcError(
            f"{folder} has {found}: put the clips into {folder / 'SPEAKER'}, one folder for each speaker"
        )
    if loose:
        log.warning("%d audio files directly in %s belong to no speaker and are ignored", len(loose), folder)
    return clips


def extract(
    clips: Sequence[Clip],
    folder: Path | str,
    settings: FeatureSettings,
    *,
    make_extractor: MakeExtractor,
    n_jobs: int = 1,
    overwrite: bool = False,
) -> FeatureReport:
    """Extract new and changed clips, drop removed ones, and sort the store in the order of `clips`.

    Args:
        make_extractor: called once per worker process; picklable (a top-level function or functools.partial
            of one) if n_jobs is not 1. The extractor turns a Clip into audio int16 [T] (or float32 in -1..1),
            content [N50, D], f0_hz [N] and, with_volume, volume [N].
        n_jobs: worker processes, -1 for one per core. An active joblib backend (dask, ray) is used.
        overwrite: delete an existing store first.

    Returns:
        FeatureReport; clips whose extraction raised SvcError are in `skipped` with the reason.

    Raises:
        SvcError: no clips, the store has other settings, or all clips failed.
    """
    started = time.monotonic()
    names = [clip.name for clip in clips]
    if len(set(names)) != len(names) or not names:
        raise SvcError(
            f"{len(names)} clips with {len(set(names))} names: give at least one clip, and each only once"
        )
    store = FeatureStore.create(folder, settings, overwrite=overwrite)
    todo = [clip for clip in clips if not _is_stored(store, clip)]
    job = _Job(settings, make_extractor)
    skipped = _extract_into(store, _outcomes(job, todo, clips, n_jobs=n_jobs), n_clips=len(todo))
    refused = {clip.name for clip, _ in skipped}
    store.merge([name for name in names if name not in refused])
    if not len(store):
        reasons = "; ".join(f"{clip.name}: {reason}" for clip, reason in skipped[:5])
        raise SvcError(f"none of the {len(skipped)} clips could be used: {reasons}")
    todo_names = {clip.name for clip in todo}
    return FeatureReport(
        done=[name for name in names if name in todo_names - refused],
        reused=[name for name in names if name not in todo_names],
        skipped=sorted(skipped, key=lambda pair: names.index(pair[0].name)),
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True)
class _Job:
    """Input of a worker process; jobs are equal if they belong to the same call of extract."""

    settings: FeatureSettings = field(compare=False)
    make_extractor: MakeExtractor = field(compare=False)
    token: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass
class _Outcome:
    """Arrays of a clip, or the reason why it failed."""

    clip: Clip
    record: ClipRecord | None = None
    arrays: Arrays = field(default_factory=dict)
    reason: str = ""


class _Worker:
    """The extractor of one process and its current speaker."""

    def __init__(self, job: _Job) -> None:
        self.settings = job.settings
        self.extractor = job.make_extractor(job.settings)
        self.speaker: str | None = None
        self.lock = threading.Lock()  # cluster workers may have several threads

    def extract(self, clip: Clip, speaker_clips: Sequence[Clip]) -> _Outcome:
        try:
            _check_name(clip)
            if clip.speaker != self.speaker and hasattr(self.extractor, "for_speaker"):
                self.extractor.for_speaker(clip.speaker, speaker_clips)
            self.speaker = clip.speaker
            stat = _stat(clip)
            with reporting_memory_errors(clip.name, "cut the clip shorter, or use fewer processes"):
                arrays = self.extractor(clip)
            return _Outcome(clip, *_checked(clip, stat, arrays, self.settings))
        except SvcError as error:
            return _Outcome(clip, reason=str(error))


@lru_cache(maxsize=1)
def _worker_of_process(job: _Job) -> _Worker:
    return _Worker(job)


def _extract_in_process(job: _Job, clip: Clip, speaker_clips: Sequence[Clip]) -> _Outcome:
    worker = _worker_of_process(job)
    with worker.lock:
        return worker.extract(clip, speaker_clips)


def _outcomes(job: _Job, todo: list[Clip], clips: Sequence[Clip], *, n_jobs: int) -> Iterator[_Outcome]:
    """Yield results as they finish. Clips are sorted by speaker: a worker sets up each speaker once."""
    if not todo:
        return
    by_speaker: dict[str, list[Clip]] = {}
    for clip in clips:
        by_speaker.setdefault(clip.speaker, []).append(clip)
    rank = {speaker: position for position, speaker in enumerate(by_speaker)}
    ordered = sorted(todo, key=lambda clip: rank[clip.speaker])
    if n_jobs == 1:
        worker = _Worker(job)
        yield from (worker.extract(clip, by_speaker[clip.speaker]) for clip in ordered)
        return
    from joblib import Parallel, delayed

    with _parallel_backend(n_jobs):
        parallel = Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1)
        try:
            yield from parallel(
                delayed(_extract_in_process)(job, clip, by_speaker[clip.speaker]) for clip in ordered
            )
        except BrokenProcessPool as error:
            raise SvcError(
                f"one of {n_jobs} processes was killed, usually for lack of memory: "
                "finished clips are kept; run the same again with fewer (--num_processes)"
            ) from error


@contextmanager
def _parallel_backend(n_jobs: int) -> Iterator[None]:
    """Local processes that share the cores and end after the work, unless a cluster backend is active."""
    from joblib import cpu_count, effective_n_jobs, parallel_config
    from joblib.parallel import get_active_backend

    if type(get_active_backend()[0]).__name__ != "LokyBackend":
        yield
        return
    threads = max(1, cpu_count() // effective_n_jobs(n_jobs))
    with parallel_config(backend="loky", inner_max_num_threads=threads, idle_worker_timeout=30):
        yield


def _extract_into(
    store: FeatureStore, outcomes: Iterator[_Outcome], *, n_clips: int
) -> list[tuple[Clip, str]]:
    """Store outcomes in small parts as they arrive; finished clips are stored even after an exception."""
    skipped: list[tuple[Clip, str]] = []
    waiting: list[tuple[ClipRecord, Arrays]] = []
    flushed_at = time.monotonic()
    try:
        bar_options = {"desc": "features", "unit": "clip", "mininterval": 0.5, "disable": not n_clips}
        for outcome in tqdm(outcomes, total=n_clips, **bar_options):
            if outcome.record is None:
                skipped.append((outcome.clip, outcome.reason))
                continue
            waiting.append((outcome.record, outcome.arrays))
            if len(waiting) >= FLUSH_CLIPS or time.monotonic() - flushed_at > FLUSH_SECONDS:
                store.add(waiting)
                waiting, flushed_at = [], time.monotonic()
    finally:
        store.add(waiting)
    return skipped


def _is_stored(store: FeatureStore, clip: Clip) -> bool:
    try:
        return store.is_current(clip)
    except OSError:
        return False  # extracting the clip reports the error


def _check_name(clip: Clip) -> None:
    """Reject names that are not valid Unicode (from old archives): they cannot be written to text files."""
    try:
        clip.name.encode("utf-8")
    except UnicodeEncodeError:
        raise SvcError(
            f"the name {ascii(clip.name)} is not valid Unicode: rename the file or its folder"
        ) from None


def _stat(clip: Clip) -> os.stat_result:
    try:
        return clip.path.stat()
    except OSError as error:
        raise SvcError(f"{clip.path}: {error.strerror}") from None


def _checked(
    clip: Clip, stat: os.stat_result, arrays: Arrays, settings: FeatureSettings
) -> tuple[ClipRecord, Arrays]:
    """Check that lengths are consistent and values finite; return the record and the arrays to store."""
    fields = ("audio", "content", "f0_hz") + (("volume",) if settings.with_volume else ())
    if missing := [name for name in fields if name not in arrays]:
        raise ValueError(f"the extractor returned no {', '.join(missing)} for {clip.name}")
    kept = {name: np.asarray(arrays[name]) for name in fields}
    if broken := [
        name for name, array in kept.items() if array.dtype.kind == "f" and not np.isfinite(array).all()
    ]:
        raise SvcError(
            f"{', '.join(broken)} of {clip.name} has numbers that are not finite: is the recording damaged?"
        )
    if kept["audio"].dtype != np.int16:
        kept["audio"] = np.clip(np.round(kept["audio"] * INT16_SCALE), -INT16_SCALE, INT16_SCALE - 1).astype(
            np.int16
        )
    counts = {name: len(kept[name]) for name in fields[2:]} | {
        "audio": len(kept["audio"]) // settings.hop_samples
    }
    n_frames = min(counts.values())
    if max(counts.values()) - n_frames > FRAME_SLACK:
        raise SvcError(f"frames of {clip.name} do not match ({counts}): are rate and hop as in the settings?")
    if n_frames < settings.min_frames or not len(kept["content"]):
        shortest_s = settings.min_frames * settings.hop_s
        lasts_s = n_frames * settings.hop_s
        raise SvcError(f"{clip.name} lasts {lasts_s:.2f} s, shorter than the {shortest_s:.2f} s needed")
    n_bytes = sum(array.nbytes for array in kept.values())
    return ClipRecord(
        clip.name, clip.speaker, stat.st_size, stat.st_mtime_ns, n_frames, n_bytes, fields
    ), kept


@contextmanager
def dask_jobs(address: str, *, n_workers: int = -1) -> Iterator[None]:
    """Context in which joblib runs its parallel jobs (those with n_jobs=-1) on a dask cluster.

    Args:
        address: "local" starts workers on this machine and stops them afterwards; else the address of a
            running scheduler, for example tcp://host:8786. Its workers need this package and the same folders
            under the same paths.
        n_workers: processes for "local", -1 for one per core.

    Raises:
        MissingExtra: dask is not installed.
        SvcError: no scheduler answers, or a worker was killed repeatedly.
    """
    try:
        from distributed import Client, KilledWorker, LocalCluster
    except ImportError as error:
        raise MissingExtra('dask is not installed: pip install "svcnb[cluster]"') from error
    from joblib import cpu_count, parallel_config

    target = address
    if address == LOCAL:
        # One thread each: with other numbers of threads the results differ by rounding.
        n_processes = cpu_count() if n_workers == -1 else n_workers
        target = LocalCluster(
            n_workers=n_processes, threads_per_worker=1, dashboard_address=":0", memory_limit=None
        )
    try:
        with _connected(Client, target), parallel_config(backend="dask"):
            yield
    except KilledWorker as error:
        raise SvcError(
            "a dask worker was killed repeatedly, usually for lack of memory: finished clips are "
            "kept; run the same again with fewer workers"
        ) from error
    finally:
        if target is not address:
            target.close()


def _connected(client_class: type, target: object) -> object:
    try:
        return client_class(target, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise SvcError(
            f"no dask scheduler answers at {target} ({error}): start one (dask scheduler), "
            'check the address, or give "local"'
        ) from None
