"""Read, write and resample audio.

Inside svcnb audio is one channel of float32 in [-1, 1]; this module converts from and to files of any sample
rate, sample format, channel count and container.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile

from svcnb import SvcError
from svcnb.files.disk import WriteError, atomic_path, watched_file

# File name suffix -> (container, default sample format) of what can be written.
OUTPUT_FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
SOUNDFILE_SUFFIXES = (
    ".wav",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".aif",
    ".aiff",
    ".au",
    ".caf",
    ".w64",
)
FFMPEG_SUFFIXES = (".m4a", ".aac", ".wma", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
AUDIO_SUFFIXES = SOUNDFILE_SUFFIXES + FFMPEG_SUFFIXES
READ_SAMPLES = 2**18  # decoded at once
UNKNOWN_LENGTH = 2**60  # libsndfile returns more for streams without a length in the header
BLOCK_SAMPLES = 65536  # libsndfile 1.2.2 crashes when a minute of Vorbis is written in one call
MP3_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_FIXED_POINT_BITS = {"PCM_16": 16, "PCM_24": 24}
log = logging.getLogger(__name__)


class AudioError(SvcError):
    """A file or a signal that cannot be used as audio."""


@dataclass(frozen=True)
class Audio:
    """Mono audio: float32 [T] (1.0 = full scale) and its sample rate."""

    samples: np.ndarray
    sample_rate_hz: int

    def __post_init__(self) -> None:
        samples = np.asarray(self.samples, dtype=np.float32)
        if samples.ndim != 1:
            raise ValueError(f"samples have shape {samples.shape}, expected [T]; average the channels first")
        if self.sample_rate_hz <= 0:
            raise ValueError(f"sample_rate_hz is {self.sample_rate_hz}, expected a positive number")
        object.__setattr__(self, "samples", samples)
        object.__setattr__(self, "sample_rate_hz", int(self.sample_rate_hz))

    @property
    def n_samples(self) -> int:
        return len(self.samples)

    @property
    def duration_s(self) -> float:
        return self.n_samples / self.sample_rate_hz

    @property
    def peak(self) -> float:
        """Largest absolute sample, 0 for an empty signal."""
        return float(np.abs(self.samples).max(initial=0.0))

    def read(self, start: int, end: int) -> np.ndarray:
        """Samples start..end (end excluded), limited to the recording. A view."""
        return self.samples[max(0, start) : max(0, end)]

    def resampled(self, sample_rate_hz: int) -> Audio:
        """The same audio at another sample rate."""
        return resample(self, sample_rate_hz)

    def slice_s(self, start_s: float, end_s: float) -> Audio:
        """The part between two times; times outside the recording are clipped to its ends."""
        start, end = (round(max(0.0, t) * self.sample_rate_hz) for t in (start_s, end_s))
        return Audio(self.samples[start:end], self.sample_rate_hz)


# ---------------------------------------------------------------------------------------------- reading


def read_audio(path: Path | str, *, sample_rate_hz: int | None = None) -> Audio:
    """Read any audio or video file as mono (channels averaged).

    Args:
        path: a format of libsndfile (wav, flac, ogg, opus, mp3, aiff ...); others are decoded by ffmpeg.
        sample_rate_hz: resample to this rate; None keeps the file's own.

    Raises:
        AudioError: missing file, not audio, no samples, or NaN or infinite samples.
    """
    with decoding(path) as (rate_hz, blocks):
        audio = Audio(np.concatenate(list(blocks)), rate_hz)
    return audio if sample_rate_hz is None else resample(audio, sample_rate_hz)


@contextmanager
def decoding(path: Path | str) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    """Sample rate of a file and its samples as mono blocks, float32 [T]; errors as `read_audio`."""
    path = Path(path)
    if not path.exists():
        raise AudioError(f"{path}: no such file")
    if path.is_dir():
        raise AudioError(f"{path}: is a folder, expected an audio file")
    with ExitStack() as opened:
        try:
            # bytes: names from old archives may be invalid Unicode
            file = opened.enter_context(_Stream(os.fsencode(path) if os.name == "posix" else path))
        except soundfile.LibsndfileError as error:
            decoded = opened.enter_context(_decoded_by_ffmpeg(path, reason=error.error_string.rstrip(".")))
            file = opened.enter_context(_Stream(decoded))
        yield file.samplerate, _blocks(file, path)


class _Stream(soundfile.SoundFile):
    """Not seekable: soundfile seeks after every block of a seekable file, which breaks MP3 decoding."""

    def seekable(self) -> bool:
        return False


def _blocks(file: _Stream, path: Path) -> Iterator[np.ndarray]:
    n_samples = n_broken = 0
    try:
        while len(channels := file.read(READ_SAMPLES, dtype="float32", always_2d=True)):
            n_samples += len(channels)
            samples = channels[:, 0] if channels.shape[1] == 1 else channels.mean(axis=1)
            n_broken += len(samples) - int(np.isfinite(samples).sum())
            yield np.ascontiguousarray(samples)
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        raise AudioError(f"{path}: damaged or cut short ({reason}); copy or export the file again") from error
    if n_broken:
        raise AudioError(
            f"{path}: {n_broken} of {n_samples} samples are NaN or infinite; export the file again"
        )
    if n_samples == 0:
        raise AudioError(f"{path}: holds no samples")
    if 1.01 * n_samples < file.frames < UNKNOWN_LENGTH:
        log.warning(
            "%s ends after %.1f of %.1f s: was it copied completely?",
            path,
            n_samples / file.samplerate,
            file.frames / file.samplerate,
        )


@contextmanager
def _decoded_by_ffmpeg(path: Path, *, reason: str) -> Iterator[Path]:
    """Temporary WAV file of a format that only ffmpeg can decode."""
    program = shutil.which("ffmpeg")
    if program is None:
        if path.suffix.lower() in SOUNDFILE_SUFFIXES:
            raise AudioError(f"{path}: not readable as audio ({reason})")
        raise AudioError(
            f"{path}: {path.suffix or 'this file'} needs ffmpeg, which is not installed; "
            f"install ffmpeg or convert the file to wav or flac"
        )
    with tempfile.TemporaryDirectory() as folder:
        decoded = Path(folder, "decoded.wav")
        # "file:" keeps names such as "-i.mp3" or "http:x.mp3" from being read as options or addresses.
        done = subprocess.run(
            [
                program,
                "-v",
                "error",
                "-nostdin",
                "-protocol_whitelist",
                "file",
                "-i",
                f"file:{path}",
                "-map",
                "0:a:0",
                "-c:a",
                "pcm_f32le",
                "-rf64",
                "auto",
                str(decoded),
            ],
            capture_output=True,
            check=False,
        )
        if b"No space left" in done.stderr:
            raise WriteError(
                f"{path} needs a temporary copy in {folder}, and the disk is full: "
                "free some space, or set TMPDIR to another folder"
            )
        if done.returncode != 0 or not decoded.exists():
            raise AudioError(f"{path}: not readable as audio ({reason}; ffmpeg cannot decode it either)")
        yield decoded


def find_audio_files(folder: Path | str, *, recursive: bool = True) -> list[Path]:
    """All audio and video files below a folder in natural order (2 before 10), without hidden ones.

    Symbolic links to folders are followed (Google Drive is often linked), each real folder once.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AudioError(f"{folder}: no such folder")
    found = []
    visited: set[str] = set()
    for parent, folder_names, file_names in os.walk(folder, followlinks=True):
        seen_before = (real := os.path.realpath(parent)) in visited
        visited.add(real)
        enter = recursive and not seen_before
        folder_names[:] = [name for name in folder_names if enter and not _is_hidden(name)]
        if seen_before:
            continue
        found += [
            Path(parent, name)
            for name in file_names
            if Path(name).suffix.lower() in AUDIO_SUFFIXES and not _is_hidden(name)
        ]
    return sorted(found, key=lambda path: natural_order(path.relative_to(folder).as_posix()))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def natural_order(text: str) -> list[tuple]:
    """Sort key that compares numbers inside names as numbers."""
    parts = re.split(r"([0-9]+)", text.casefold())
    key = [(0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part) for part in parts]
    return [*key, (2, 0, text)]


# ---------------------------------------------------------------------------------------------- writing


def write_audio(path: Path | str, audio: Audio, *, subtype: str | None = None) -> Path:
    """Write wav, flac, ogg or mp3 (by suffix); the file is renamed into place when it is complete.

    Samples beyond full scale are clipped, except for the float subtypes. 16-bit samples that are written and
    read again stay equal, any number of times.

    Args:
        subtype: libsndfile's name such as "PCM_24" or "FLOAT"; None: 16 bit (wav, flac).
    """
    with AudioWriter(path, audio.sample_rate_hz, subtype=subtype) as writer:
        writer.append(audio.samples)
    return writer.path


class AudioWriter:
    """Writes a long recording chunk by chunk; the file gets its final name only when writing succeeded."""

    def __init__(self, path: Path | str, sample_rate_hz: int, *, subtype: str | None = None) -> None:
        self.path = Path(path)
        self.n_samples = 0
        container, default = output_format(self.path)
        self._subtype = subtype or default
        _check_rate(self.path.suffix.lower(), sample_rate_hz)
        if not soundfile.check_format(container, self._subtype):
            valid = ", ".join(soundfile.available_subtypes(container))
            raise AudioError(
                f"{self.path.name}: {container} has no subtype {self._subtype!r}; valid: {valid}"
            )
        self._format = {
            "samplerate": sample_rate_hz,
            "channels": 1,
            "subtype": self._subtype,
            "format": container,
        }
        self._writing = self._write_atomically()

    def append(self, samples: np.ndarray) -> None:
        """Add float samples [T]."""
        _write_blocks(self._file, samples, self._subtype, name=str(self.path))
        self.n_samples += len(samples)

    def __enter__(self) -> AudioWriter:
        self._file = self._writing.__enter__()
        return self

    def __exit__(
        self, error_type: type | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._writing.__exit__(error_type, error, traceback)

    @contextmanager
    def _write_atomically(self) -> Iterator[soundfile.SoundFile]:
        with atomic_path(self.path) as temporary, watched_file(temporary) as disk:
            try:
                with soundfile.SoundFile(disk, "w", **self._format) as file:
                    yield file
            except soundfile.LibsndfileError as error:
                raise AudioError(
                    f"{self.path}: cannot be written ({error.error_string.rstrip('.')})"
                ) from error
            if not self.n_samples:
                raise AudioError(f"{self.path}: nothing to write, the audio has no samples")


def output_format(path: Path) -> tuple[str, str]:
    """libsndfile's (container, default subtype) for a file name, or an error that lists the formats."""
    if path.suffix.lower() not in OUTPUT_FORMATS:
        valid = " ".join(OUTPUT_FORMATS)
        raise AudioError(
            f"{path.name}: cannot write {path.suffix or 'a name without suffix'}; use one of {valid}"
        )
    return OUTPUT_FORMATS[path.suffix.lower()]


def _check_rate(suffix: str, sample_rate_hz: int) -> None:
    if suffix == ".mp3" and sample_rate_hz not in MP3_RATES_HZ:
        raise AudioError(f"mp3 cannot hold {sample_rate_hz} Hz; resample to 48000 Hz or less, or write flac")


def _write_blocks(file: soundfile.SoundFile, samples: np.ndarray, subtype: str, *, name: str) -> None:
    samples = np.asarray(samples, dtype=np.float32)
    if not np.isfinite(samples).all():
        n_broken = len(samples) - int(np.isfinite(samples).sum())
        raise AudioError(f"{name}: not written, {n_broken} of {len(samples)} samples are NaN or infinite")
    for start in range(0, len(samples), BLOCK_SAMPLES):
        file.write(_encode(samples[start : start + BLOCK_SAMPLES], subtype))


def _encode(samples: np.ndarray, subtype: str) -> np.ndarray:
    """Fixed-point samples: libsndfile multiplies floats by 32767 but divides by 32768 when reading."""
    bits = _FIXED_POINT_BITS.get(subtype)
    if bits is None:
        return samples if subtype in ("FLOAT", "DOUBLE") else np.clip(samples, -1.0, 1.0)
    scale = 2 ** (bits - 1)
    whole = np.clip(np.rint(samples.astype(np.float64) * scale), -scale, scale - 1)
    return whole.astype(np.int16) if bits == 16 else whole.astype(np.int32) << (32 - bits)


def player_bytes(audio: Audio, *, format: str = "mp3") -> bytes:
    """The audio as a small compressed file in memory, for players in notebooks and web pages."""
    container, subtype = output_format(Path(f"player.{format}"))
    if format == "mp3" and audio.sample_rate_hz not in MP3_RATES_HZ:
        audio = resample(audio, 48000 if audio.sample_rate_hz > 48000 else 44100)
    memory = io.BytesIO()
    with soundfile.SoundFile(memory, "w", audio.sample_rate_hz, 1, subtype, format=container) as file:
        _write_blocks(file, audio.samples, subtype, name="player")
    return memory.getvalue()


# ------------------------------------------------------------------------------------------- resampling


def resample(audio: Audio, sample_rate_hz: int) -> Audio:
    """The same audio at another sample rate, round(T * new / old) samples long."""
    return Audio(resample_samples(audio.samples, audio.sample_rate_hz, sample_rate_hz), sample_rate_hz)


def fit_length(samples: np.ndarray, n_samples: int) -> np.ndarray:
    """Cut or zero-pad to `n_samples`."""
    return np.pad(samples[:n_samples], (0, max(0, n_samples - len(samples))))


def resample_samples(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """float32 [T] -> float32 [round(T * to_hz / from_hz)] with soxr's best filter."""
    import soxr

    samples = np.asarray(samples, dtype=np.float32)
    if from_hz == to_hz or len(samples) == 0:
        return samples
    n_wanted = round(len(samples) * to_hz / from_hz)
    resampled = soxr.resample(samples, from_hz, to_hz, quality="VHQ")[:n_wanted]
    return np.pad(resampled, (0, n_wanted - len(resampled))).astype(np.float32, copy=False)
