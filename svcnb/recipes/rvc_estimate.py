"""How long an RVC training will take: a few steps are timed on the user's own clips, none of them is kept."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from svcnb.dataset import load_split
from svcnb.recipes.rvc_features import open_features
from svcnb.recipes.rvc_step import train_step
from svcnb.recipes.rvc_training import fresh_state, training_batches
from svcnb.training import TrainSettings
from svcnb.training_process import peak_memory_bytes

N_WARM_STEPS, N_TIMED_STEPS = 1, 3


@dataclass(frozen=True)
class TimeEstimate:
    """Steps and time of a training.

    Attributes:
        n_clips: trained on, silence included.
        batch_size: clips per step.
        steps_per_epoch: n_clips / batch_size, rounded up: an epoch hears every clip once.
        step_s: measured, without the first step.
        memory_bytes: of the GPU at most, or of this process; None where it cannot be told.
    """

    n_clips: int
    batch_size: int
    steps_per_epoch: int
    step_s: float
    memory_bytes: int | None

    def seconds(self, epochs: int) -> float:
        """Time of so many epochs."""
        return epochs * self.steps_per_epoch * self.step_s

    def table(self, epochs: tuple[int, ...] = (20, 100, 200)) -> list[tuple[str, str, str]]:
        """Rows: epochs, steps, time."""
        return [(str(n), str(n * self.steps_per_epoch), _as_text(self.seconds(n))) for n in epochs]

    def __str__(self) -> str:
        memory = f", {self.memory_bytes / 1e9:.1f} GB" if self.memory_bytes else ""
        return (f"{self.n_clips} clips, {self.batch_size} in a step: {self.steps_per_epoch} steps an epoch, "
                f"{self.step_s:.2f} s a step{memory}")  # fmt: skip


def _as_text(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def estimate_time(
    experiment: Path | str, *, batch_size: int | None = None, device: str = "auto", precision: str = "fp32"
) -> TimeEstimate:
    """Time a few training steps on an experiment's own clips; no file changes, but the split into training and held-out
    clips is drawn if it was not yet.

    Raises:
        SvcError: no features yet, or a device or precision that is not there.
    """
    config, store = open_features(experiment)
    config.train.batch_size = batch_size or config.train.batch_size
    state = fresh_state(config, TrainSettings(device=device, precision=precision))
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
    return TimeEstimate(n_clips, size, math.ceil(n_clips / size), sum(timed) / len(timed), peak_memory_bytes(accelerator.device))


def _endless(batches):
    while True:
        yield from batches
