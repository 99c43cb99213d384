"""The training loop: precision, checkpoints, resuming, history. The training step is the recipe's function.

A run can be stopped at any point. The loop saves by steps and by time, and a run resumed from a checkpoint
draws the same random numbers and batches as one that was never stopped. Between checkpoints it validates on
held-out clips, to find when to stop and which checkpoint is the best.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR
from tqdm.auto import tqdm

from svcnb import SvcError
from svcnb.device import freed_memory_kept, is_out_of_memory, peak_memory_bytes
from svcnb.training.checkpoints import (
    BestCheckpoint,
    KeptCheckpoints,
    RunRecord,
    apply_rng,
    capture_rng,
    read_progress,
    rng_untouched,
    trim_history,
)
from svcnb.training.early_stopping import read_advice
from svcnb.training.history import HistoryWriter
from svcnb.training.launch import stop_requests
from svcnb.training.progress import advance_bar, progress_bar
from svcnb.training.settings import TrainSettings
from svcnb.training.state import TrainingError, TrainState

N_LOSSES_SHOWN = 3
log = logging.getLogger(__name__)


class BatchSource(Protocol):
    """A data loader for `fit`: one epoch per iteration, which can start at any batch.

    If it also has `batch_size` and `set_batch_size(size)`, `fit` reduces the batch size when memory runs out.
    """

    def set_position(self, epoch: int, batch: int) -> None: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


@dataclass(frozen=True)
class FitHooks:
    """Callbacks of the recipe. Those that write files are called on the main process only.

    Attributes:
        save: writes weights and optimizers of `state` into an empty folder; `fit` moves the files.
        validate: returns validation metrics by name; they are written to the history.
        measure: the metric by which checkpoints are compared; lower is better.
        sample: writes audio or plots into the voice's folder, at every checkpoint and once early.
        facts: properties of the training data, numbers by name; written to the history at every start.
        listen: called with every line of the history.
        batch_size_changed: called with the new size after memory ran out.
    """

    save: Callable[[TrainState, Path], None]
    validate: Callable[[TrainState], dict[str, float] | None] | None = None
    measure: str = "mel"
    sample: Callable[[TrainState, Path], None] | None = None
    facts: dict[str, float] | None = None
    listen: Callable[[dict[str, Any]], None] | None = None
    batch_size_changed: Callable[[int], None] | None = None


@dataclass(frozen=True)
class TrainReport:
    """Result of a run. `steps` and `seconds` are this run's; `step` includes earlier runs.

    Attributes:
        stopped_by: "max_steps", "max_minutes", "max_epochs", "interrupted", or "plateau" (settings.stop_at_plateau).
        best: the checkpoint with the best validation metric, None without held-out clips.
        batch_size: clips per step and process at the end, None if the loader does not give it.
    """

    steps: int
    step: int
    seconds: float
    last_losses: dict[str, float]
    history_path: Path
    peak_memory_bytes: int | None
    stopped_by: str
    last_validation: dict[str, float] | None = None
    best: BestCheckpoint | None = None
    batch_size: int | None = None

    @property
    def interrupted(self) -> bool:
        return self.stopped_by == "interrupted"

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.seconds if self.seconds else 0.0


def fit(
    state: TrainState,
    loader: BatchSource,
    train_step: Callable[[TrainState, Any], dict[str, Tensor]],
    settings: TrainSettings,
    *,
    folder: Path | str,
    hooks: FitHooks,
) -> TrainReport:
    """Train until max_steps, max_minutes, max_epochs, ctrl-C or SIGTERM, whichever comes first; then save.

    When memory runs out, the batch size is halved and the current epoch restarts with smaller batches.

    Args:
        state: new (see `assemble`), or resumed (see `restore`).
        train_step: performs all updates of one batch and returns named losses.
        folder: for checkpoints, state.json and history.jsonl.

    Raises:
        SvcError: `folder` has a run that `state` does not resume, or `loader` is empty.
        TrainingError: a loss is not finite (the message gives its name and step), or memory ran out for a
            batch that cannot be halved. The last checkpoint stays unchanged.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if state.record is None and (found := read_progress(folder)):
        raise SvcError(
            f"{folder} holds a training at step {found.step}: resume it, or train into another folder"
        )
    if not len(loader):
        raise SvcError("there is no batch to train on: extract features of at least one clip first")
    settings = settings.filled()
    run = _Run(state, loader, settings, folder, hooks)
    alone = state.processes.number == 1
    with stop_requests(second_acts=alone) as stop, progress_bar(state, settings) as bar, freed_memory_kept():
        run.begin()
        while run.reason_to_stop(stop) is None:
            for batch in run.rest_of_epoch():
                if not run.take_step(train_step, batch):
                    break  # restart the epoch with smaller batches
                run.log_and_save(bar)
                if run.reason_to_stop(stop):
                    break
            else:
                run.end_epoch()
        run.end(bar)
    return run.report(stopped_by=run.reason_to_stop(stop))


class _Run:
    """One call of fit: its variables beside the state."""

    def __init__(
        self, state: TrainState, loader: BatchSource, settings: TrainSettings, folder: Path, hooks: FitHooks
    ) -> None:
        self.state = state
        self.loader = loader
        self.settings = settings
        self.folder = folder
        self.hooks = hooks
        kept = {"keep": settings.keep_checkpoints, "keep_every_steps": settings.keep_every_steps}
        self.checkpoints = KeptCheckpoints(folder, state.record, **kept)
        self.first_step = self.saved_step = self.measured_step = state.step
        self.earlier_seconds = state.seconds
        self.started_at = self.saved_at = time.monotonic()
        self.history = HistoryWriter(state, folder, hooks.listen)
        self.last_validation: dict[str, float] | None = None
        self.at_plateau = False  # more steps do not help, judged by the validation metric

    @property
    def main(self) -> bool:
        return self.state.processes.is_main

    def tick(self) -> None:
        self.state.seconds = self.earlier_seconds + time.monotonic() - self.started_at

    def begin(self) -> None:
        from accelerate.utils import set_seed

        self.state.processes.share_weights(self.state.networks())
        if self.main:
            trim_history(self.history.path, self.state.step)
        self.ask_advice()
        if reason := self.reason_to_stop(threading.Event()):
            change = (
                "switch stop_at_plateau off"
                if reason == "plateau"
                else "raise max_steps, max_minutes or max_epochs"
            )
            log.warning(
                "this training is done (step %d, %.1f minutes): %s to continue",
                self.state.step,
                self.state.seconds / 60,
                change,
            )
        if self.state.record is None:
            set_seed(self.settings.seed)
        else:
            apply_rng(self.state.record.rng)
            earlier = self.state.record.batch_size, self.state.record.n_processes
            if earlier[0] is not None and earlier != (self.batch_size, self.state.processes.number):
                self.state.batch = 0  # the epoch has other batches now
        if self.hooks.facts:
            self.history.write({"facts": self.hooks.facts})
        if self.state.accelerator.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for network in self.state.networks():
            network.train()

    @property
    def batch_size(self) -> int | None:
        return getattr(self.loader, "batch_size", None)

    def reason_to_stop(self, stop: threading.Event) -> str | None:
        settings, state = self.settings, self.state
        self.tick()
        reasons = {
            "interrupted": stop.is_set(),
            "max_steps": settings.max_steps is not None and state.step >= settings.max_steps,
            "max_minutes": settings.max_minutes is not None and state.seconds >= settings.max_minutes * 60,
            "max_epochs": settings.max_epochs is not None and state.epoch > settings.max_epochs,
            "plateau": self.at_plateau,
        }
        # If one process stops, all must: otherwise the others would wait for it.
        hold = state.processes.any_of(list(reasons.values()))
        return next((name for name, holds in zip(reasons, hold, strict=True) if holds), None)

    def rest_of_epoch(self) -> Iterator[Any]:
        state = self.state
        if state.epoch <= self.settings.warmup_epochs:
            for optimizer, scheduler in state.schedules().values():
                for group, base in zip(optimizer.param_groups, scheduler.base_lrs, strict=True):
                    group["lr"] = base * state.epoch / self.settings.warmup_epochs
        self.loader.set_position(state.epoch, state.batch)
        with rng_untouched():  # a DataLoader draws a seed at the start of every iteration
            batches = iter(self.loader)
        for batch in batches:
            yield batch.to(state.accelerator.device) if hasattr(batch, "to") else batch

    def take_step(self, train_step: Callable[[TrainState, Any], dict[str, Tensor]], batch: Any) -> bool:
        """One step; False if memory ran out and the batch size was halved."""
        state = self.state
        losses: dict[str, Tensor] | None = None
        state.processes.reseed(self.settings.seed, state.step)
        try:
            losses = train_step(state, batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self.check_halving(error)
        if losses is None:  # outside of `except`: the error keeps the failed step's tensors alive
            self.halve_batch()
            return False
        state.step += 1
        state.batch += 1
        self.history.add(losses)
        return True

    def check_halving(self, error: RuntimeError) -> None:
        """Raise unless the batch can be halved: not with several processes, which wait for the gradients."""
        can_halve = hasattr(self.loader, "set_batch_size") and self.batch_size > 1
        if can_halve and self.state.processes.number == 1:
            return
        now = f" (now {self.batch_size})" if self.batch_size else ""
        raise TrainingError(
            f"memory ran out at step {self.state.step + 1}: halve batch_size{now}, "
            "or max_frames if it is 1 already, and resume"
        ) from error

    def halve_batch(self) -> None:
        state = self.state
        size = max(1, self.batch_size // 2)
        log.warning(
            "memory ran out at step %d with batch_size %d: continuing with %d",
            state.step + 1,
            self.batch_size,
            size,
        )
        for optimizer, _ in state.schedules().values():
            optimizer.zero_grad(set_to_none=True)
        if state.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        self.loader.set_batch_size(size)
        state.batch = 0
        if self.main and self.hooks.batch_size_changed is not None:
            self.hooks.batch_size_changed(size)

    def end_epoch(self) -> None:
        for _, scheduler in self.state.schedules().values():
            scheduler.step()
        self.state.epoch += 1
        self.state.batch = 0

    def log_and_save(self, bar: tqdm) -> None:
        settings, state = self.settings, self.state
        if state.step % settings.log_every_steps == 0:
            self.log(bar)
        advance_bar(bar, state, settings)
        (due,) = state.processes.any_of([time.monotonic() - self.saved_at > settings.save_every_minutes * 60])
        if due or state.step % settings.save_every_steps == 0:
            self.save()
        elif state.step % settings.validate_every_steps == 0:
            self.history.check(saved_step=self.saved_step)
            with rng_untouched():
                self.measure(saving=False)

    def end(self, bar: tqdm) -> None:
        """Save unless no step was done since the last checkpoint."""
        if self.history.is_waiting:
            self.log(bar)
        if self.state.step > self.saved_step:
            self.save()
        elif self.state.step > self.first_step and self.main:
            self.write_record(capture_rng())  # time, and perhaps the epoch, have advanced since
        self.state.processes.wait()  # so that every process finds complete files

    def log(self, bar: tqdm) -> None:
        self.history.write_means(saved_step=self.saved_step)
        shown = list(self.history.last_losses.items())[:N_LOSSES_SHOWN]
        bar.set_postfix({name: f"{value:.3g}" for name, value in shown}, refresh=False)

    def measure(self, *, saving: bool) -> None:
        """Validate; before the first checkpoint also write a sample, to hear the progress."""
        if not self.main:
            return  # the others wait for the main process at their next collective call
        state, hooks = self.state, self.hooks
        first = self.measured_step == 0
        if hooks.validate is not None and self.measured_step != state.step:
            self.last_validation = hooks.validate(state)
        if self.last_validation:
            self.history.write({"validation": self.last_validation, "saved": saving})
            if saving and hooks.measure in self.last_validation:
                self.checkpoints.compare(state.step, hooks.measure, self.last_validation[hooks.measure])
            self.ask_advice()
        if first and not saving and hooks.sample is not None:
            hooks.sample(state, self.folder)
        self.measured_step = state.step
        for network in state.networks():
            network.train()

    def ask_advice(self) -> None:
        """With stop_at_plateau: check whether more steps still help."""
        if self.settings.stop_at_plateau and self.main and self.history.path.is_file():
            self.at_plateau = read_advice(self.history.path).enough

    def save(self) -> None:
        """Validate, write the checkpoint, then state.json, then delete old checkpoints."""
        self.history.check(saved_step=self.saved_step)
        state = self.state
        rng = capture_rng()  # before the hooks: the next step draws from this state
        with rng_untouched():
            self.measure(saving=True)
            if self.main:
                dropped = self.checkpoints.write(state.step, lambda folder: self.hooks.save(state, folder))
                self.write_record(rng)
                self.checkpoints.drop(dropped)
                if self.hooks.sample is not None:
                    self.hooks.sample(state, self.folder)
        for network in state.networks():
            network.train()
        self.saved_step, self.saved_at = state.step, time.monotonic()

    def write_record(self, rng: dict[str, Any]) -> None:
        self.tick()
        state = self.state
        scaler = state.accelerator.scaler
        RunRecord(
            step=state.step,
            epoch=state.epoch,
            batch=state.batch,
            seconds=state.seconds,
            checkpoints=self.checkpoints.saved,
            best=self.checkpoints.best,
            batch_size=self.batch_size,
            n_processes=state.processes.number,
            schedules={name: _schedule(*pair) for name, pair in state.schedules().items()},
            scaler=None if scaler is None else scaler.state_dict(),
            rng=rng,
        ).save(self.folder)

    def report(self, *, stopped_by: str) -> TrainReport:
        return TrainReport(
            steps=self.state.step - self.first_step,
            step=self.state.step,
            seconds=self.state.seconds - self.earlier_seconds,
            last_losses=self.history.last_losses,
            history_path=self.history.path,
            peak_memory_bytes=peak_memory_bytes(self.state.accelerator.device),
            stopped_by=stopped_by,
            last_validation=self.last_validation,
            best=self.checkpoints.best,
            batch_size=self.batch_size,
        )


def _schedule(optimizer: Optimizer, scheduler: ExponentialLR) -> dict[str, Any]:
    return {
        "last_epoch": scheduler.last_epoch,
        "base_rates": list(scheduler.base_lrs),
        "rates": [group["lr"] for group in optimizer.param_groups],
    }
