"""Every choice of one conversion: one table for the command line, the notebooks, the panel and README."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator, model_validator

from svcnb.conversion.speaker_mix import Timeline, read_mix
from svcnb.files.options import Settings, option


class ConversionSettings(Settings):
    """Every choice of one conversion; flags and defaults are those of so-vits-svc's inference_main.py."""

    speaker: str | int | None = option(
        None,
        "target speaker, by name or number",
        original="-s --spk_list",
        aliases="--speaker",
        unset="the voice's first",
    )
    transpose_semitones: float = option(
        0.0,
        "transpose the f0: 12 is one octave up, negative is down",
        original="-t --trans",
        unit="semitones",
        ge=-36,
        le=36,
        slider=(-36, 36, 1),
    )
    auto_predict_f0: bool = option(
        False,
        "let the model predict the f0: for speech only, songs come out of tune",
        original="-a --auto_predict_f0",
        group="melody",
    )
    f0_method: Literal["auto", "fcpe", "rmvpe", "crepe", "dio", "harvest", "pm"] = option(
        "auto",
        "f0 predictor; auto takes the best one installed",
        original="-f0p --f0_predictor",
        group="melody",
        note="so-vits-svc: pm, which is an extra here because of its licence",
    )
    f0_mean_pooling: bool = option(
        False,
        "average the f0 over three frames; may reduce hoarseness",
        original="-fmp --f0_mean_pooling",
        group="melody",
        advanced=True,
        note="4.0, with crepe",
    )
    f0_threshold: float = option(
        0.05,
        "confidence below which a frame is unvoiced (fcpe, rmvpe, crepe)",
        original="-ft --f0_filter_threshold",
        group="melody",
        advanced=True,
        ge=0,
        le=1,
        slider=(0, 1, 0.01),
    )
    cluster_ratio: float = option(
        0.0,
        "blend the content with the voice's: 0 = clearer words, 1 = closer timbre",
        group="voice",
        original="-cr --cluster_infer_ratio",
        ge=0,
        le=1,
        slider=(0, 1, 0.05),
    )
    feature_retrieval: bool = option(
        False,
        "blend with nearest neighbours of the index, not with cluster centers",
        original="-fr --feature_retrieval",
        group="voice",
    )
    noise_scale: float = option(
        0.4,
        "noise in the prior: lower is flatter, higher is livelier and rougher",
        original="-ns --noice_scale",
        aliases="--noise_scale",
        group="quality",
        advanced=True,
        ge=0,
        le=2,
        slider=(0, 1, 0.05),
        note="`--noise_scale` works too",
    )
    slice_db: float = option(
        -40.0,
        "level below which is silence: -30 for noisy recordings, -50 keeps breaths",
        original="-sd --slice_db",
        group="quality",
        unit="dBFS",
        ge=-120,
        le=0,
        slider=(-80, -10, 1),
    )
    clip_seconds: float = option(
        0.0,
        "also cut into chunks of this length; 0 = at silence only",
        original="-cl --clip",
        group="quality",
        advanced=True,
        unit="seconds",
        ge=0,
        le=3600,
        slider=(0, 60, 1),
    )
    crossfade_seconds: float = option(
        0.0,
        "overlap of such chunks, cross-faded",
        original="-lg --linear_gradient",
        group="quality",
        advanced=True,
        unit="seconds",
        ge=0,
        le=60,
        slider=(0, 5, 0.1),
    )
    crossfade_keep_ratio: float = option(
        0.75,
        "fraction of the overlap that is cross-faded, cut off evenly at both ends",
        group="quality",
        advanced=True,
        original="-lgr --linear_gradient_retain",
        gt=0,
        le=1,
        slider=(0.05, 1, 0.05),
    )
    pad_seconds: float = option(
        0.5,
        "context around each chunk: of the recording where possible, else silence",
        original="-p --pad_seconds",
        group="quality",
        advanced=True,
        unit="seconds",
        ge=0,
        le=10,
        slider=(0, 2, 0.1),
    )
    loudness_envelope_ratio: float = option(
        1.0,
        "loudness over time: 0 = of the recording, 1 = of the voice's result",
        group="voice",
        original="-lea --loudness_envelope_adjustment",
        ge=0,
        le=1,
        slider=(0, 1, 0.05),
        note="the web page's default was 0",
    )
    speaker_mix: Timeline | None = option(
        None,
        "mix speakers: ada=0.7,bob=0.3, or ada=1>0,bob=0>1 over the song, or a file",
        original="-usm --use_spk_mix",
        group="voice",
        advanced=True,
        unset="none",
        note="takes a value: `-usm spkmix.py`, or `-usm ada=0.7,bob=0.3`",
    )
    enhance: bool = option(
        False,
        "NSF-HiFiGAN enhancer (needs a vocoder): for voices with little training data",
        original="-eh --enhance",
        group="quality",
    )
    enhancer_adaptive_key: int = option(
        0,
        "how much lower the enhancer works, for high voices",
        original="-eak --enhancer_adaptive_key",
        group="quality",
        advanced=True,
        unit="semitones",
        ge=-24,
        le=24,
        slider=(-24, 24, 1),
    )
    shallow_diffusion: bool = option(
        False,
        "refine the result with the voice's diffusion model (needs a vocoder)",
        original="-shd --shallow_diffusion",
        group="quality",
    )
    k_step: int = option(
        100,
        "noise steps of shallow diffusion: more = further from the voice's own result",
        original="-ks --k_step",
        group="quality",
        advanced=True,
        ge=1,
        le=1000,
        slider=(1, 1000, 1),
    )
    second_encoding: bool = option(
        False,
        "condition the diffusion on the content of the result, not of the recording",
        group="quality",
        advanced=True,
        original="-se --second_encoding",
    )
    only_diffusion: bool = option(
        False,
        "convert with the diffusion model alone, trained on all noise steps",
        original="-od --only_diffusion",
        group="quality",
        advanced=True,
    )
    audio_format: Literal["flac", "wav", "ogg", "mp3"] = option(
        "flac",
        "file format of the result",
        original="-wf --wav_format",
        group="files",
    )
    seed: int = option(
        52468,
        "random seed: same seed, same result",
        group="quality",
        advanced=True,
        ge=0,
        le=2**63 - 1,
    )
    like_original: bool = option(
        False,
        "the original's slice times and 16-bit steps, to compare results with it",
        group="quality",
        advanced=True,
    )
    max_chunk_s: float = option(
        30.0,
        "longest chunk: bounds the memory on long songs",
        group="quality",
        advanced=True,
        unit="seconds",
        ge=1,
        le=600,
        slider=(5, 120, 1),
        aliases="--max_piece_s",
    )

    @field_validator("speaker_mix", mode="before")
    @classmethod
    def _read_mix(cls, given: Any) -> Any:
        return read_mix(given) if given else None

    @model_validator(mode="after")
    def _check_lengths(self) -> ConversionSettings:
        longest, flag = self.max_chunk_s, "max_chunk_s (--max_chunk_s)"
        if 0 < self.clip_seconds <= self.max_chunk_s:
            longest, flag = self.clip_seconds, "clip_seconds (-cl)"
        if self.crossfade_seconds * 2 > longest:
            raise ValueError(
                f"crossfade_seconds (-lg) is {self.crossfade_seconds:g}: "
                f"at most half of {flag} {longest:g}, shorten one or lengthen the other"
            )
        if 0 < self.clip_seconds < 0.1:
            raise ValueError(f"clip_seconds (-cl) is {self.clip_seconds:g}: 0 (off) or at least 0.1 seconds")
        return self
