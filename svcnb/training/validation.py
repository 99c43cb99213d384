"""Validation: mel distance and audio samples of held-out clips, synthesized as in a conversion."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import torch
from torch import Tensor

from svcnb.audio.audio import Audio, read_audio, write_audio
from svcnb.data.batches import Batch, collate
from svcnb.data.dataset import Item, Split, VoiceDataset
from svcnb.data.feature_store import FeatureStore
from svcnb.nn.layers import Noise
from svcnb.training.checkpoints import read_progress
from svcnb.training.state import TrainState
from svcnb.training.tensorboard import TensorBoardLog

# Long enough for a stable mean, short enough that validation takes a few percent of the time.
MAX_MEASURED_S = 30.0
MAX_CLIP_S = 8.0
N_SAMPLES = 2
NOISE_SEED = 1
# state, batch of one clip, noise -> audio [1, 1, T]
Synthesize = Callable[[TrainState, Batch, Noise], Tensor]
SAMPLES_FOLDER = "samples"
MAX_STEPS_KEPT = 10
_STEP_NAME = re.compile(r"step_(\d{8})_(\d+)\.flac")


@dataclass(frozen=True)
class ClipChoices:
    """How clips become dataset items: speaker name -> id, interpolation mode of the content, seed."""

    speakers: Mapping[str, int]
    unit_interpolate_mode: str
    seed: int


class HeldOutClips:
    """Mel distance and audio samples of the generator on held-out clips.

    The inputs are content, f0, loudness and speaker, as in conversion; the posterior encoder, which sees the
    recording itself, is not used. The decoder's noise is always the same, so that two measurements differ by
    the weights alone.

    Args:
        speak: the family's synthesis from a batch; spectra are compared by state.extras["parts"].mel.
    """

    def __init__(
        self,
        store: FeatureStore,
        split: Split,
        choices: ClipChoices,
        synthesize: Synthesize,
        *,
        board: TensorBoardLog | None = None,
    ) -> None:
        self.rate_hz = store.settings.sample_rate_hz
        self.synthesize = synthesize
        self.board = board
        self.measured = choose_clips(store, split.validation)
        self.sampled = (self.measured or choose_clips(store, split.training))[:N_SAMPLES]
        names = list(dict.fromkeys(self.measured + self.sampled))
        clips = VoiceDataset(
            store,
            names,
            dict(choices.speakers),
            max_frames=round(MAX_CLIP_S / store.settings.hop_s),
            unit_interpolate_mode=choices.unit_interpolate_mode,
            seed=choices.seed,
        )
        self._items: dict[str, Item] = {name: clips[index] for index, name in enumerate(names)}

    def measure(self, state: TrainState) -> dict[str, float]:
        """L1 distance of log mel spectra, averaged over all frames; no entry if no clip is held out."""
        if not self.measured:
            return {}
        mel = state.extras["parts"].mel
        total, n_frames = 0.0, 0
        for name in self.measured:
            audio, batch = self._synthesize(state, name)
            distance = (mel(audio) - mel(batch.audio)).abs().mean(dim=1)  # [1, N]
            total += float(distance.sum())
            n_frames += distance.shape[1]
        return {"mel": total / n_frames}

    def write_samples(self, state: TrainState, voice_folder: Path) -> None:
        """Synthesize the sampled clips and write them into the voice's folder (and to TensorBoard)."""
        for clip, name in enumerate(self.sampled, start=1):
            synthesized, batch = self._synthesize(state, name)
            recording, result = (
                Audio(sound[0, 0].float().cpu().numpy(), self.rate_hz) for sound in (batch.audio, synthesized)
            )
            write_reference(voice_folder, clip, recording)
            write_sample(voice_folder, state.step, clip, result)
            if self.board is not None:
                mel = state.extras["parts"].mel
                mels = mel(batch.audio)[0], mel(synthesized)[0]
                self.board.add_sample(state.step, clip, (recording, result), mels)
        record = read_progress(voice_folder)
        thin_samples(voice_folder, keep=(record.best.step,) if record and record.best else ())

    @torch.no_grad()
    def _synthesize(self, state: TrainState, name: str) -> tuple[Tensor, Batch]:
        """Audio [1, 1, T] of one clip, and its batch: no other clips, as attention would see padding."""
        batch = collate([self._items[name]]).to(state.accelerator.device)
        state.accelerator.unwrap_model(state.generator).eval()
        return self.synthesize(state, batch, Noise(torch.Generator().manual_seed(NOISE_SEED))).float(), batch


def choose_clips(store: FeatureStore, names: list[str], *, max_s: float = MAX_MEASURED_S) -> list[str]:
    """Clips of every speaker in turn, up to a total of `max_s`; at least one per speaker."""
    by_speaker: dict[str, list[str]] = {}
    for name in names:
        by_speaker.setdefault(store.record(name).speaker, []).append(name)
    chosen: list[str] = []
    seconds = 0.0
    for row, clips in enumerate(zip_longest(*by_speaker.values())):
        for name in clips:
            if name is not None and (row == 0 or seconds < max_s):
                chosen.append(name)
                seconds += min(MAX_CLIP_S, store.duration_s(name))
    return chosen


@dataclass(frozen=True)
class Samples:
    """The audio samples that a training wrote.

    Attributes:
        folder: with the audio files.
        steps: training steps with samples, ascending.
    """

    folder: Path
    steps: list[int]

    def reference(self, clip: int = 1) -> Audio:
        """The recording that the samples resynthesize."""
        return read_audio(self.folder / f"reference_{clip}.flac")

    def at(self, step: int, clip: int = 1) -> Audio:
        """The clip synthesized by the weights of `step`."""
        return read_audio(self.folder / _sample_name(step, clip))

    def heard(self, *steps: int | None, clip: int = 1) -> list[tuple[str, Audio]]:
        """(title, audio) to play in order: the recording, the first sample, those of `steps`, the newest."""
        wanted = {step for step in steps if step in self.steps} | {*self.steps[:1], *self.steps[-1:]}
        samples = [(f"after {step} steps", self.at(step, clip)) for step in sorted(wanted)]
        return [("recording", self.reference(clip)), *samples] if samples else []


def read_samples(voice_folder: Path | str) -> Samples:
    """The samples of a voice; `steps` is empty if its training has written none yet."""
    folder = Path(voice_folder) / SAMPLES_FOLDER
    return Samples(folder, sorted(_paths_by_step(folder)))


def write_reference(voice_folder: Path, clip: int, audio: Audio) -> None:
    path = voice_folder / SAMPLES_FOLDER / f"reference_{clip}.flac"
    if not path.exists():
        write_audio(path, audio)


def write_sample(voice_folder: Path, step: int, clip: int, audio: Audio) -> None:
    write_audio(voice_folder / SAMPLES_FOLDER / _sample_name(step, clip), audio)


def thin_samples(voice_folder: Path, *, keep: tuple[int, ...] = ()) -> None:
    """Keep samples of at most MAX_STEPS_KEPT steps: the first, the newest, those of `keep`, and some between.

    A model changes fast at first and slowly later, so the distance between the kept steps grows.
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
    """Delete samples after `step`, from the part of the training that was lost; with 0 all files."""
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
