"""RVC's step 2a: cut recordings into clips of about 3.7 s, at the voice's rate and 16 kHz, with a manifest.

The original loses some clips silently (numbers given twice, silence turned into NaN, too high peaks). Here
clip numbers are unique, and every dropped span is reported with its reason.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from svcnb import SvcError
from svcnb.audio.audio import Audio, AudioError, read_audio, write_audio
from svcnb.audio.slicing import Slice, SliceSettings, find_slices
from svcnb.audio.spectral import HIGH_PASS_HZ, HIGH_PASS_ORDER
from svcnb.files.disk import write_json
from svcnb.models.rvc.experiment import DERIVED_FOLDERS, FILELIST, GT_FOLDER, WAV16_FOLDER, WAV16_RATE_HZ

MANIFEST_NAME = "clips.json"
MANIFEST_VERSION = 1
CLIP_NAME = re.compile(r"\d+_\d+\..+")  # files of a clip, of this step and those after it


@dataclass(frozen=True)
class CutSettings:
    """Settings for cutting recordings into clips; the defaults are those of RVC 20240604.

    Args:
        sample_rate_hz: of the voice: 32000, 40000 or 48000.
        threshold_db, min_length_ms, min_interval_ms, hop_ms, max_kept_silence_ms: see SliceSettings.
        window_s, overlap_s: length of the windows and their overlap; a rest up to their sum is not divided.
        peak_ratio, level_ratio: x becomes x / peak * (peak_ratio * level_ratio) + (1 - level_ratio) * x.
        max_peak: louder spans are dropped: damaged, or decoded wrongly.
        min_peak: quieter spans are dropped as silent; normalization would amplify their noise to full scale.
        min_clip_s: shorter spans are dropped as empty.
    """

    sample_rate_hz: int = 40000
    threshold_db: float = -42.0
    min_length_ms: float = 1500.0
    min_interval_ms: float = 400.0
    hop_ms: float = 15.0
    max_kept_silence_ms: float = 500.0
    window_s: float = 3.7
    overlap_s: float = 0.3
    peak_ratio: float = 0.9
    level_ratio: float = 0.75
    max_peak: float = 2.5
    min_peak: float = 1e-3
    min_clip_s: float = 0.1

    def __post_init__(self) -> None:
        problems = {
            f"sample_rate_hz is {self.sample_rate_hz}, expected 8000 to 192000": not 8000
            <= self.sample_rate_hz
            <= 192000,
            f"overlap_s is {self.overlap_s}, window_s {self.window_s}: expected 0 <= overlap < window": not 0
            <= self.overlap_s
            < self.window_s,
            f"level_ratio is {self.level_ratio}, expected 0 to 1": not 0 <= self.level_ratio <= 1,
            f"peak_ratio is {self.peak_ratio}, expected above 0, at most 1": not 0 < self.peak_ratio <= 1,
            f"min_peak is {self.min_peak}, max_peak {self.max_peak}: expected 0 <= min_peak < max_peak": not 0
            <= self.min_peak
            < self.max_peak,
        }
        for message, wrong in problems.items():
            if wrong:
                raise SvcError(message)
        self.slicing  # noqa: B018 - raises now if a value is wrong

    @property
    def slicing(self) -> SliceSettings:
        return SliceSettings(
            threshold_db=self.threshold_db,
            min_length_ms=self.min_length_ms,
            min_interval_ms=self.min_interval_ms,
            hop_ms=self.hop_ms,
            max_kept_silence_ms=self.max_kept_silence_ms,
        )


@dataclass(frozen=True)
class ClipSpan:
    """A span of a recording, start_s to end_s: kept as a clip with a name, or dropped for a reason."""

    source: str  # path below the folder of recordings
    start_s: float
    end_s: float
    name: str = ""  # of the clip, such as 0_12
    reason: str = ""  # why it was dropped


@dataclass(frozen=True)
class CutReport:
    """Kept clips, dropped spans with their reasons, and skipped files."""

    kept: list[ClipSpan]
    dropped: list[ClipSpan] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)  # entries of the folder, and why
    n_reused: int = 0  # recordings whose clips were there already

    @property
    def kept_s(self) -> float:
        """Seconds of clips; the overlap of neighbours counts twice."""
        return sum(span.end_s - span.start_s for span in self.kept)

    def __str__(self) -> str:
        lines = [f"{len(self.kept)} clips, {self.kept_s:.1f} s; {len(self.dropped)} spans dropped"]
        lines += [f"dropped {s.source} {s.start_s:.2f}-{s.end_s:.2f} s: {s.reason}" for s in self.dropped]
        return "\n".join(lines + [f"skipped {name}: {reason}" for name, reason in self.skipped])


# ---------------------------------------------------------------- the steps, on samples


def high_pass(samples: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Causal Butterworth high-pass, order 5 at 48 Hz: removes hum and offsets. float [T] -> float64 [T]."""
    from scipy.signal import butter, sosfilt

    sections = butter(HIGH_PASS_ORDER, HIGH_PASS_HZ, btype="high", fs=sample_rate_hz, output="sos")
    samples = np.asarray(samples, np.float64)
    return sosfilt(sections, samples) if len(samples) else samples


def cut_at_silence(samples: np.ndarray, settings: CutSettings) -> list[Slice]:
    """The non-silent slices of float [T] at the settings' sample rate, in order, without overlap."""
    slices = find_slices(samples, settings.sample_rate_hz, settings.slicing)
    return [found for found in slices if not found.silent]


def fixed_windows(n_samples: int, settings: CutSettings) -> list[Slice]:
    """Windows of window_s every window_s - overlap_s; the last one, up to window_s + overlap_s, takes the rest."""
    rate_hz, windows = settings.sample_rate_hz, []
    step_s, longest_s = settings.window_s - settings.overlap_s, settings.window_s + settings.overlap_s
    start = 0
    while n_samples - start > longest_s * rate_hz:
        windows.append(Slice(start, start + int(settings.window_s * rate_hz)))
        start = int(rate_hz * step_s * len(windows))
    return [*windows, Slice(start, n_samples)]


def level(samples: np.ndarray, settings: CutSettings) -> np.ndarray:
    """Partial peak normalization: the new peak is 0.675 + 0.25 * peak with the defaults. Not for silence."""
    scale = settings.peak_ratio * settings.level_ratio / np.abs(samples).max()
    return samples * scale + (1 - settings.level_ratio) * samples


def why_dropped(samples: np.ndarray, settings: CutSettings) -> str:
    """Why samples cannot be a clip; an empty string if they can."""
    if len(samples) < max(1, settings.min_clip_s * settings.sample_rate_hz):
        return f"empty: {len(samples) / settings.sample_rate_hz:.3f} s, expected at least {settings.min_clip_s:g} s"
    peak = float(np.abs(samples).max())
    if not np.isfinite(peak):
        return "holds NaN or infinite samples"
    if peak > settings.max_peak:
        return f"too loud: its peak is {peak:.2f}, allowed are {settings.max_peak:g} (1 is full scale)"
    if peak == 0 or peak < settings.min_peak:
        return f"silent: its peak is {peak:.1e}, expected at least {settings.min_peak:g}"
    return ""


def to_16k(samples: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """float [T] resampled to 16 kHz, with the resampler of the original (soxr HQ)."""
    import librosa

    return librosa.resample(samples, orig_sr=sample_rate_hz, target_sr=WAV16_RATE_HZ, res_type="soxr_hq")


def cut_samples(samples: np.ndarray, settings: CutSettings) -> list[tuple[Slice, np.ndarray, str]]:
    """All steps on one recording: per window its position, normalized samples float64 [T], drop reason."""
    filtered = high_pass(samples, settings.sample_rate_hz)
    cut = []
    for part in cut_at_silence(filtered, settings):
        for window in fixed_windows(part.n_samples, settings):
            position = Slice(part.start + window.start, part.start + window.end)
            clip = filtered[position.start : position.end]
            reason = why_dropped(clip, settings)
            cut.append((position, clip if reason else level(clip, settings), reason))
    if not cut and len(samples):
        reason = f"silent: nothing louder than {settings.threshold_db:g} dB in it"
        cut.append((Slice(0, len(samples)), filtered, reason))
    return cut


# ---------------------------------------------------------------- folders


def cut_recordings(
    folder: Path | str,
    experiment_folder: Path | str,
    settings: CutSettings | None = None,
    *,
    recursive: bool = False,
    overwrite: bool = False,
) -> CutReport:
    """Cut a folder's recordings into experiment/0_gt_wavs and, at 16 kHz, experiment/1_16k_wavs; both float32.

    A killed run resumes. The report is stored in experiment/clips.json too.

    Args:
        folder: recordings of one voice, in any format that ffmpeg reads; numbered in the order of their names.
        recursive: read folders in it as well; else they are reported as skipped.
        overwrite: remove the experiment's clips and what was computed from them, and cut again.

    Raises:
        SvcError: no such folder, no clip in any recording, or the experiment holds clips of other recordings or
            settings, which are never mixed.
    """
    folder, experiment, settings = Path(folder), Path(experiment_folder), settings or CutSettings()
    entries = _list_entries(folder, experiment, recursive=recursive)
    origin = {
        "settings": asdict(settings),
        "recordings": {name: _fingerprint(folder / name) for name in entries},
    }
    done = {} if overwrite else _read_done(experiment, origin)
    if overwrite:
        _remove_clips(experiment)
    manifest = {"version": MANIFEST_VERSION, "origin": origin, "entries": done}
    write_json(experiment / MANIFEST_NAME, manifest)  # before the first clip, so that a killed run can resume
    n_reused = 0
    for number, name in enumerate(tqdm(entries, desc="cutting", unit="file", mininterval=0.5)):
        if name in done and _is_complete(done[name], experiment):
            n_reused += 1
            continue
        done[name] = _cut_recording(folder, name, experiment, number, settings)
        write_json(experiment / MANIFEST_NAME, manifest)
    return _report(folder, done, n_reused)


def _report(folder: Path, done: dict[str, dict], n_reused: int) -> CutReport:
    spans = [ClipSpan(**stored) for entry in done.values() for stored in entry["pieces"]]
    skipped = [(name, entry["skipped"]) for name, entry in done.items() if entry["skipped"]]
    kept, dropped = [span for span in spans if not span.reason], [span for span in spans if span.reason]
    report = CutReport(kept, dropped, skipped, n_reused)
    if not report.kept:
        raise SvcError(f"{folder}: none of {len(done)} entries gave a clip\n{report}")
    return report


def _list_entries(folder: Path, experiment: Path, *, recursive: bool) -> list[str]:
    """Paths below the folder in order; each takes a number, so a clip's name identifies its recording."""
    if not folder.is_dir():
        raise SvcError(f"{folder}: no such folder; put the recordings of one voice into it")
    inside = experiment.resolve()
    found = (
        path
        for path in (folder.rglob("*") if recursive else folder.iterdir())
        if not recursive or path.is_file()
    )
    names = sorted(
        path.relative_to(folder).as_posix() for path in found if not path.resolve().is_relative_to(inside)
    )
    if not names:
        raise SvcError(f"{folder} is empty: put the recordings of one voice into it")
    return names


def _fingerprint(path: Path) -> list[int]:
    """Bytes and checksum of a file; nothing for a folder."""
    if not path.is_file():
        return []
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            checksum = zlib.crc32(block, checksum)
    return [path.stat().st_size, checksum]


def _cut_recording(folder: Path, name: str, experiment: Path, number: int, settings: CutSettings) -> dict:
    """Write one recording's clips; return its entry of the manifest."""
    path = folder / name
    if path.is_dir():
        return {"skipped": "a folder: not read without recursive=True", "pieces": []}
    if path.name.startswith("."):
        return {"skipped": "a hidden file", "pieces": []}
    try:
        samples = read_audio(path, sample_rate_hz=settings.sample_rate_hz).samples
    except AudioError as error:
        return {"skipped": str(error).removeprefix(f"{path}: "), "pieces": []}
    rate_hz, spans, n_clips = settings.sample_rate_hz, [], 0
    for position, normalized, reason in cut_samples(samples, settings):
        span = ClipSpan(name, position.start / rate_hz, position.end / rate_hz, reason=reason)
        if not reason:
            span = replace(span, name=f"{number}_{n_clips}")
            n_clips += 1
            normalized_16k = Audio(to_16k(normalized, rate_hz), WAV16_RATE_HZ)
            for kind, audio in ((GT_FOLDER, Audio(normalized, rate_hz)), (WAV16_FOLDER, normalized_16k)):
                write_audio(experiment / kind / f"{span.name}.wav", audio, subtype="FLOAT")
        spans.append(asdict(span))
    return {"skipped": "", "pieces": spans}


def _is_complete(entry: dict, experiment: Path) -> bool:
    names = [span["name"] for span in entry["pieces"] if span["name"]]
    return all(
        (experiment / kind / f"{name}.wav").is_file() for name in names for kind in (GT_FOLDER, WAV16_FOLDER)
    )


def _read_done(experiment: Path, origin: dict) -> dict[str, dict]:
    """Entries of an earlier run with the same recordings and settings; an error if there are others."""
    path = experiment / MANIFEST_NAME
    fix = "choose another experiment, or overwrite=True to cut again and delete what depends on the old clips"
    if not path.is_file():
        if any((experiment / GT_FOLDER).glob("*.wav")):
            raise SvcError(
                f"{experiment / GT_FOLDER} holds clips of unknown origin (no {MANIFEST_NAME}): {fix}"
            )
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SvcError(f"{path}: not valid JSON ({error}): {fix}") from error
    found = manifest.get("origin", {}) if manifest.get("version") == MANIFEST_VERSION else {}
    for part in ("settings", "recordings"):
        if found.get(part) != origin[part]:
            raise SvcError(
                f"{experiment} was cut from other {part} ({_first_difference(found.get(part), origin[part])}): {fix}"
            )
    return manifest["entries"]


def _first_difference(old: dict | None, new: dict) -> str:
    old = old or {}
    key = next(key for key in [*new, *old] if old.get(key) != new.get(key))
    return f"{key}: {old.get(key, 'missing')} before, {new.get(key, 'missing')} now"


def _remove_clips(experiment: Path) -> None:
    """Remove clips and what later steps computed from them; files with other names are kept."""
    for kind in (GT_FOLDER, WAV16_FOLDER, *DERIVED_FOLDERS):
        if (experiment / kind).is_dir():
            for path in (experiment / kind).iterdir():
                if CLIP_NAME.fullmatch(path.name):
                    path.unlink()
    for name in (MANIFEST_NAME, FILELIST):
        (experiment / name).unlink(missing_ok=True)
