"""Cutting: a folder of recordings into training clips, a recording into fixed pieces, and pieces joined again."""

from __future__ import annotations

import json
import re
import time
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from svcnb.audio.audio import (
    Audio,
    AudioError,
    find_audio_files,
    natural_order,
    read_audio,
    resample,
    write_audio,
)
from svcnb.audio.loudness import frame_rms, level
from svcnb.audio.slicing import CutSettings, SlicingError, find_clips
from svcnb.files.disk import TEMPORARY_PATTERN, write_text

MANIFEST_NAME = "cuts.json"
MANIFEST_VERSION = 1
SAVE_EVERY_S = 2.0  # a killed run repeats at most this much work
LONGEST_STEM_BYTES = 180  # file systems allow 255 bytes; the number, the suffix and later stages need some
CLIPPED_LEVEL = 0.999
SILENCE_DB = -120.0


@dataclass(frozen=True)
class FileCuts:
    """What became of one recording. Levels are of the recording as it was found, before levelling."""

    source: Path
    speaker: str
    duration_s: float
    clips: list[tuple[float, float, Path]]  # start_s, end_s, file
    silent_s: float
    dropped_s: float
    peak: float
    clipped_ratio: float  # share of samples at full scale
    noise_floor_db: float
    snr_db: float
    reused: bool = False

    @property
    def kept_s(self) -> float:
        return sum(end - start for start, end, _ in self.clips)


@dataclass(frozen=True)
class SpeakerStatistics:
    """Sums and extremes over one speaker's recordings."""

    n_files: int
    kept_s: float
    silent_s: float
    dropped_s: float
    clip_lengths_s: list[float]
    peak: float
    clipped_ratio: float
    noise_floor_db: float  # median over recordings
    snr_db: float  # median over recordings


@dataclass(frozen=True)
class CutReport:
    """All clips of a folder, per recording and per speaker, and what was left out and why."""

    files: list[FileCuts]
    skipped: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def clips(self) -> list[Path]:
        return [path for cuts in self.files for _, _, path in cuts.clips]

    @property
    def kept_s(self) -> dict[str, float]:
        """Seconds of clips per speaker."""
        return {speaker: statistics.kept_s for speaker, statistics in self.speakers.items()}

    @property
    def n_reused(self) -> int:
        """Recordings whose clips were there already."""
        return sum(cuts.reused for cuts in self.files)

    @property
    def speakers(self) -> dict[str, SpeakerStatistics]:
        names = dict.fromkeys(cuts.speaker for cuts in self.files)
        return {name: _summarise([cuts for cuts in self.files if cuts.speaker == name]) for name in names}

    def __str__(self) -> str:
        head = (
            "speaker",
            "files",
            "clips",
            "kept s",
            "silent s",
            "dropped s",
            "clip s (min/median/max)",
            "peak",
            "clipped",
            "noise dB",
            "SNR dB",
        )
        rows = [head, *(_table_row(name, statistics) for name, statistics in self.speakers.items())]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        lines += [f"skipped {path}: {reason}" for path, reason in self.skipped]
        return "\n".join(lines)


def _summarise(files: list[FileCuts]) -> SpeakerStatistics:
    duration_s = sum(cuts.duration_s for cuts in files)
    return SpeakerStatistics(
        n_files=len(files),
        kept_s=sum(cuts.kept_s for cuts in files),
        silent_s=sum(cuts.silent_s for cuts in files),
        dropped_s=sum(cuts.dropped_s for cuts in files),
        clip_lengths_s=[end - start for cuts in files for start, end, _ in cuts.clips],
        peak=max(cuts.peak for cuts in files),
        clipped_ratio=sum(cuts.clipped_ratio * cuts.duration_s for cuts in files) / duration_s,
        noise_floor_db=float(np.median([cuts.noise_floor_db for cuts in files])),
        snr_db=float(np.median([cuts.snr_db for cuts in files])),
    )


def _table_row(name: str, of: SpeakerStatistics) -> tuple[str, ...]:
    lengths = of.clip_lengths_s
    spread = f"{min(lengths):.1f} / {np.median(lengths):.1f} / {max(lengths):.1f}" if lengths else "-"
    return (
        name,
        str(of.n_files),
        str(len(lengths)),
        f"{of.kept_s:.1f}",
        f"{of.silent_s:.1f}",
        f"{of.dropped_s:.1f}",
        spread,
        f"{of.peak:.2f}",
        f"{of.clipped_ratio:.2%}",
        f"{of.noise_floor_db:.0f}",
        f"{of.snr_db:.0f}",
    )


# -------------------------------------------------------------------------------------------- folders


def cut_folder(
    raw: Path | str, clips: Path | str, settings: CutSettings | None = None, *, overwrite: bool = False
) -> CutReport:
    """Cut every recording below `raw` into `clips/<speaker>/<recording>_<number>.flac`.

    A second call continues or reuses: a recording is cut again only if it, the settings or its clips
    changed. Clips of recordings that are gone are removed. Bad files are skipped and reported.

    Args:
        raw: holds one folder per speaker, or recordings directly (the speaker is then the folder's name).
        clips: where speakers' folders with clips and their cuts.json are written.
        overwrite: cut everything again.

    Raises:
        SlicingError: no folder, no audio in it, or no usable clip in any of its files.
    """
    from tqdm.auto import tqdm

    raw, clips, settings = Path(raw), Path(clips), settings or CutSettings()
    sources = _find_sources(raw, clips)
    files: list[FileCuts] = []
    skipped: list[tuple[Path, str]] = []
    n_sources = sum(len(paths) for paths in sources.values())
    with tqdm(total=n_sources, desc="cutting", unit="file", mininterval=0.5) as progress:
        for speaker, paths in sources.items():
            if not paths:
                skipped.append((raw / speaker, "no audio files in this folder"))
            if not _is_text(speaker):
                skipped += [
                    (path, f"the folder's name {ascii(speaker)} is not valid Unicode; rename it")
                    for path in paths
                ]
                progress.update(len(paths))
                continue
            with _SpeakerCutter(raw, clips / speaker, settings, overwrite=overwrite) as cutter:
                for path, stem in zip(paths, _unique_stems(paths, raw), strict=True):
                    try:
                        files.append(cutter.cut(path, stem))
                    except AudioError as error:
                        skipped.append((path, str(error).removeprefix(f"{path}: ")))
                    progress.update()
    if not any(cuts.clips for cuts in files):
        first = f"; first: {skipped[0][0].name}: {skipped[0][1]}" if skipped else ""
        raise SlicingError(f"{raw}: none of {n_sources} audio files gave a clip{first}")
    return CutReport(files, skipped)


def _is_text(name: str) -> bool:
    """Names from old archives may hold bytes that are no text; they would break every file that lists them."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _find_sources(raw: Path, clips: Path) -> dict[str, list[Path]]:
    """Recordings per speaker, none for a folder without audio."""
    if not raw.is_dir():
        raise SlicingError(f"{raw}: no such folder; put recordings into {raw / '<speaker>'}")
    if raw.resolve() == clips.resolve() or raw.resolve() in clips.resolve().parents:
        raise SlicingError(
            f"clips cannot be written into the recordings' folder {raw}; choose another folder"
        )
    folders = (
        entry.name for entry in raw.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__"))
    )
    sources: dict[str, list[Path]] = {name: [] for name in sorted(folders, key=natural_order)}
    for path in find_audio_files(raw):
        inside = path.relative_to(raw)
        speaker = inside.parts[0] if len(inside.parts) > 1 else raw.resolve().name
        sources.setdefault(speaker, []).append(path)
    if not any(sources.values()):
        raise SlicingError(f"{raw}: no audio files; put wav, flac, mp3 ... into {raw / '<speaker>'}")
    return sources


def _unique_stems(paths: Sequence[Path], folder: Path) -> list[str]:
    """A name for each recording's clips: its stem; where two would be equal, suffix and a checksum are added."""

    def comparable(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()

    counts = Counter(comparable(_short(path.stem)) for path in paths)
    stems = []
    for path in paths:
        stem = _short(path.stem)
        if counts[comparable(stem)] > 1:
            checksum = zlib.crc32(path.relative_to(folder).as_posix().encode("utf-8", "surrogateescape"))
            stem = f"{stem}-{path.suffix[1:].lower()}-{checksum:08x}"
        stems.append(stem)
    return stems


def _short(stem: str) -> str:
    return stem.encode("utf-8", "surrogateescape")[:LONGEST_STEM_BYTES].decode("utf-8", "ignore")


class _SpeakerCutter:
    """Cuts one speaker's recordings and keeps cuts.json: which clips came from which file by which settings."""

    def __init__(self, raw: Path, clips: Path, settings: CutSettings, *, overwrite: bool) -> None:
        self.raw, self.clips, self.settings, self.overwrite = raw, clips, settings, overwrite
        self.path = clips / MANIFEST_NAME
        self.old = _read_manifest(self.path)
        self.done: dict[str, dict] = {}
        self.saved_at = time.monotonic()

    def __enter__(self) -> _SpeakerCutter:
        return self

    def __exit__(self, error_type: type | None, error: object, traceback: object) -> None:
        if (
            error_type is None
        ):  # all recordings were visited: what else there was belongs to files that are gone
            for name in _clip_names(self.old) - _clip_names(self.done):
                (self.clips / name).unlink(missing_ok=True)
            for leftover in self.clips.glob(TEMPORARY_PATTERN):  # of a killed run with other settings
                leftover.unlink()
            self.old = {}
        if self.clips.is_dir():
            self._save()

    def cut(self, source: Path, stem: str) -> FileCuts:
        """Cut one recording, or take over what an earlier call made of it."""
        key = source.relative_to(self.raw).as_posix()
        stat = source.stat()
        origin = {
            "bytes": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            "stem": stem,
            "settings": self.settings.model_dump(),
        }
        entry = self.old.get(key)
        reused = entry is not None and not self.overwrite and self._is_current(entry, origin)
        if not reused:
            entry = {"origin": origin, **self._write_clips(source, stem)}
        self.done[key] = entry
        if time.monotonic() - self.saved_at > SAVE_EVERY_S:
            self._save()
        facts = {name: value for name, value in entry.items() if name not in ("origin", "clips")}
        clips = [(start_s, end_s, self.clips / name) for start_s, end_s, name in entry["clips"]]
        return FileCuts(source=source, speaker=self.clips.name, clips=clips, reused=reused, **facts)

    def _is_current(self, entry: dict, origin: dict) -> bool:
        return entry["origin"] == origin and all(
            (self.clips / name).is_file() for _, _, name in entry["clips"]
        )

    def _write_clips(self, source: Path, stem: str) -> dict:
        recording = read_audio(source)
        statistics = _measure(recording, self.settings)
        audio = resample(recording, self.settings.sample_rate_hz)
        audio = level(audio, mode=self.settings.level, target_db=self.settings.level_db)
        plan = find_clips(audio.samples, self.settings)
        if not plan.clips:
            raise AudioError(f"{source}: {_why_empty(audio, plan.dropped_s, self.settings)}")
        self.clips.mkdir(parents=True, exist_ok=True)
        leftover = re.compile(re.escape(stem) + r"_\d{3,}\.flac")  # of other settings or of a killed run
        for path in [path for path in self.clips.iterdir() if leftover.fullmatch(path.name)]:
            path.unlink()
        rate_hz, clips = audio.sample_rate_hz, []
        for number, piece in enumerate(plan.clips, start=1):
            name = f"{stem}_{number:03d}.flac"
            write_audio(self.clips / name, Audio(audio.samples[piece.start : piece.end], rate_hz))
            clips.append([piece.start / rate_hz, piece.end / rate_hz, name])
        return {
            "duration_s": audio.duration_s,
            "clips": clips,
            "silent_s": plan.silent_s,
            "dropped_s": plan.dropped_s,
            **statistics,
        }

    def _save(self) -> None:
        """Write cuts.json; what is not visited yet stays in it, so that a killed run loses nothing."""
        sources = {**self.old, **self.done}
        text = json.dumps({"version": MANIFEST_VERSION, "sources": sources}, indent=1, sort_keys=True)
        write_text(self.path, text)
        self.saved_at = time.monotonic()


def _clip_names(sources: dict[str, dict]) -> set[str]:
    return {name for entry in sources.values() for _, _, name in entry["clips"]}


def _read_manifest(path: Path) -> dict[str, dict]:
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SlicingError(
            f"{path}: not valid JSON ({error}); delete it, the clips are then cut again"
        ) from error
    return manifest["sources"] if manifest.get("version") == MANIFEST_VERSION else {}


def _measure(audio: Audio, settings: CutSettings) -> dict[str, float]:
    """Peak, clipping, noise floor and signal-to-noise ratio; rough for music without pauses."""
    hop = max(1, audio.sample_rate_hz // 50)
    rms = frame_rms(audio.samples, window_samples=2 * hop, hop_samples=hop)
    levels_db = 20 * np.log10(np.maximum(rms, 10 ** (SILENCE_DB / 20)))
    noise_db = float(np.percentile(levels_db, 5))
    sounding = rms[levels_db >= max(settings.threshold_db, noise_db)]
    signal_db = 20 * np.log10(
        max(float(np.sqrt(np.mean(np.square(sounding)))) if len(sounding) else 0.0, 1e-6)
    )
    clipped = float(np.mean(np.abs(audio.samples) >= CLIPPED_LEVEL))
    return {
        "peak": audio.peak,
        "clipped_ratio": clipped,
        "noise_floor_db": noise_db,
        "snr_db": max(0.0, signal_db - noise_db),
    }


def _why_empty(audio: Audio, dropped_s: float, settings: CutSettings) -> str:
    if dropped_s:
        return f"no sound of {settings.min_clip_s:g} s or longer (min_clip_s) in {audio.duration_s:.1f} s"
    peak_db = 20 * np.log10(max(audio.peak, 1e-6))
    return (
        f"nothing louder than {settings.threshold_db:g} dB (its peak is {peak_db:.0f} dB); "
        "lower threshold_db or set level to peak"
    )
