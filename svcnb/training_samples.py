"""Sound that a training leaves on its way, so that progress can be heard.

In voice_folder/samples: `reference_<clip>.flac`, the recording, and `step_<8 digits>_<clip>.flac`, the same clip
spoken by the network of that step. Clips are numbered from 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from svcnb.audio import Audio, read_audio, write_audio

SAMPLES_FOLDER = "samples"
MAX_STEPS_KEPT = 10
_STEP_NAME = re.compile(r"step_(\d{8})_(\d+)\.flac")


@dataclass(frozen=True)
class Samples:
    """The samples of a voice.

    Attributes:
        folder: where they lie.
        steps: of which there are samples, in order.
    """

    folder: Path
    steps: list[int]

    def reference(self, clip: int = 1) -> Audio:
        """The recording that the samples speak again."""
        return read_audio(self.folder / f"reference_{clip}.flac")

    def at(self, step: int, clip: int = 1) -> Audio:
        """The clip as the network of `step` speaks it."""
        return read_audio(self.folder / _sample_name(step, clip))

    def heard(self, *steps: int | None, clip: int = 1) -> list[tuple[str, Audio]]:
        """(title, audio) to play in a row: the recording, the first sample, those of `steps`, the newest."""
        wanted = {step for step in steps if step in self.steps} | {*self.steps[:1], *self.steps[-1:]}
        spoken = [(f"after {step} steps", self.at(step, clip)) for step in sorted(wanted)]
        return [("recording", self.reference(clip)), *spoken] if spoken else []


def read_samples(voice_folder: Path | str) -> Samples:
    """The samples of a voice; none (empty steps) where its training wrote none yet."""
    folder = Path(voice_folder) / SAMPLES_FOLDER
    return Samples(folder, sorted(_paths_by_step(folder)))


def write_reference(voice_folder: Path, clip: int, audio: Audio) -> None:
    path = voice_folder / SAMPLES_FOLDER / f"reference_{clip}.flac"
    if not path.exists():
        write_audio(path, audio)


def write_sample(voice_folder: Path, step: int, clip: int, audio: Audio) -> None:
    write_audio(voice_folder / SAMPLES_FOLDER / _sample_name(step, clip), audio)


def thin_samples(voice_folder: Path, *, keep: tuple[int, ...] = ()) -> None:
    """Delete samples until few steps are left: the first, the newest, those of `keep`, and an even choice between.

    A voice changes fast at first and slowly later, so the steps that stay lie ever wider apart.
    """
    paths = _paths_by_step(voice_folder / SAMPLES_FOLDER)
    steps = sorted(paths)
    while len(steps) > MAX_STEPS_KEPT:
        inner = [i for i in range(1, len(steps) - 1) if steps[i] not in keep]
        if not inner:
            return
        closest = min(inner, key=lambda i: steps[i + 1] / max(1, steps[i - 1]))
        for path in paths[steps.pop(closest)]:
            path.unlink(missing_ok=True)


def drop_later_samples(voice_folder: Path, step: int) -> None:
    """Delete samples of steps after `step`, which belong to a part of the training that was lost; at 0 all files."""
    for found, paths in _paths_by_step(voice_folder / SAMPLES_FOLDER).items():
        for path in paths if found > step else ():
            path.unlink(missing_ok=True)
    for path in (voice_folder / SAMPLES_FOLDER).glob("reference_*.flac") if step == 0 else ():
        path.unlink(missing_ok=True)


def _sample_name(step: int, clip: int) -> str:
    return f"step_{step:08d}_{clip}.flac"


def _paths_by_step(folder: Path) -> dict[int, list[Path]]:
    found: dict[int, list[Path]] = {}
    for path in sorted(folder.glob("step_*.flac")) if folder.is_dir() else ():
        if match := _STEP_NAME.fullmatch(path.name):
            found.setdefault(int(match[1]), []).append(path)
    return found
