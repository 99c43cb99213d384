"""Features of a set of clips on disk: a few large files, valid for one set of settings.

    settings.json                      settings of the features
    index.json                         clips of each shard, in the order of the clips
    features_000_1f2e3d4c.safetensors  at most 256 clips and about 200 MB, named by its content hash
    part_00000.safetensors             finished clips of a running extraction

Parts and shards list their clips in their headers. Every file is written under a temporary name and renamed,
the index after the shards it lists: if the process is killed at any point, the store can still be opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from svcnb import SvcError
from svcnb.features.content.encoders import refuse_removed
from svcnb.files.disk import TEMPORARY_PATTERN, atomic_path, reporting_disk_errors, write_json

MAX_SHARD_CLIPS = 256
MAX_SHARD_BYTES = 200_000_000
INT16_SCALE = 32768.0
_HEADER_KEY = "clips"  # a single key: the format does not keep the order of several


class FeatureSettings(BaseModel):
    """Settings of a feature store; all its features have the same.

    Attributes:
        encoder: resolved name of the content encoder.
        pitch_method: resolved name of the f0 method.
        f0_threshold: voicing threshold, None for the method's own.
        min_frames: shorter clips are rejected.
        version: incremented when the meaning of the stored arrays changes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sample_rate_hz: int = Field(44100, ge=1)
    hop_samples: int = Field(512, ge=1)
    encoder: str
    pitch_method: str
    f0_min_hz: float = Field(50.0, gt=0)
    f0_max_hz: float = Field(1100.0, gt=0)
    f0_threshold: float | None = 0.05
    with_volume: bool = False
    min_frames: int = Field(25, ge=1)
    version: int = 1

    @property
    def hop_s(self) -> float:
        return self.hop_samples / self.sample_rate_hz


@dataclass(frozen=True)
class Clip:
    """One recording of one speaker; `name` is its path relative to the clips folder, with "/"."""

    path: Path
    speaker: str
    name: str


@dataclass(frozen=True)
class ClipRecord:
    """Metadata of a stored clip. Size and time are those of the audio file."""

    name: str
    speaker: str
    size_bytes: int
    mtime_ns: int
    n_frames: int
    n_bytes: int
    fields: tuple[str, ...]


Arrays = dict[str, np.ndarray]


class FeatureStore:
    """Features by clip name, in the order of the extracted clips.

    Use `open` to read; `create` and `add` are used by `extract`.
    """

    def __init__(self, folder: Path, settings: FeatureSettings) -> None:
        self.folder = folder
        self.settings = settings
        self._files: dict[str, list[ClipRecord]] = {}
        self._file_of: dict[str, str] = {}  # clip name -> file name
        self._records: dict[str, ClipRecord] = {}
        self._handles: dict[str, Any] = {}

    @classmethod
    def open(cls, folder: Path | str, settings: FeatureSettings | None = None) -> FeatureStore:
        """Open a store.

        Args:
            settings: raise if the store has others; None accepts any.

        Raises:
            SvcError: no store, other settings (all differences listed, with the fix), files missing or
                broken.
        """
        folder = Path(folder)
        path = folder / "settings.json"
        if not path.is_file():
            raise SvcError(
                f"{folder} holds no features (no settings.json): extract them first, or give their folder"
            )
        store = cls(folder, _read_settings(path))
        if settings is not None and settings != store.settings:
            differences = _differences(store.settings, settings)
            raise SvcError(
                f"{folder} holds features made with other settings: {differences}. "
                "Extract again with overwrite=True (--overwrite), or take another folder"
            )
        refuse_removed(store.settings.encoder, f"a voice of the features in {folder}")
        store._read_index()
        return store

    @classmethod
    def create(
        cls, folder: Path | str, settings: FeatureSettings, *, overwrite: bool = False
    ) -> FeatureStore:
        """Open the store for writing, or create it; `overwrite` deletes an existing store first."""
        folder = Path(folder)
        with reporting_disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        path = folder / "settings.json"
        if overwrite:
            (folder / "index.json").unlink(missing_ok=True)
            for old in (*folder.glob("part_*.safetensors"), *folder.glob("features_*.safetensors")):
                old.unlink()
        if overwrite or not path.exists():
            write_json(path, settings.model_dump())
        for leftover in (*folder.glob(TEMPORARY_PATTERN), *folder.glob("*.partial")):
            leftover.unlink()
        return cls.open(folder, settings)

    def __len__(self) -> int:
        return len(self._records)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handles": {}}  # file handles are not pickled

    def names(self) -> list[str]:
        return list(self._records)

    def speakers(self) -> list[str]:
        """Speakers in alphabetical order."""
        return sorted({record.speaker for record in self._records.values()})

    def record(self, name: str) -> ClipRecord:
        try:
            return self._records[name]
        except KeyError:
            raise SvcError(
                f"{self.folder} has no clip {name!r} among its {len(self)}: extract again"
            ) from None

    def duration_s(self, name: str) -> float:
        return self.record(name).n_frames * self.settings.hop_s

    def is_current(self, clip: Clip) -> bool:
        """Whether the clip is stored and its audio file is unchanged (size and time)."""
        record = self._records.get(clip.name)
        if record is None:
            return False
        stat = clip.path.stat()
        return (record.size_bytes, record.mtime_ns) == (stat.st_size, stat.st_mtime_ns)

    def read(self, name: str) -> Arrays:
        """Arrays of a clip: audio int16 [T], content float [N50, D], f0_hz float32 [N], maybe volume [N]."""
        record = self.record(name)
        file_name = self._file_of[name]
        try:
            if file_name not in self._handles:
                self._handles[file_name] = safe_open(self.folder / file_name, framework="np")
            return {field: self._handles[file_name].get_tensor(f"{name}/{field}") for field in record.fields}
        except (OSError, SafetensorError) as error:
            raise SvcError(
                f"{self.folder / file_name} is missing or broken ({error}): "
                "extract again with overwrite=True (--overwrite)"
            ) from None

    def add(self, finished: Sequence[tuple[ClipRecord, Arrays]]) -> None:
        """Write finished clips as one part file; they replace stored clips of the same names."""
        if not finished:
            return
        numbers = [int(path.stem.removeprefix("part_")) for path in self.folder.glob("part_*.safetensors")]
        name = f"part_{max(numbers, default=-1) + 1:05d}.safetensors"
        with atomic_path(self.folder / name) as partial:
            _write_shard(partial, finished)
        self._register(name, [record for record, _ in finished])

    def merge(self, order: Sequence[str]) -> None:
        """Merge parts into shards, with the stored clips of `order` in that order; others are dropped.

        Unchanged shards are not written again.
        """
        wanted = [self._records[name] for name in order if name in self._records]
        files: dict[str, list[ClipRecord]] = {}
        for number, records in enumerate(_plan_shards(wanted)):
            files[self._existing_shard(number, records) or self._merge_shard(number, records)] = records
        shards = {name: [asdict(record) for record in records] for name, records in files.items()}
        if files != self._files or not (self.folder / "index.json").exists():
            write_json(self.folder / "index.json", {"version": 1, "shards": shards})
        self._handles.clear()
        for pattern in ("part_*.safetensors", "features_*.safetensors"):
            for path in self.folder.glob(pattern):
                if path.name not in files:
                    path.unlink()
        self._read_index()

    def _existing_shard(self, number: int, records: list[ClipRecord]) -> str | None:
        name = self._file_of[records[0].name]
        return name if name.startswith(f"features_{number:03d}_") and self._files[name] == records else None

    def _merge_shard(self, number: int, records: list[ClipRecord]) -> str:
        unnamed = self.folder / f"features_{number:03d}.partial"
        with atomic_path(unnamed) as partial:
            _write_shard(partial, [(record, self.read(record.name)) for record in records])
        with unnamed.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = f"features_{number:03d}_{digest[:8]}.safetensors"
        unnamed.replace(self.folder / name)
        return name

    def _read_index(self) -> None:
        self._files, self._file_of, self._records = {}, {}, {}
        path = self.folder / "index.json"
        if path.exists():
            try:
                shards = json.loads(path.read_text(encoding="utf-8"))["shards"]
            except (ValueError, KeyError) as error:
                raise SvcError(
                    f"{path} is broken ({error}): extract again with overwrite=True (--overwrite)"
                ) from None
            for name, records in shards.items():
                if not (self.folder / name).is_file():
                    raise SvcError(
                        f"{self.folder / name} is missing: extract again with overwrite=True (--overwrite)"
                    )
                self._register(name, [_record(stored) for stored in records])
        for part in sorted(self.folder.glob("part_*.safetensors")):
            self._register(part.name, _read_header(part))

    def _register(self, file_name: str, records: list[ClipRecord]) -> None:
        self._files[file_name] = records
        for record in records:
            self._records[record.name] = record
            self._file_of[record.name] = file_name


def _plan_shards(records: Iterable[ClipRecord]) -> Iterator[list[ClipRecord]]:
    shard: list[ClipRecord] = []
    n_bytes = 0
    for record in records:
        if shard and (len(shard) == MAX_SHARD_CLIPS or n_bytes + record.n_bytes > MAX_SHARD_BYTES):
            yield shard
            shard, n_bytes = [], 0
        shard.append(record)
        n_bytes += record.n_bytes
    if shard:
        yield shard


def _write_shard(path: Path, clips: Sequence[tuple[ClipRecord, Arrays]]) -> None:
    tensors = {
        f"{record.name}/{field}": np.ascontiguousarray(arrays[field])
        for record, arrays in clips
        for field in record.fields
    }
    header = json.dumps([asdict(record) for record, _ in clips], ensure_ascii=False)
    try:
        save_file(tensors, path, metadata={_HEADER_KEY: header})
    except SafetensorError as error:
        raise _as_system_error(error) from error


def _as_system_error(error: SafetensorError) -> OSError | SafetensorError:
    """Recover the OSError: safetensors gives its number only in the message: "... (os error 28)"."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else error


def _read_header(path: Path) -> list[ClipRecord]:
    try:
        with safe_open(path, framework="np") as file:
            return [_record(stored) for stored in json.loads(file.metadata()[_HEADER_KEY])]
    except (OSError, SafetensorError) as error:
        raise SvcError(f"{path} is broken ({error}): delete it and extract again") from None


def _record(stored: dict[str, Any]) -> ClipRecord:
    return ClipRecord(**stored | {"fields": tuple(stored["fields"])})


def _read_settings(path: Path) -> FeatureSettings:
    try:
        return FeatureSettings.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise SvcError(
            f"{path} is not a settings file of this version ({problems}): "
            "extract again with overwrite=True (--overwrite)"
        ) from None


def _differences(stored: FeatureSettings, wanted: FeatureSettings) -> str:
    pairs = [(name, getattr(stored, name), getattr(wanted, name)) for name in FeatureSettings.model_fields]
    return ", ".join(f"{name} is {old!r}, wanted {new!r}" for name, old, new in pairs if old != new)
