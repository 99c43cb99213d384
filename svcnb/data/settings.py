"""How features are extracted from clips: the same for every family."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from svcnb.files.options import Settings, option

ENCODER_NAMES = (
    "auto", "vec768l12", "vec256l9", "hubertsoft", "whisper-ppg", "whisper-ppg-large", "whisper-ppg-small", "cnhubertlarge",
    "dphubert", "wavlmbase+", "vec256l9-onnx", "vec256l12-onnx", "vec768l9-onnx", "vec768l12-onnx", "hubertsoft-onnx",
    "svcnb-units",
)  # fmt: skip


class PrepareSettings(Settings):
    """How to extract: which networks, where their files are, how many processes.

    Attributes:
        pretrain_folder: where weights are.
    """

    encoder: str = option(
        "auto",
        "content encoder, which conversion needs too; auto takes the best one here",
        flags="--speech_encoder",
        suggestions=ENCODER_NAMES,
    )
    f0_method: Literal["auto", "fcpe", "rmvpe", "crepe", "dio", "harvest", "pm"] = option(
        "auto",
        "f0 predictor: rmvpe and fcpe are best, crepe is slow; auto = best here",
        flags="--f0_predictor",
        aliases="--f0_method",
        group="melody",
    )
    f0_threshold: float | None = option(
        None,
        "confidence below which a frame is unvoiced (fcpe, rmvpe, crepe)",
        flags="--f0_filter_threshold",
        group="melody",
        advanced=True,
        unset="the predictor's own",
        ge=0,
        le=1,
    )
    with_volume: bool = option(
        False,
        "store loudness too, so that the voice can follow the loudness of its input",
        flags="--vol_embedding",
        group="voice",
    )
    n_jobs: int = option(
        1,
        "processes that extract at the same time; -1 = one per core",
        flags="--num_processes",
        group="files",
        advanced=True,
        ge=-1,
        slider=(-1, 8, 1),
    )
    dask: str | None = option(
        None,
        "work on a dask cluster: local, or its scheduler's tcp://HOST:PORT",
        group="files",
        advanced=True,
        unset="this machine",
    )
    device: str = option(
        "auto",
        "where the networks run",
        flags="-d --device",
        group="files",
        advanced=True,
        suggestions=("auto", "cpu", "cuda"),
    )
    pretrain_folder: Path = Path("pretrain")
    overwrite: bool = option(
        False, "extract again, where clips or settings have changed", group="files", advanced=True
    )
