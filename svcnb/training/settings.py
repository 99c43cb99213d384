"""How long to train, how often to save and measure: the same for every family."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from svcnb.files.options import Settings, option

Precision = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True)
class Schedule:
    """What a family's config says about how to train, under the names of TrainSettings; the defaults where it says nothing.

    Attributes:
        max_epochs: None is no limit.
        keep_every_steps: 0 keeps no checkpoints besides the newest and the best.
        precision: meant for a GPU; the CPU trains in fp32.
        precision_key: the config's key that says so, for messages.
    """

    save_every_steps: int = 800
    log_every_steps: int = 50
    keep_checkpoints: int = 3
    keep_every_steps: int = 0
    max_epochs: int | None = None
    warmup_epochs: int = 0
    n_loader_workers: int = 0
    precision: Precision = "fp32"
    precision_key: str = ""


class TrainSettings(Settings):
    """How long to train and how to save. Batch size, learning rate and losses belong to the config.

    Where a field is None (or precision auto), the config decides, see Schedule: a value given here wins.

    Attributes:
        max_steps, max_minutes: of earlier runs too.
        max_epochs: the config's only where neither steps nor minutes are limited.
        save_every_minutes: the most that a disconnect can lose.
        validate_every_steps: every checkpoint is measured too.
        keep_checkpoints: the best one is kept besides.
        stop_at_plateau: see training_advice.
        vol_aug: for voices that know the loudness.
        n_processes: each gets the config's batch size; of no effect where torchrun or `accelerate launch` has started
            several already.
    """

    max_steps: int | None = option(None, "stop after this many steps in all", unset="no limit", ge=1)
    max_minutes: float | None = option(
        None,
        "stop after this many minutes of training in all",
        unset="no limit",
        gt=0,
        slider=(0, 720, 0.5),
    )
    max_epochs: int | None = option(
        None,
        "stop after this many epochs in all",
        unset="the config's, where no other limit is given",
        advanced=True,
        ge=1,
    )
    save_every_steps: int | None = option(
        None,
        "steps between checkpoints",
        unset="the config's",
        advanced=True,
        ge=1,
        slider=(0, 10000, 100),
    )
    save_every_minutes: float = option(
        10.0,
        "most minutes between checkpoints: what a disconnect can lose",
        advanced=True,
        gt=0,
        slider=(1, 60, 1),
    )
    log_every_steps: int | None = option(
        None,
        "steps between logged losses",
        unset="the config's",
        advanced=True,
        ge=1,
        slider=(0, 1000, 5),
    )
    validate_every_steps: int = option(
        100,
        "steps between measurements on held-out clips",
        advanced=True,
        ge=1,
        slider=(20, 2000, 20),
    )
    keep_checkpoints: int | None = option(
        None,
        "newest checkpoints to keep, besides the best; 0 keeps all",
        unset="the config's",
        advanced=True,
        ge=0,
        slider=(-1, 20, 1),
    )
    keep_every_steps: int | None = option(
        None,
        "keep checkpoints at multiples of this too; 0 = none",
        unset="the config's",
        advanced=True,
        ge=0,
    )
    precision: Literal["auto", "fp32", "fp16", "bf16"] = option(
        "auto",
        "auto = the config's; fp16 is faster on a T4, bf16 on newer GPUs and CPUs; fp32 always works",
        group="quality",
    )
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto",
        "where the networks run",
        flags="-d --device",
        group="files",
        advanced=True,
    )
    seed: int = option(1234, "random seed", group="quality", advanced=True)
    n_loader_workers: int | None = option(
        None,
        "processes that read clips",
        unset="the config's",
        group="files",
        advanced=True,
        ge=0,
        slider=(0, 8, 1),
    )
    warmup_epochs: int | None = option(
        None,
        "epochs over which the learning rate rises to its full value",
        unset="the config's",
        group="quality",
        advanced=True,
        ge=0,
    )
    n_processes: int = option(
        1,
        "processes that train together, each with its own batch: one per GPU",
        flags="--num_processes",
        group="files",
        advanced=True,
        ge=1,
    )
    stop_at_plateau: bool = option(
        False,
        "stop when held-out clips have not improved for long",
        advanced=True,
        aliases="--stop_when_flat",
    )
    tensorboard: bool = option(
        False, "also write TensorBoard's event files into the folder tensorboard", advanced=True
    )
    vol_aug: bool | None = option(
        None,
        "also train on louder and quieter clips, for features with --vol_embedding",
        unset="the config's",
        group="quality",
        advanced=True,
    )

    def filled(self, schedule: Schedule = Schedule()) -> TrainSettings:
        """The settings with a value for every field that the schedule has one for."""
        limited = self.max_steps is not None or self.max_minutes is not None
        values = {name: value for name, value in asdict(schedule).items() if name in type(self).model_fields}
        open_fields = {name: value for name, value in values.items() if getattr(self, name) in (None, "auto")}
        if limited:
            open_fields.pop("max_epochs", None)
        return self.model_copy(update=open_fields)
