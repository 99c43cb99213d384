"""How long to train, how often to save and measure: the same for every family."""

from __future__ import annotations

from typing import Literal

from svcnb.files.options import Settings, option


class TrainSettings(Settings):
    """How long to train and how to save. Batch size, learning rate and losses belong to the recipe's config.

    Attributes:
        max_steps, max_minutes: of earlier runs too; with neither, only ctrl-C stops.
        save_every_minutes: the most that a disconnect can lose.
        validate_every_steps: every checkpoint is measured too.
        keep_checkpoints: the best one is kept besides.
        stop_when_flat: see training_advice.
        vol_aug: for voices that know the loudness.
        n_processes: each gets the config's batch size; of no effect where torchrun or `accelerate launch` has started
            several already.
    """

    max_steps: int | None = option(None, "stop after this many steps in all", unset="no limit", ge=1)
    max_minutes: float | None = option(
        None, "stop after this many minutes of training in all", unset="no limit", gt=0, slider=(0, 720, 0.5),
    )
    save_every_steps: int = option(800, "steps between checkpoints", advanced=True, ge=1, slider=(100, 10000, 100))
    save_every_minutes: float = option(
        10.0, "most minutes between checkpoints: what a disconnect can lose", advanced=True, gt=0, slider=(1, 60, 1),
    )
    log_every_steps: int = option(50, "steps between logged losses", advanced=True, ge=1, slider=(5, 1000, 5))
    validate_every_steps: int = option(
        100, "steps between measurements on held-out clips", advanced=True, ge=1, slider=(20, 2000, 20),
    )
    keep_checkpoints: int = option(
        3, "newest checkpoints to keep, besides the best; 0 keeps all", advanced=True, ge=0, slider=(0, 20, 1),
    )
    precision: Literal["fp32", "fp16", "bf16"] = option(
        "fp32", "fp16 is faster on a T4, bf16 on newer GPUs and CPUs; fp32 works everywhere", group="quality",
    )
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", "where the networks run", flags="-d --device", group="files", advanced=True,
    )
    seed: int = option(1234, "random seed", group="quality", advanced=True)
    n_loader_workers: int = option(0, "processes that read clips", group="files", advanced=True, ge=0, slider=(0, 8, 1))
    warmup_epochs: int = option(
        0, "epochs over which the learning rate rises to its full value", group="quality", advanced=True, ge=0,
    )
    n_processes: int = option(
        1, "processes that train together, each with its own batch: one per GPU", flags="--num_processes", group="files",
        advanced=True, ge=1,
    )
    stop_when_flat: bool = option(False, "stop when held-out clips have not improved for long", advanced=True)
    tensorboard: bool = option(False, "also write TensorBoard's event files into the folder tensorboard", advanced=True)
    vol_aug: bool | None = option(
        None, "also train on louder and quieter clips, for features with --vol_embedding", unset="the config's",
        group="quality", advanced=True,
    )
