"""Every choice of one conversion, with its flags, limits and help text: one table for all doors."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from svcnb import SvcError
from svcnb.conversion.speaker_mix import Timeline, read_mix


class SettingsError(SvcError):
    """A setting of the conversion is out of range; the message names its flag."""


def _flagged(default: Any, flags: str, description: str, **limits: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"flags": flags.split()}, **limits)


class ConversionSettings(BaseModel):
    """Every choice of one conversion. The descriptions are the help texts of the command line and of notebook forms."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    speaker: str | int | None = _flagged(
        None, "-s --spk_list", "target speaker, by name or number; empty takes the voice's only speaker"
    )
    transpose_semitones: float = _flagged(
        0.0, "-t --trans", "move the melody by this many semitones (12 = one octave up)", ge=-36, le=36
    )
    auto_predict_f0: bool = _flagged(
        False, "-a --auto_predict_f0", "let the voice choose the melody: for speech only, it sings out of tune"
    )
    f0_method: Literal["auto", "fcpe", "rmvpe", "crepe", "dio", "harvest", "pm"] = _flagged(
        "auto", "-f0p --f0_predictor", "how the melody is estimated; auto takes the best one installed"
    )
    f0_mean_pooling: bool = _flagged(
        False, "-fmp --f0_mean_pooling", "smooth the melody over three frames (4.0: with crepe); may lessen hoarseness"
    )
    f0_threshold: float = _flagged(
        0.05, "-ft --f0_filter_threshold", "confidence below which a frame counts as unvoiced (crepe, rmvpe, fcpe)",
        ge=0, le=1,
    )
    cluster_ratio: float = _flagged(
        0.0, "-cr --cluster_infer_ratio", "pull the content towards the target: 0 = clearer words, 1 = closer timbre",
        ge=0, le=1,
    )
    feature_retrieval: bool = _flagged(
        False, "-fr --feature_retrieval", "pull towards nearest neighbours (index) instead of k-means centres"
    )
    noise_scale: float = _flagged(
        0.4, "-ns --noice_scale", "randomness of the prior: lower is flatter, higher is livelier and rougher", ge=0, le=2
    )
    slice_db: float = _flagged(
        -40.0, "-sd --slice_db", "below this level (dBFS) counts as silence: -30 for noisy recordings, -50 keeps breaths",
        ge=-120, le=0,
    )
    clip_seconds: float = _flagged(
        0.0, "-cl --clip", "cut into pieces of this length as well; 0 cuts at silence only", ge=0, le=3600
    )
    crossfade_seconds: float = _flagged(
        0.0, "-lg --linear_gradient", "overlap of forced pieces in seconds, when joins are audible", ge=0, le=60
    )
    crossfade_keep_ratio: float = _flagged(
        0.75, "-lgr --linear_gradient_retain", "share of the overlap that is cross-faded, cut off evenly at both ends",
        gt=0, le=1,
    )
    pad_seconds: float = _flagged(
        0.5, "-p --pad_seconds", "context around each piece: the real sound where there is some, else silence", ge=0, le=10
    )
    loudness_envelope_ratio: float = _flagged(
        1.0, "-lea --loudness_envelope_adjustment", "0 = loudness over time of the source, 1 = as the voice gives it",
        ge=0, le=1,
    )
    speaker_mix: Timeline | None = _flagged(
        None, "-usm --use_spk_mix", "several speakers at once: ada=0.7,bob=0.3, or ada=1>0,bob=0>1 over the song, or a file"
    )
    enhance: bool = _flagged(
        False, "-eh --enhance", "pass the result through the NSF-HiFiGAN enhancer; helps voices with little training data"
    )
    enhancer_adaptive_key: int = _flagged(
        0, "-eak --enhancer_adaptive_key", "semitones a voice lies above the enhancer's range: it works so much lower",
        ge=-24, le=24,
    )
    shallow_diffusion: bool = _flagged(
        False, "-shd --shallow_diffusion", "refine the result with the voice's diffusion model: less noise, richer timbre"
    )
    k_step: int = _flagged(
        100, "-ks --k_step", "noise steps of the shallow diffusion: more = further from the voice's own result", ge=1, le=1000
    )
    second_encoding: bool = _flagged(
        False, "-se --second_encoding", "the diffusion hears the words in the result, not in the recording"
    )
    only_diffusion: bool = _flagged(
        False, "-od --only_diffusion", "convert with the diffusion model alone, which must have learnt all noise steps"
    )
    audio_format: Literal["flac", "wav", "ogg", "mp3"] = _flagged("flac", "-wf --wav_format", "file format of the result")
    seed: int = _flagged(52468, "--seed", "seed of all randomness: same seed, same result", ge=0, le=2**63 - 1)
    like_original: bool = _flagged(
        False, "--like_original", "the original program's timing and 16-bit steps, to compare results; ours is cleaner"
    )
    max_piece_s: float = _flagged(
        30.0, "--max_piece_s", "longest piece in seconds, so that memory stays flat on long songs", ge=1, le=600
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError("; ".join(_explain(problem) for problem in error.errors())) from None

    @field_validator("speaker_mix", mode="before")
    @classmethod
    def _read_mix(cls, given: Any) -> Any:
        return read_mix(given) if given else None

    @model_validator(mode="after")
    def _check_lengths(self) -> ConversionSettings:
        longest, flag = self.max_piece_s, "max_piece_s (--max_piece_s)"
        if 0 < self.clip_seconds <= self.max_piece_s:
            longest, flag = self.clip_seconds, "clip_seconds (-cl)"
        if self.crossfade_seconds * 2 > longest:
            raise ValueError(
                f"crossfade_seconds (-lg) is {self.crossfade_seconds:g}: "
                f"at most half of {flag} {longest:g}, shorten one or lengthen the other"
            )
        if 0 < self.clip_seconds < 0.1:
            raise ValueError(f"clip_seconds (-cl) is {self.clip_seconds:g}: 0 (off) or at least 0.1 seconds")
        return self


def _explain(problem: Any) -> str:
    """One pydantic error in one line: the field, its flag, what was found, what is accepted."""
    if not problem["loc"]:
        return str(problem.get("ctx", {}).get("error", problem["msg"]))
    name = str(problem["loc"][0])
    field = ConversionSettings.model_fields.get(name)
    if field is None:
        known = ", ".join(ConversionSettings.model_fields)
        return f"{name} is not a conversion setting; known are {known}"
    flag = field.json_schema_extra["flags"][0]
    wanted = problem["msg"].removeprefix("Input should be ")
    if problem["type"] in ("greater_than", "greater_than_equal", "less_than_equal"):
        limits = {k: getattr(bound, k) for bound in field.metadata for k in ("gt", "ge", "le") if hasattr(bound, k)}
        low = f"above {limits['gt']:g}" if "gt" in limits else f"from {limits['ge']:g}"
        wanted = f"{low} to {limits['le']:g}"
    return f"{name} ({flag}) is {problem['input']!r}: expected {wanted}"
