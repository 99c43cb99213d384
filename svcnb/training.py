"""The training loop: precision, saving, resuming, history. What a step does is the recipe's function.

A run can be stopped at any point. The loop saves by steps and by the clock, and a run resumed from a
checkpoint draws the same random numbers and batches as one that was never stopped.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from svcnb import SvcError
from svcnb.run_record import (
    HISTORY_NAME, RunRecord, SavedCheckpoint, append_history, apply_rng, capture_rng, discard_run, read_progress,
    rng_untouched, trim_history,
)  # fmt: skip
from svcnb.training_state import TrainingError, TrainSettings, TrainState, assemble, make_accelerator, restore

__all__ = [
    "BatchSource", "FitHooks", "RunRecord", "TrainReport", "TrainSettings", "TrainState", "TrainingError",
    "assemble", "discard_run", "fit", "make_accelerator", "read_progress", "restore",
]  # fmt: skip

SAVING_FOLDER = ".saving"
N_LOSSES_SHOWN = 3

log = logging.getLogger(__name__)


class BatchSource(Protocol):
    """What `fit` reads batches from: an epoch per iteration, entered at any batch."""

    def set_position(self, epoch: int, batch: int) -> None: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


@dataclass(frozen=True)
class FitHooks:
    """What the recipe does at a checkpoint.

    Attributes:
        save: writes weights and optimisers of `state` into an empty folder; `fit` moves the files.
        validate: measures on held-out clips, numbers by name; they go into the history.
        sample: writes something to hear or see into the voice's folder.
    """

    save: Callable[[TrainState, Path], None]
    validate: Callable[[TrainState], dict[str, float] | None] | None = None
    sample: Callable[[TrainState, Path], None] | None = None


@dataclass(frozen=True)
class TrainReport:
    """What a run did. `steps` and `seconds` are this run's, `step` counts earlier ones too."""

    steps: int
    step: int
    seconds: float
    last_losses: dict[str, float]
    history_path: Path
    peak_memory_bytes: int | None
    interrupted: bool
    last_validation: dict[str, float] | None = None

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
    """Train until max_steps, max_minutes, ctrl-C or SIGTERM, whichever comes first; then save.

    Args:
        state: fresh (see `assemble`), or continued (see `restore`).
        train_step: one batch, all updates; named losses.
        folder: for checkpoints, state.json and history.jsonl.

    Raises:
        SvcError: `folder` holds a run and `state` does not continue it, or `loader` is empty.
        TrainingError: a loss that is not finite (named, with its step), or memory ran out. The last
            checkpoint is as it was.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if state.record is None and (found := read_progress(folder)):
        raise SvcError(f"{folder} holds a training at step {found.step}: resume it, or train into another folder")
    if not len(loader):
        raise SvcError("there is no batch to train on: extract features of at least one clip first")
    run = _Run(state, loader, settings, folder, hooks)
    with _stop_requests() as stop, _progress_bar(state, settings) as bar:
        run.begin()
        while not run.finished(stop):
            for batch in run.rest_of_epoch():
                run.take_step(train_step, batch)
                run.log_and_save(bar)
                if run.finished(stop):
                    break
            else:
                run.end_epoch()
        run.end(bar)
    return run.report(interrupted=stop.is_set())


class _Run:
    """One call of fit: what it needs to remember beside the state."""

    def __init__(
        self, state: TrainState, loader: BatchSource, settings: TrainSettings, folder: Path, hooks: FitHooks
    ) -> None:
        self.state = state
        self.loader = loader
        self.settings = settings
        self.folder = folder
        self.hooks = hooks
        self.checkpoints = list(state.record.checkpoints) if state.record else []
        self.first_step = self.saved_step = state.step
        self.earlier_seconds = state.seconds
        self.started_at = self.saved_at = time.monotonic()
        self.waiting: list[tuple[int, tuple[str, ...], Tensor]] = []  # losses still on the device
        self.last_losses: dict[str, float] = {}
        self.last_validation: dict[str, float] | None = None

    @property
    def main(self) -> bool:
        return self.state.accelerator.is_main_process

    def tick(self) -> None:
        self.state.seconds = self.earlier_seconds + time.monotonic() - self.started_at

    def begin(self) -> None:
        from accelerate.utils import set_seed

        if self.finished(threading.Event()):
            log.warning("this training is done (step %d, %.1f minutes): raise max_steps or max_minutes to go on",
                        self.state.step, self.state.seconds / 60)  # fmt: skip
        trim_history(self.folder / HISTORY_NAME, self.state.step)
        if self.state.record is None:
            set_seed(self.settings.seed)
        else:
            apply_rng(self.state.record.rng)
        if self.state.accelerator.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for network in self.state.networks():
            network.train()

    def finished(self, stop: threading.Event) -> bool:
        settings, state = self.settings, self.state
        self.tick()
        return (
            stop.is_set()
            or (settings.max_steps is not None and state.step >= settings.max_steps)
            or (settings.max_minutes is not None and state.seconds >= settings.max_minutes * 60)
        )

    def rest_of_epoch(self) -> Iterator[Any]:
        state = self.state
        if state.epoch <= self.settings.warmup_epochs:
            for optimizer, scheduler in state.schedules().values():
                for group, base in zip(optimizer.param_groups, scheduler.base_lrs, strict=True):
                    group["lr"] = base * state.epoch / self.settings.warmup_epochs
        self.loader.set_position(state.epoch, state.batch)
        with rng_untouched():  # a DataLoader draws a seed whenever it is entered
            batches = iter(self.loader)
        for batch in batches:
            yield batch.to(state.accelerator.device) if hasattr(batch, "to") else batch

    def take_step(self, train_step: Callable[[TrainState, Any], dict[str, Tensor]], batch: Any) -> None:
        state = self.state
        try:
            losses = train_step(state, batch)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            size = getattr(self.loader, "batch_size", None)
            now = f" (now {size})" if size else ""
            raise TrainingError(f"memory ran out at step {state.step + 1}: halve batch_size{now}, "
                                "or max_frames if it is 1 already, and resume") from error  # fmt: skip
        state.step += 1
        state.batch += 1
        device = state.accelerator.device
        values = [torch.as_tensor(value, device=device).detach().float().reshape(()) for value in losses.values()]
        self.waiting.append((state.step, tuple(losses), torch.stack(values)))

    def end_epoch(self) -> None:
        for _, scheduler in self.state.schedules().values():
            scheduler.step()
        self.state.epoch += 1
        self.state.batch = 0

    def log_and_save(self, bar: tqdm) -> None:
        settings, state = self.settings, self.state
        if state.step % settings.log_every_steps == 0:
            self.log(bar)
        done = state.seconds if _counts_seconds(settings) else state.step
        bar.update(min(done, bar.total or done) - bar.n)
        due = time.monotonic() - self.saved_at > settings.save_every_minutes * 60
        if due or state.step % settings.save_every_steps == 0:
            self.save()

    def end(self, bar: tqdm) -> None:
        """Save unless nothing happened since: a model that no step has changed is not written."""
        if self.waiting:
            self.log(bar)
        if self.state.step > self.saved_step:
            self.save()
        elif self.state.step > self.first_step and self.main:
            self.write_record(capture_rng())  # the clock, and perhaps the epoch, went on since

    def check_losses(self) -> list[dict[str, float]]:
        """Fetch the waiting losses from the device, at once."""
        if not self.waiting:
            return []
        numbers = iter(torch.cat([values for _, _, values in self.waiting]).tolist())
        fetched = [{name: next(numbers) for name in names} for _, names, _ in self.waiting]
        for (step, _, _), losses in zip(self.waiting, fetched, strict=True):
            broken = [name for name, value in losses.items() if not math.isfinite(value)]
            if broken:
                kept = f"the checkpoint of step {self.saved_step} is kept" if self.saved_step else "none was saved yet"
                values = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
                raise TrainingError(f"step {step}: {', '.join(broken)} is not finite ({values}); {kept}. "
                                    "Resume with half the learning rate, or precision fp32 or bf16")  # fmt: skip
        return fetched

    def log(self, bar: tqdm) -> None:
        """One line of history: the mean of each loss since the last."""
        fetched = self.check_losses()
        self.waiting.clear()
        self.last_losses = {
            name: fmean(losses[name] for losses in fetched if name in losses) for name in fetched[-1]
        }
        bar.set_postfix({n: f"{v:.3g}" for n, v in list(self.last_losses.items())[:N_LOSSES_SHOWN]}, refresh=False)
        self.write_history({"losses": self.last_losses})

    def write_history(self, content: dict[str, Any]) -> None:
        state = self.state
        if self.main:
            line = {"step": state.step, "epoch": state.epoch, "seconds": round(state.seconds, 3)}
            line["lr"] = state.optimizer_g.param_groups[0]["lr"]
            append_history(self.folder / HISTORY_NAME, line | content)

    def save(self) -> None:
        """Validate, then write the checkpoint, then state.json, then drop what is too old."""
        self.check_losses()
        state = self.state
        rng = capture_rng()  # before the hooks: what the next step will draw from
        with rng_untouched():
            if self.hooks.validate is not None and (measured := self.hooks.validate(state)):
                self.last_validation = dict(measured)
                self.write_history({"validation": self.last_validation})
            if self.main:
                self.write_checkpoint(rng)
                if self.hooks.sample is not None:
                    self.hooks.sample(state, self.folder)
        for network in state.networks():
            network.train()
        self.saved_step, self.saved_at = state.step, time.monotonic()

    def write_checkpoint(self, rng: dict[str, Any]) -> None:
        state = self.state
        saving = self.folder / SAVING_FOLDER
        _empty(saving)
        self.hooks.save(state, saving)
        names = sorted(path.name for path in saving.iterdir())
        for name in names:
            os.replace(saving / name, self.folder / name)
        saving.rmdir()
        earlier = [old for old in self.checkpoints if old.step != state.step]
        self.checkpoints = [*earlier, SavedCheckpoint(step=state.step, files=names)][-self.settings.keep_checkpoints :]
        self.write_record(rng)
        kept = {name for checkpoint in self.checkpoints for name in checkpoint.files}
        for name in {name for checkpoint in earlier for name in checkpoint.files} - kept:
            (self.folder / name).unlink(missing_ok=True)

    def write_record(self, rng: dict[str, Any]) -> None:
        self.tick()
        state = self.state
        scaler = state.accelerator.scaler
        RunRecord(
            step=state.step, epoch=state.epoch, batch=state.batch, seconds=state.seconds, checkpoints=self.checkpoints,
            schedules={name: _schedule(*pair) for name, pair in state.schedules().items()},
            scaler=None if scaler is None else scaler.state_dict(), rng=rng,
        ).save(self.folder)  # fmt: skip

    def report(self, *, interrupted: bool) -> TrainReport:
        return TrainReport(
            steps=self.state.step - self.first_step,
            step=self.state.step,
            seconds=self.state.seconds - self.earlier_seconds,
            last_losses=self.last_losses,
            history_path=self.folder / HISTORY_NAME,
            peak_memory_bytes=_peak_memory_bytes(self.state.accelerator.device),
            interrupted=interrupted,
            last_validation=self.last_validation,
        )


def _schedule(optimizer: Optimizer, scheduler: ExponentialLR) -> dict[str, Any]:
    return {
        "last_epoch": scheduler.last_epoch,
        "base_rates": list(scheduler.base_lrs),
        "rates": [group["lr"] for group in optimizer.param_groups],
    }


def _empty(folder: Path) -> None:
    """An empty folder, whatever a killed run left there."""
    folder.mkdir(exist_ok=True)
    for leftover in folder.iterdir():
        leftover.unlink()


def _is_out_of_memory(error: RuntimeError) -> bool:
    on_cpu = ("can't allocate memory", "not enough memory")
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(text in str(error) for text in on_cpu)


def _counts_seconds(settings: TrainSettings) -> bool:
    return settings.max_steps is None and settings.max_minutes is not None


def _progress_bar(state: TrainState, settings: TrainSettings) -> tqdm:
    """A bar of steps; of seconds where only the time is limited, so that the remaining time is right."""
    looks: dict[str, Any] = {"desc": "training", "mininterval": 0.5, "disable": not state.accelerator.is_main_process}
    if _counts_seconds(settings):
        layout = "{l_bar}{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}{postfix}]"
        total_s = settings.max_minutes * 60
        return tqdm(total=total_s, initial=min(state.seconds, total_s), bar_format=layout, **looks)
    return tqdm(total=settings.max_steps, initial=state.step, unit="step", **looks)


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM as an event that is read between steps; a second one acts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals never reach other threads
        return
    usual = {number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, _frame: object) -> None:
        signal.signal(number, usual[number])
        stop.set()

    for number in usual:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def _peak_memory_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
