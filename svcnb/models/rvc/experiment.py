"""The folder logs/EXPERIMENT in RVC's layout: write it so that RVC can train on it, read what RVC wrote.

0_gt_wavs/0_3.wav                          float32 at the voice's rate
1_16k_wavs/0_3.wav                         float32 at 16 kHz
2a_f0/0_3.wav.npy                          int64 [N], coarse bins 1..255
2b-f0nsf/0_3.wav.npy                       float64 [N], Hz, 0 = unvoiced
3_feature256/0_3.npy or 3_feature768/...   float32 [N', 256 or 768], 50 per second
filelist.txt                               the clips to train on
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from svcnb import SvcError
from svcnb.audio.audio import Audio, write_audio
from svcnb.files.disk import atomic_path, write_text
from svcnb.models.rvc.network import HOP_SAMPLES, coarse_f0

GT_FOLDER, WAV16_FOLDER, COARSE_FOLDER, F0_FOLDER = "0_gt_wavs", "1_16k_wavs", "2a_f0", "2b-f0nsf"
FEATURE_FOLDERS = {256: "3_feature256", 768: "3_feature768"}  # v1, v2
DERIVED_FOLDERS = (COARSE_FOLDER, F0_FOLDER, *FEATURE_FOLDERS.values())
FILELIST = "filelist.txt"
WAV16_RATE_HZ = 16000
MUTE_SECONDS = 3
N_MUTE_LINES = 2
N_MUTE_FRAMES = MUTE_SECONDS * WAV16_RATE_HZ // HOP_SAMPLES + 1  # 301
Extract = Callable[[np.ndarray], np.ndarray]  # float32 [T] at 16 kHz -> features [N, 256 or 768]


class TreeError(SvcError):
    """A tree or a file in it that cannot be used; the message names the file."""


@dataclass(frozen=True)
class TreeClip:
    """Paths of one clip's files; no f0 files in a tree without pitch."""

    name: str
    wav_path: Path
    features_path: Path
    coarse_path: Path | None = None
    f0_path: Path | None = None
    speaker_id: int = 0

    @property
    def line(self) -> str:
        """The clip's line of filelist.txt."""
        paths = [self.wav_path, self.features_path, self.coarse_path, self.f0_path]
        fields = [path.absolute().as_posix() for path in paths if path is not None]
        if bad := [text for text in fields if "|" in text or "\n" in text]:
            raise TreeError(
                f"{bad[0]}: filelist.txt cannot hold a path with | or a line break: rename the folder"
            )
        return "|".join([*fields, str(self.speaker_id)])


@dataclass(frozen=True)
class ClipContent:
    """One clip's arrays.

    Args:
        audio: at the voice's rate.
        samples_16k: float32 [T]; None if it is only needed for training.
        features: float [N', 256 or 768].
        f0_hz: float [N], 0 = unvoiced; None without pitch.
    """

    name: str
    audio: Audio
    features: np.ndarray
    f0_hz: np.ndarray | None = None
    samples_16k: np.ndarray | None = None
    speaker_id: int = 0


@dataclass(frozen=True)
class TreeImport:
    """The clips of a tree that have every file, and the dropped ones with reasons."""

    clips: list[TreeClip]
    dropped: list[tuple[str, str]] = field(default_factory=list)  # name, why
    feature_width: int = 0
    with_f0: bool = True
    sample_rate_hz: int = 0  # of most clips; those of another rate are dropped

    def __str__(self) -> str:
        lines = [f"dropped {name}: {reason}" for name, reason in self.dropped]
        return "\n".join([f"{len(self.clips)} clips, {len(self.dropped)} dropped", *lines])


# ---------------------------------------------------------------- single files


def write_array(path: Path, array: np.ndarray) -> Path:
    """Write an .npy file atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    return path


def write_features(tree: Path, name: str, features: np.ndarray) -> Path:
    """Write features, float [N, D], to 3_feature256 or 3_feature768 by their width."""
    features = np.asarray(features, np.float32)
    if features.ndim != 2 or features.shape[1] not in FEATURE_FOLDERS or not len(features):
        raise TreeError(
            f"{name}: features have shape {features.shape}, expected [N, 256] (v1) or [N, 768] (v2)"
        )
    if not np.isfinite(features).all():
        raise TreeError(
            f"{name}: the features hold NaN or infinite values: check the recording and the encoder"
        )
    return write_array(Path(tree) / FEATURE_FOLDERS[features.shape[1]] / f"{name}.npy", features)


def write_f0(tree: Path, name: str, f0_hz: np.ndarray) -> tuple[Path, Path]:
    """Write f0, float [N] in Hz, to 2a_f0 (coarse bins) and 2b-f0nsf (Hz)."""
    f0_hz = np.asarray(f0_hz, np.float64)
    if f0_hz.ndim != 1 or not len(f0_hz) or not np.isfinite(f0_hz).all() or (f0_hz < 0).any():
        raise TreeError(f"{name}: f0 of shape {f0_hz.shape}, expected [N], finite Hz, at least 0")
    coarse = write_array(Path(tree) / COARSE_FOLDER / f"{name}.wav.npy", coarse_f0(f0_hz))
    return coarse, write_array(Path(tree) / F0_FOLDER / f"{name}.wav.npy", f0_hz)


def read_array(path: Path) -> np.ndarray:
    """Read an .npy file of the tree, without pickled objects."""
    try:
        with open(path, "rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise TreeError(f"{path}: not a readable .npy file ({error}): compute it again") from error


def read_content(clip: TreeClip) -> ClipContent:
    """A clip's arrays: audio float32 [T], features float32 [N', D], f0 float64 [N]."""
    samples, rate_hz = _read_wav(clip.wav_path)
    f0_hz = read_array(clip.f0_path).astype(np.float64) if clip.f0_path else None
    features = read_array(clip.features_path).astype(np.float32)
    return ClipContent(clip.name, Audio(samples, rate_hz), features, f0_hz, speaker_id=clip.speaker_id)


def _read_wav(path: Path) -> tuple[np.ndarray, int]:
    try:
        return soundfile.read(path, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise TreeError(f"{path}: not a readable wav file ({error.error_string}): cut it again") from error


# ---------------------------------------------------------------- silence for training


def write_mute(
    folder: Path | str, sample_rate_hz: int, extract: Extract, *, with_f0: bool = True
) -> TreeClip:
    """Write the files of 3 s of silence, on which a voice learns to output silence (RVC's logs/mute).

    Args:
        extract: the content encoder of the other clips; its features of silence are not zero.

    Returns:
        The clip `mute`; its wav is mute40k.wav for 40000 Hz.
    """
    folder = Path(folder)
    wav_path = folder / GT_FOLDER / f"mute{sample_rate_hz // 1000}k.wav"
    silence = np.zeros(MUTE_SECONDS * sample_rate_hz, np.float32)
    write_audio(wav_path, Audio(silence, sample_rate_hz), subtype="PCM_16")
    samples_16k = np.zeros(MUTE_SECONDS * WAV16_RATE_HZ, np.float32)
    write_audio(folder / WAV16_FOLDER / "mute.wav", Audio(samples_16k, WAV16_RATE_HZ), subtype="PCM_16")
    features_path = write_features(folder, "mute", np.asarray(extract(samples_16k)))
    if not with_f0:
        return TreeClip("mute", wav_path, features_path)
    coarse = np.ones(N_MUTE_FRAMES, np.int32)
    coarse_path = write_array(folder / COARSE_FOLDER / "mute.wav.npy", coarse)
    f0_path = write_array(folder / F0_FOLDER / "mute.wav.npy", np.zeros(N_MUTE_FRAMES))
    return TreeClip("mute", wav_path, features_path, coarse_path, f0_path)


# ---------------------------------------------------------------- filelist.txt


def write_filelist(
    tree: Path | str,
    clips: Iterable[TreeClip],
    *,
    mute: TreeClip | None = None,
    speaker_id: int | None = None,
    seed: int = 0,
) -> Path:
    """tree/filelist.txt: one line per clip and the mute line twice, shuffled by `seed`, with absolute paths.

    Args:
        mute: see write_mute; None omits it.
        speaker_id: for every line; None takes the clips' own, and 0 for mute.
    """
    lines = [*clips, *([mute] * N_MUTE_LINES if mute else [])]
    if speaker_id is not None:
        lines = [
            TreeClip(c.name, c.wav_path, c.features_path, c.coarse_path, c.f0_path, speaker_id) for c in lines
        ]
    if len({clip.f0_path is None for clip in lines}) > 1:
        raise TreeError(
            "some clips have f0 and some have none: filelist.txt needs one kind; make mute the same way"
        )
    order = np.random.default_rng(seed).permutation(len(lines))
    return write_text(Path(tree) / FILELIST, "\n".join(lines[i].line for i in order))


# ---------------------------------------------------------------- whole trees


def import_tree(
    tree: Path | str, *, with_f0: bool | None = None, feature_width: int | None = None
) -> TreeImport:
    """The clips of a tree: those with all files, and the reasons why others cannot be used.

    Args:
        with_f0: whether f0 is needed; None: if the tree has any.
        feature_width: 256 (v1) or 768 (v2); None: the one in the tree.

    Raises:
        TreeError: no clips, no features, or features of both widths and none chosen.
    """
    tree = Path(tree)
    width = feature_width or _find_width(tree)
    if width not in FEATURE_FOLDERS:
        raise TreeError(f"feature_width is {width}, expected 256 (v1) or 768 (v2)")
    if with_f0 is None:
        with_f0 = bool(_files(tree / COARSE_FOLDER) or _files(tree / F0_FOLDER))
    folders = [GT_FOLDER, FEATURE_FOLDERS[width], *([COARSE_FOLDER, F0_FOLDER] if with_f0 else [])]
    files = {folder: _files(tree / folder) for folder in folders}
    if not files[GT_FOLDER]:
        raise TreeError(
            f"{tree / GT_FOLDER}: no wav files; is {tree} an experiment's folder (logs/EXPERIMENT)?"
        )
    clips, dropped = [], []
    for name in sorted(set().union(*files.values()), key=clip_order):
        missing = [folder for folder in folders if name not in files[folder]]
        reason = f"no file in {' and '.join(missing)}" if missing else ""
        clip = None if missing else TreeClip(name, *(files[folder][name] for folder in folders))
        reason = reason or _find_fault(clip, width)
        if reason:
            dropped.append((name, reason))
        else:
            clips.append(clip)
    rates = {clip.name: soundfile.info(clip.wav_path).samplerate for clip in clips}
    usual = Counter(rates.values()).most_common(1)[0][0] if rates else 0
    dropped += [
        (name, f"{rate} Hz, the others {usual} Hz: cut it again")
        for name, rate in rates.items()
        if rate != usual
    ]
    return TreeImport([clip for clip in clips if rates[clip.name] == usual], dropped, width, with_f0, usual)


def export_tree(tree: Path | str, contents: Iterable[ClipContent]) -> list[TreeClip]:
    """Write clips' arrays into a tree, in the original's names and types; see write_filelist for the rest."""
    tree, clips = Path(tree), []
    for content in contents:
        name = content.name
        if not name or "." in name or "/" in name:
            raise TreeError(
                f"clip {name!r}: the original cuts names at the first dot: rename it, such as 0_3"
            )
        wav_path = write_audio(tree / GT_FOLDER / f"{name}.wav", content.audio, subtype="FLOAT")
        if content.samples_16k is not None:
            audio_16k = Audio(content.samples_16k, WAV16_RATE_HZ)
            write_audio(tree / WAV16_FOLDER / f"{name}.wav", audio_16k, subtype="FLOAT")
        features_path = write_features(tree, name, content.features)
        f0_paths = write_f0(tree, name, content.f0_hz) if content.f0_hz is not None else (None, None)
        clips.append(TreeClip(name, wav_path, features_path, *f0_paths, speaker_id=content.speaker_id))
    return clips


def _find_width(tree: Path) -> int:
    widths = [width for width, folder in FEATURE_FOLDERS.items() if _files(tree / folder)]
    if len(widths) != 1:
        found = (
            "both 3_feature256 and 3_feature768: choose feature_width"
            if widths
            else "no features: run step 2b"
        )
        raise TreeError(f"{tree} has {found}")
    return widths[0]


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


def clip_order(name: str) -> tuple:
    """Sort key: 0_2 before 0_10."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in name.split("_"))


def _files(folder: Path) -> dict[str, Path]:
    """Files by their name up to the first dot; without cached spectra (.spec.pt) and hidden files."""
    if not folder.is_dir():
        return {}
    paths = [path for path in folder.iterdir() if path.suffix in (".wav", ".npy") and path.name[0] != "."]
    return {_stem(path): path for path in paths}


def _find_fault(clip: TreeClip, width: int) -> str:
    """Why a clip's files are unusable; an empty string if they are usable."""
    try:
        samples, _ = _read_wav(clip.wav_path)
        checked = [
            (clip.wav_path, samples, 1, "f"),
            (clip.features_path, read_array(clip.features_path), 2, "f"),
        ]
        if clip.f0_path:
            checked.append((clip.coarse_path, read_array(clip.coarse_path), 1, "iu"))
            checked.append((clip.f0_path, read_array(clip.f0_path), 1, "f"))
    except TreeError as error:
        return str(error)
    for path, array, n_axes, kinds in checked:
        label = f"{path.parent.name}/{path.name}"
        numbers = "floats" if kinds == "f" else "integers"
        if array.ndim != n_axes or array.dtype.kind not in kinds or not array.size:
            return f"{label} holds {array.dtype} {list(array.shape)}, expected {n_axes}-D {numbers}"
        if not np.isfinite(array).all():
            return f"{label} holds NaN or infinite values"
    if checked[1][1].shape[1] != width:
        return f"{clip.features_path.parent.name}/{clip.features_path.name} has width {checked[1][1].shape[1]}, expected {width}"
    if clip.f0_path:
        coarse, f0_hz = checked[2][1], checked[3][1]
        if len(coarse) != len(f0_hz):
            return f"2a_f0 has {len(coarse)} frames, 2b-f0nsf {len(f0_hz)}"
        if coarse.min() < 1 or coarse.max() > 255 or f0_hz.min() < 0:
            return "f0 out of range: expected bins 1 to 255 and Hz >= 0 (are 2a_f0 and 2b-f0nsf swapped?)"
    return ""
