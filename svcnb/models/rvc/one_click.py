"""RVC's one-click training: cut, extract, train, index; every step is checked, finished work is reused."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch

from svcnb.data.dataset import load_split
from svcnb.data.extraction import FeatureReport
from svcnb.data.settings import PrepareSettings
from svcnb.device import peak_memory_bytes
from svcnb.models.rvc.config import Config
from svcnb.models.rvc.index import IndexReport, write_index
from svcnb.models.rvc.prepare import CONFIG_NAME, non_silent, open_features, prepare
from svcnb.models.rvc.preprocess import CutReport, CutSettings, cut_recordings
from svcnb.models.rvc.step import train_step
from svcnb.models.rvc.train import AUTO_BASE, EpochChoices, fresh_state, train, training_batches
from svcnb.training.loop import TrainReport
from svcnb.training.settings import TrainSettings
from svcnb.training.state import settle

N_WARM_STEPS, N_TIMED_STEPS = 1, 3


@dataclass(frozen=True)
class OneClickSettings:
    """Settings of the four steps.

    Attributes:
        config: sizes, version and pitch guidance.
        cut: None takes RVC's defaults at the config's sample rate.
        base: as in `train`.
    """

    config: Config = field(default_factory=Config.small)
    cut: CutSettings | None = None
    prepare: PrepareSettings = PrepareSettings()
    train: TrainSettings = TrainSettings()
    epochs: EpochChoices = EpochChoices()
    base: tuple[Path, Path | None] | str | None = AUTO_BASE
    batch_size: int | None = None


@dataclass(frozen=True)
class OneClickReport:
    """Reports of the four steps."""

    clips: CutReport
    features: FeatureReport
    training: TrainReport
    index: IndexReport

    def __str__(self) -> str:
        training = f"{self.training.step} steps, {self.training.seconds / 60:.1f} minutes in this run"
        return "\n".join([str(self.clips), str(self.features), training, str(self.index)])


def train_one_click(
    recordings: Path | str, experiment: Path | str, settings: OneClickSettings, *, overwrite: bool = False
) -> OneClickReport:
    """From a folder of recordings to a voice with its index; an interrupted call resumes when it is repeated.

    Args:
        overwrite: cut again if the recordings or the cut settings changed.

    Raises:
        SvcError: as the steps; steps after a failed one are not started.
    """
    cut = settings.cut or CutSettings(sample_rate_hz=settings.config.data.sampling_rate)
    clips = cut_recordings(recordings, experiment, cut, overwrite=overwrite)
    features = prepare(settings.config, experiment, settings.prepare)
    choices = {"base": settings.base, "batch_size": settings.batch_size}
    training = train(experiment, settings.train, settings.epochs, **choices)
    return OneClickReport(clips, features, training, build_voice_index(experiment))


def build_voice_index(experiment: Path | str, *, seed: int = 0) -> IndexReport:
    """Build the index of an experiment's content, without its silence; needs no trained model.

    Raises:
        SvcError: no features yet.
    """
    experiment = Path(experiment)
    config, store = open_features(experiment)
    content = (store.read(name)["content"] for name in non_silent(store))
    return write_index(content, experiment, experiment.name, config.version, seed=seed)


@dataclass(frozen=True)
class TimeEstimate:
    """Steps and time of a training.

    Attributes:
        n_clips: trained on, silence included.
        batch_size: clips per step.
        steps_per_epoch: n_clips / batch_size, rounded up: an epoch uses every clip once.
        step_s: seconds per step, measured without the first step.
        memory_bytes: peak memory of the GPU, or of this process; None if it cannot be measured.
    """

    n_clips: int
    batch_size: int
    steps_per_epoch: int
    step_s: float
    memory_bytes: int | None

    def seconds(self, epochs: int) -> float:
        """Time of a number of epochs."""
        return epochs * self.steps_per_epoch * self.step_s

    def table(self, epochs: tuple[int, ...] = (20, 100, 200)) -> list[tuple[str, str, str]]:
        """Rows: epochs, steps, time."""
        return [(str(n), str(n * self.steps_per_epoch), _as_text(self.seconds(n))) for n in epochs]

    def __str__(self) -> str:
        memory = f", {self.memory_bytes / 1e9:.1f} GB" if self.memory_bytes else ""
        return (
            f"{self.n_clips} clips, {self.batch_size} in a step: {self.steps_per_epoch} steps an epoch, "
            f"{self.step_s:.2f} s a step{memory}"
        )


def _as_text(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def estimate_time(
    experiment: Path | str, *, batch_size: int | None = None, device: str = "auto", precision: str = "auto"
) -> TimeEstimate:
    """Time a few training steps on an experiment's own clips; no file is changed, except that the split into
    training and held-out clips is drawn if there is none yet.

    Raises:
        SvcError: no features yet, or a device or precision that is not available.
    """
    config, store = open_features(experiment)
    config.train.batch_size = batch_size or config.train.batch_size
    settings = settle(
        TrainSettings(device=device, precision=precision), config.schedule, Path(experiment) / CONFIG_NAME
    )
    state = fresh_state(config, settings)
    batches = training_batches(store, config, load_split(store, seed=config.train.seed), n_workers=0)
    accelerator = state.accelerator
    for network in state.networks():
        network.train()
    times_s: list[float] = []
    for batch in islice(_endless(batches), N_WARM_STEPS + N_TIMED_STEPS):
        batch = batch.to(accelerator.device)
        started = time.perf_counter()
        train_step(state, batch)
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        times_s.append(time.perf_counter() - started)
    timed = times_s[N_WARM_STEPS:]
    n_clips = len(load_split(store, seed=config.train.seed).training)
    size = min(config.train.batch_size, n_clips)
    return TimeEstimate(
        n_clips,
        size,
        math.ceil(n_clips / size),
        sum(timed) / len(timed),
        peak_memory_bytes(accelerator.device),
    )


def _endless(batches):
    while True:
        yield from batches
