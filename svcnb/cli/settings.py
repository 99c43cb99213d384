"""What only commands can be told: files that are loaded beside a voice, bases, and where results go."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from svcnb.files.options import Settings, option


class VoiceFiles(Settings):
    """The files that a voice is loaded from."""

    checkpoint: Literal["best", "newest"] = option(
        "best",
        "checkpoint of the voice's folder: best on held-out clips, or newest",
        group="files",
    )
    config_path: Path | None = option(
        None,
        "config.json",
        original="-c --config_path",
        group="files",
        advanced=True,
        unset="beside the model",
    )
    cluster_model_path: Path | None = option(
        None,
        "file with cluster centers or an index",
        original="-cm --cluster_model_path",
        group="files",
        advanced=True,
        unset="beside the model",
        note="`kmeans*.pt`, `feature_and_index.pkl` or RVC's `*.index`",
    )
    diffusion_model_path: Path | None = option(
        None,
        "diffusion model",
        original="-dm --diffusion_model_path",
        group="files",
        advanced=True,
        unset="the best in `diffusion/` beside the model",
    )
    diffusion_config_path: Path | None = option(
        None,
        "its config.yaml",
        original="-dc --diffusion_config_path",
        group="files",
        advanced=True,
        unset="beside it",
    )
    vocoder: Path | None = option(
        None,
        "vocoder: folder, model file or zip",
        group="files",
        advanced=True,
        unset="the voice's, else `pretrain/nsf_hifigan`",
    )
    device: str = option(
        "auto",
        "where the networks run",
        original="-d --device",
        group="files",
        advanced=True,
        suggestions=("auto", "cpu", "cuda"),
    )


class ConvertFiles(Settings):
    """What `convert` reads and writes."""

    model_path: Path | None = option(
        None,
        "G_*.pth, or a folder or zip file; needs no VOICE then",
        original="-m --model_path",
        group="files",
        unset="best `G_*.pth` of VOICE, else the newest",
        note="`--checkpoint newest`",
    )
    clean_names: tuple[str, ...] = option(
        (),
        "recordings: paths, or names in `raw/`",
        original="-n --clean_names",
        group="files",
    )
    f0_csv: Path | None = option(
        None,
        "f0 to use instead: a table `time_s,f0_hz` (seconds, Hz)",
        group="melody",
        advanced=True,
        unset="the recording's own",
        note="`--write_f0` writes one, to be edited",
    )
    write_f0: bool = option(
        False, "also write the f0 of each recording as such a table", group="melody", advanced=True
    )
    output: Path = option(
        Path("data/converted"), "folder for the results", flags="-o --output", group="files"
    )


class RvcFiles(Settings):
    """What `rvc convert` reads and writes."""

    index: Path | None = option(
        None,
        "index (added_*.index)",
        flags="--index",
        original="--index_path",
        group="files",
        unset="the one that belongs to the voice",
    )
    f0_csv: Path | None = option(
        None,
        "f0 to use instead: a table `time_s,f0_hz` (seconds, Hz)",
        group="melody",
        advanced=True,
        unset="the recording's own",
    )
    output: Path = option(
        Path("data/converted"),
        "folder for the results",
        flags="-o --output",
        original="--opt_path",
        group="files",
    )
    device: str = option(
        "auto",
        "where the networks run",
        flags="-d --device",
        original="--device",
        group="files",
        advanced=True,
        suggestions=("auto", "cpu", "cuda"),
    )


class VoiceSize(Settings):
    """The size of a so-vits voice."""

    config: str = option(
        "small",
        "size of the voice: small (2 CPU cores), full (a GPU) or a config.json",
        suggestions=("small", "full"),
    )


class VoiceTraining(Settings):
    """What a so-vits training starts with."""

    base: str = option(
        "auto",
        "base model to start from: auto (bundled, for the small size), none, folder or G_*.pth",
        group="files",
        suggestions=("auto", "none"),
    )
    resume: bool = option(False, "resume from the newest checkpoint in VOICE")
    batch_size: int | Literal["auto"] | None = option(
        None,
        "clips per step, or auto (tries a GPU)",
        unset="the config's",
        advanced=True,
    )


class VocoderTraining(Settings):
    """What a vocoder training starts with."""

    config: str | None = option(
        None,
        "small (2 CPU cores), full (a GPU) or a config.json",
        unset="small",
        suggestions=("small", "full"),
    )
    voice: Path | None = option(
        None, "also learn to refine what this voice makes of the clips", unset="no voice"
    )
    base: Path | None = option(
        None,
        "vocoder to start from: folder, model file or zip",
        group="files",
        unset="none",
        advanced=True,
    )


class DiffusionTraining(Settings):
    """What a diffusion training is given besides."""

    refine: bool = option(False, "also learn to refine what the voice makes of its clips", aliases="--mend")


class RvcTraining(Settings):
    """What an RVC voice is, and what its training starts with."""

    config: Literal["small", "full"] = option(
        "small", "size: small for 2 CPU cores, full is RVC's own and wants a GPU"
    )
    version: Literal["v1", "v2"] = option(
        "v2", "of the full size: v2 has 768 content features per frame, v1 256"
    )
    sample_rate: Literal["32k", "40k", "48k"] = option("40k", "sampling rate of the full size")
    no_f0: bool = option(False, "full size without pitch guidance: for speech, not for songs", advanced=True)
    base: Literal["auto", "none"] = option(
        "auto",
        "start from: auto = the published base where it is in pretrain/, or none",
        group="files",
    )
    pretrained_g: Path | None = option(
        None,
        "G to start from instead",
        flags="-pg --pretrained_g",
        group="files",
        advanced=True,
        unset="the base's",
    )
    pretrained_d: Path | None = option(
        None,
        "D to start from instead",
        flags="-pd --pretrained_d",
        group="files",
        advanced=True,
        unset="the base's",
    )
    batch_size: int | None = option(None, "clips per step", unset="the config's", advanced=True)
