"""What training changes and how it is set up: settings, device and precision, networks with their optimisers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR

from svcnb import SvcError
from svcnb.training.checkpoints import RunRecord
from svcnb.training.distributed import Processes

if TYPE_CHECKING:
    from accelerate import Accelerator

AMPERE = (8, 0)  # the first compute capability with bf16; older GPUs emulate it, slowly


class TrainingError(SvcError):
    """Training cannot go on; the last checkpoint is as it was."""


class TrainSettings(BaseModel):
    """How long to train and how to save. Batch size, learning rate and losses belong to the recipe's config.

    Attributes:
        max_steps: stop after so many steps in all, those of earlier runs counted.
        max_minutes: stop after so much training time in all; with neither, only ctrl-C stops.
        save_every_minutes: the most that a disconnect can lose.
        validate_every_steps: steps between measurements on held-out clips; every checkpoint is measured too.
        keep_checkpoints: newest to keep, 0 keeps all; the best one is kept besides.
        stop_when_flat: stop when the held-out clips have not got better for long (see training_advice).
        tensorboard: also write TensorBoard's event files.
        key_shift_semitones: move clips by up to so many semitones; None leaves it to the recipe's config.
        vol_aug: vary the loudness of clips (for voices that know it); None leaves it to the recipe's config.
        warmup_epochs: epochs over which the learning rate rises to its full value.
        n_processes: processes that share every batch (each gets the config's batch size), on CUDA one per GPU;
            of no effect where torchrun or `accelerate launch` has started several already.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_steps: int | None = Field(None, ge=1)
    max_minutes: float | None = Field(None, gt=0)
    save_every_steps: int = Field(800, ge=1)
    save_every_minutes: float = Field(10.0, gt=0)
    log_every_steps: int = Field(50, ge=1)
    validate_every_steps: int = Field(100, ge=1)
    keep_checkpoints: int = Field(3, ge=0)
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 1234
    n_loader_workers: int = Field(0, ge=0)
    warmup_epochs: int = Field(0, ge=0)
    n_processes: int = Field(1, ge=1)
    stop_when_flat: bool = False
    tensorboard: bool = False
    key_shift_semitones: float | None = Field(None, ge=0, le=12)
    vol_aug: bool | None = None


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
        self.processes.add_gradients(parameter for group in optimizer.param_groups for parameter in group["params"])
        optimizer.step()


def make_accelerator(settings: TrainSettings) -> Accelerator:
    """Device and precision.

    Raises:
        SvcError: the device is not there, or cannot compute in this precision (the message names one that works).
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    has_cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not has_cuda:
        raise SvcError("device is cuda, but torch sees no CUDA GPU: choose device=cpu, or a runtime with a GPU")
    on_cpu = settings.device == "cpu" or not has_cuda
    if settings.precision == "fp16" and on_cpu:
        raise SvcError("precision fp16 needs a GPU: choose fp32, or bf16 where the processor has it")
    if settings.precision == "bf16" and not on_cpu and torch.cuda.get_device_capability() < AMPERE:
        raise SvcError(f"{torch.cuda.get_device_name()} does not compute in bf16: choose precision fp16 or fp32")
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
    state.step, state.epoch, state.batch, state.seconds = record.step, record.epoch, record.batch, record.seconds
    for name, (optimizer, scheduler) in state.schedules().items():
        if name not in record.schedules:
            continue  # this part did not take part before, e.g. a discriminator switched on later
        stored = record.schedules[name]
        n_epochs = stored["last_epoch"]
        # One more step than it counts itself: torch warns of schedulers that step before their new-born optimiser.
        scheduler.load_state_dict({"last_epoch": n_epochs, "_step_count": n_epochs + 2, "_last_lr": stored["rates"]})
        for group, rate, base, old_base in zip(
            optimizer.param_groups, stored["rates"], scheduler.base_lrs, stored["base_rates"], strict=True
        ):
            group["initial_lr"] = base
            group["lr"] = rate if base == old_base else rate * base / old_base
    if record.scaler and state.accelerator.scaler is not None:
        state.accelerator.scaler.load_state_dict(record.scaler)
    state.record = record
