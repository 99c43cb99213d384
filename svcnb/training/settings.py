"""How long to train, how often to save and measure: the same for every family."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


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
