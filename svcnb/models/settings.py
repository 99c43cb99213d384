"""What the verbs of the model families can be told, apart from their configs; no torch, so that `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from svcnb.conversion.settings import ConversionSettings
from svcnb.data.settings import PrepareSettings
from svcnb.files.options import Settings, option
from svcnb.training.settings import TrainSettings

MAX_PROTECT = 0.5
RVC_NOISE_SCALE = 0.66666


# --- so-vits-svc --------------------------------------------------------------------------------------------------


class ClusterSettings(Settings):
    """How to fit cluster centers.

    Attributes:
        n_rounds: how often idle centers move; 0 is plain k-means, faster and a few per cent worse.
    """

    n_centers: int | None = option(
        None,
        "cluster centers per speaker",
        unset="one for ten frames, at most so-vits-svc's 10000",
        ge=1,
        aliases="--n_centres",
    )
    seed: int = option(0, "random seed", advanced=True, ge=0)
    n_rounds: int = Field(10, ge=0, le=1000)


class IndexSettings(Settings):
    """How to build an index."""

    seed: int = option(0, "random seed", advanced=True, ge=0)


class MixSettings(Settings):
    """How to mix the weights of voices."""

    weights: tuple[float, ...] | None = option(
        None, "one number for each voice, 100 is one whole", unset="equal"
    )
    mode: Literal["convex", "linear"] = option(
        "convex",
        "convex: softmax of the weights, adds up to 1; linear: the weights as they are",
    )


class CompressSettings(Settings):
    """How to write the small file of a voice."""

    half: bool = option(
        False, "16-bit numbers: half of the size again, with hardly a difference", flags="-hf --half"
    )


# --- diffusion ----------------------------------------------------------------------------------------------------


class DiffusionChoices(Settings):
    """What a diffusion training takes besides its features; None leaves a choice to the config.

    Attributes:
        k_step_max: all steps are what conversion by diffusion alone needs; fewer are learned faster and serve shallow
            diffusion.
        pretrain_folder: where vocoders are.
    """

    config: str | Path = option(
        "auto",
        "size: small (2 CPU cores), full (a GPU), auto = as the voice, or a diffusion.yaml",
        suggestions=("auto", "small", "full"),
    )
    batch_size: int | None = option(
        None, "crops of two seconds per step", unset="the config's", advanced=True
    )
    k_step_max: int | None = option(
        None,
        "noise steps to learn of 1000: fewer are learned faster; 0 = all, for -od",
        unset="the config's",
        ge=0,
    )
    vocoder: Path | None = option(
        None,
        "vocoder folder or zip, whose mel settings count",
        group="files",
        unset="found as in convert",
    )
    base: Path | None = option(
        None,
        "model_*.pt to start from",
        group="files",
        unset="the newest in VOICE/diffusion, if any",
        advanced=True,
    )
    pretrain_folder: Path = Path("pretrain")


# --- RVC ----------------------------------------------------------------------------------------------------------


class RvcPrepareSettings(PrepareSettings):
    """How to extract what RVC trains on."""

    not_offered: ClassVar[frozenset[str]] = frozenset({"with_volume", "dask", "f0_threshold"})

    encoder: str = option(
        "auto",
        "content encoder; auto takes the version's own, for the small size the bundled one",
        flags="--speech_encoder",
        suggestions=("auto", "svcnb-units", "vec256l9", "vec768l12"),
        advanced=True,
    )
    f0_method: Literal["auto", "fcpe", "rmvpe", "crepe", "dio", "harvest", "pm"] = option(
        "auto",
        "f0 predictor; auto takes rmvpe where its file is, else fcpe",
        aliases="--f0_predictor",
        group="melody",
    )


class EpochChoices(Settings):
    """RVC's way of counting; each replaces what TrainSettings says in steps. Losses are logged every epoch at least."""

    total_epochs: int | None = option(
        None,
        "stop after this many epochs in all",
        flags="--total_epoch",
        unset="no limit",
        ge=1,
    )
    save_every_epochs: int | None = option(
        None,
        "epochs between checkpoints",
        flags="--save_every_epoch",
        unset="every 10 minutes",
        ge=1,
        advanced=True,
    )
    latest_only: bool = option(
        False, "keep only the newest checkpoint, and the best on held-out clips", advanced=True
    )
    save_small_models: bool = option(
        False,
        "write a small model at every checkpoint, not only at the end",
        flags="--small_models",
        advanced=True,
    )

    def apply(self, settings: TrainSettings, steps_per_epoch: int) -> TrainSettings:
        """The settings in steps."""
        changes: dict[str, int | None] = {"log_every_steps": min(settings.log_every_steps, steps_per_epoch)}
        for name, epochs in (("max_steps", self.total_epochs), ("save_every_steps", self.save_every_epochs)):
            if epochs is not None:
                changes[name] = epochs * steps_per_epoch
        if self.total_epochs is not None:
            changes["max_epochs"] = None
        if self.latest_only:
            changes["keep_checkpoints"] = 1
        return settings.model_copy(update=changes)


class RvcConversionSettings(ConversionSettings):
    """Every choice of one conversion, with RVC's own flags and defaults; `cluster_ratio` is its index_rate.

    `loudness_envelope_ratio` is its rms_mix_rate. Plain ConversionSettings work too: then nothing is pulled towards
    the voice unless their ratio says so.
    """

    not_offered: ClassVar[frozenset[str]] = frozenset(
        "auto_predict_f0 feature_retrieval speaker_mix enhance enhancer_adaptive_key shallow_diffusion k_step "
        "second_encoding only_diffusion like_original".split()
    )

    speaker: str | int | None = option(
        None,
        "row of the speaker table",
        flags="-s --speaker",
        unset="the voice's own",
        advanced=True,
    )
    transpose_semitones: float = option(
        0.0,
        "transpose the f0: 12 is one octave up, negative is down",
        flags="-t --transpose",
        original="--f0up_key",
        unit="semitones",
        ge=-36,
        le=36,
        slider=(-36, 36, 1),
    )
    f0_method: Literal["auto", "fcpe", "rmvpe", "crepe", "dio", "harvest", "pm"] = option(
        "auto",
        "f0 predictor; auto takes rmvpe where its file is, else fcpe",
        flags="--f0_method",
        original="--f0method",
        group="melody",
    )
    f0_threshold: float = option(
        0.03,
        "confidence below which a frame is unvoiced (fcpe, rmvpe, crepe)",
        flags="--f0_filter_threshold",
        group="melody",
        advanced=True,
        ge=0,
        le=1,
        slider=(0, 1, 0.01),
    )
    cluster_ratio: float = option(
        0.75,
        "blend the content with the voice's index: 0 = clearer words, 1 = closer timbre",
        original="--index_rate",
        group="voice",
        ge=0,
        le=1,
        slider=(0, 1, 0.05),
        note="0 where there is no index",
    )
    feature_retrieval: bool = Field(True, description="RVC always searches an index")
    noise_scale: float = option(
        RVC_NOISE_SCALE,
        "noise in the prior: lower is flatter, higher is livelier and rougher",
        group="quality",
        advanced=True,
        ge=0,
        le=2,
    )
    loudness_envelope_ratio: float = option(
        0.25,
        "loudness over time: 0 = of the recording, 1 = of the voice's result",
        original="--rms_mix_rate",
        group="voice",
        ge=0,
        le=1,
        slider=(0, 1, 0.05),
    )
    audio_format: Literal["flac", "wav", "ogg", "mp3"] = option(
        "flac",
        "file format of the result",
        flags="--wav_format",
        group="files",
    )
    protect: float = option(
        0.33,
        "breath and voiceless consonants take less from the index: 0 = least, 0.5 = off",
        group="quality",
        ge=0,
        original="--protect",
        le=MAX_PROTECT,
        slider=(0, 0.5, 0.01),
    )
    filter_radius: int = option(
        3,
        "above 2, a median over three frames smooths the f0 of harvest",
        group="melody",
        advanced=True,
        ge=0,
        le=7,
        original="--filter_radius",
        slider=(0, 7, 1),
    )
    resample_hz: int = option(
        0,
        "sampling rate of the result; below 16000 the voice's own",
        original="--resample_sr",
        unit="Hz",
        group="files",
        advanced=True,
        ge=0,
        le=192000,
        suggestions=(0, 16000, 22050, 44100, 48000),
    )
