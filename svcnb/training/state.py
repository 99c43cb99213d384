"""What training changes and how it is set up: device and precision, networks with their optimisers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR

from svcnb import SvcError
from svcnb.training.checkpoints import RunRecord
from svcnb.training.distributed import Processes
from svcnb.training.settings import Schedule, TrainSettings

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)
AMPERE = (8, 0)  # the first compute capability with bf16; older GPUs emulate it, slowly


class TrainingError(SvcError):
    """Training cannot go on; the last checkpoint is as it was."""


@dataclass
class TrainState:
    """All that changes while training. `extras` is the recipe's own (transforms, config)."""

    generator: nn.Module
    discriminator: nn.Module | None
    optimizer_g: Optimizer
    optimizer_d: Optimizer | None
    scheduler_g: ExponentialLR
    scheduler_d: ExponentialLR | None
    accelerator: Accelerator
    processes: Processes = field(default_factory=Processes)
    step: int = 0
    epoch: int = 1
    batch: int = 0
    seconds: float = 0.0
    extras: dict[str, Any] = field(default_factory=dict)
    record: RunRecord | None = None  # of the run this one continues

    def schedules(self) -> dict[str, tuple[Optimizer, ExponentialLR]]:
        pairs = {"g": (self.optimizer_g, self.scheduler_g), "d": (self.optimizer_d, self.scheduler_d)}
        return {name: pair for name, pair in pairs.items() if pair[0] is not None}

    def networks(self) -> list[nn.Module]:
        return [net for net in (self.generator, self.discriminator) if net is not None]

    def descend(self, optimizer: Optimizer, loss: Tensor) -> None:
        """One update of what the optimiser holds; gradients of several processes are added."""
        optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        self.processes.add_gradients(
            parameter for group in optimizer.param_groups for parameter in group["params"]
        )
        optimizer.step()


def settle(settings: TrainSettings, schedule: Schedule, path: Path | str) -> TrainSettings:
    """The settings, and what they leave open as the config in the file `path` says."""
    if settings.precision == "auto" and schedule.precision != "fp32" and not uses_gpu(settings):
        log.warning(
            "%s: %s is for GPUs and not used: on the CPU the training is in fp32",
            path,
            schedule.precision_key,
        )
        schedule = replace(schedule, precision="fp32")
    return settings.filled(schedule)


def uses_gpu(settings: TrainSettings) -> bool:
    return settings.device != "cpu" and torch.cuda.is_available()


def make_accelerator(settings: TrainSettings) -> Accelerator:
    """Device and precision.

    Raises:
        SvcError: the device is not there, or cannot compute in this precision (the message names one that works).
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    settings, on_cpu = settings.filled(), not uses_gpu(settings)
    if settings.device == "cuda" and on_cpu:
        raise SvcError(
            "device is cuda, but torch sees no CUDA GPU: choose device=cpu, or a runtime with a GPU"
        )
    if settings.precision == "fp16" and on_cpu:
        raise SvcError("precision fp16 needs a GPU: choose fp32, or bf16 where the processor has it")
    if settings.precision == "bf16" and not on_cpu and torch.cuda.get_device_capability() < AMPERE:
        raise SvcError(
            f"{torch.cuda.get_device_name()} does not compute in bf16: choose precision fp16 or fp32"
        )
    # accelerate keeps one state per process and refuses another precision; a notebook trains more than once.
    AcceleratorState._reset_state(reset_partial_state=True)
    precision = "no" if settings.precision == "fp32" else settings.precision
    return Accelerator(cpu=on_cpu, mixed_precision=precision)


def assemble(
    generator: nn.Module,
    discriminator: nn.Module | None,
    *,
    make_optimizer: Callable[[Iterator[nn.Parameter]], Optimizer],
    lr_decay: float,
    accelerator: Accelerator,
    extras: dict[str, Any] | None = None,
) -> TrainState:
    """A fresh training state on the accelerator's device.

    Args:
        make_optimizer: e.g. functools.partial(torch.optim.AdamW, lr=1e-4); called once per network.
        lr_decay: factor on the learning rates after each epoch, 0..1.
    """
    parts: dict[str, Any] = {"discriminator": None, "optimizer_d": None, "scheduler_d": None}
    for network, kind, letter in ((generator, "generator", "g"), (discriminator, "discriminator", "d")):
        if network is not None:
            optimizer = make_optimizer(network.parameters())
            parts[f"scheduler_{letter}"] = ExponentialLR(optimizer, lr_decay)
            # "Evaluation" leaves DistributedDataParallel away: `processes` sums the gradients (it says why).
            parts[kind] = accelerator.prepare_model(network, evaluation_mode=True)
            parts[f"optimizer_{letter}"] = accelerator.prepare_optimizer(optimizer)
    processes = Processes.of(accelerator)
    return TrainState(**parts, accelerator=accelerator, processes=processes, extras=extras or {})


def restore(state: TrainState, record: RunRecord) -> None:
    """Continue where `record` stands. Call it after weights and optimisers of `record.step` were loaded.

    The learning rate of the config counts: when it was edited, the stored rates are scaled to it.
    """
    state.step, state.epoch, state.batch, state.seconds = (
        record.step,
        record.epoch,
        record.batch,
        record.seconds,
    )
    for name, (optimizer, scheduler) in state.schedules().items():
        if name not in record.schedules:
            continue  # this part did not take part before, e.g. a discriminator switched on later
        stored = record.schedules[name]
        n_epochs = stored["last_epoch"]
        # One more step than it counts itself: torch warns of schedulers that step before their new-born optimiser.
        scheduler.load_state_dict(
            {"last_epoch": n_epochs, "_step_count": n_epochs + 2, "_last_lr": stored["rates"]}
        )
        for group, rate, base, old_base in zip(
            optimizer.param_groups, stored["rates"], scheduler.base_lrs, stored["base_rates"], strict=True
        ):
            group["initial_lr"] = base
            group["lr"] = rate if base == old_base else rate * base / old_base
    if record.scaler and state.accelerator.scaler is not None:
        state.accelerator.scaler.load_state_dict(record.scaler)
    state.record = record
