"""How recordings are cut into training clips."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from svcnb.files.options import Settings, option


class CutSettings(Settings):
    """How a recording becomes training clips.

    Attributes:
        min_silence_s: a silence at least this long is cut at.
        keep_silence_s: silence kept at both ends of a clip.
        max_join_gap_s: a short clip is joined over a silence up to this long.
    """

    sample_rate_hz: int = option(
        44100,
        "sampling rate of the clips: 44100 for so-vits-svc",
        unit="Hz",
        ge=8000,
        le=192000,
        advanced=True,
        suggestions=(44100, 48000, 40000, 32000, 22050),
    )
    threshold_db: float = option(
        -40.0,
        "level below which is silence, after levelling; -30 for noisy recordings",
        unit="dBFS",
        ge=-100,
        le=-1,
        slider=(-80, -10, 1),
    )
    min_silence_s: float = Field(0.5, ge=0)
    keep_silence_s: float = Field(0.2, ge=0)
    min_clip_s: float = option(
        1.0,
        "shorter clips are joined to a neighbour, or dropped",
        unit="seconds",
        ge=0.1,
        slider=(0.5, 5, 0.1),
    )
    max_clip_s: float = option(
        12.0,
        "no clip is longer: cut at its quietest point",
        unit="seconds",
        gt=0,
        slider=(4, 30, 0.5),
    )
    max_join_gap_s: float = Field(1.0, ge=0)
    level: Literal["off", "peak", "lufs"] = option(
        "off",
        "one gain per recording first: lufs for equal loudness, peak for equal peaks",
        advanced=True,
    )
    level_db: float = option(
        -20.0, "that level: peak in dBFS, or loudness in LUFS", unit="dB", lt=0, advanced=True
    )

    @model_validator(mode="after")
    def _check_lengths(self) -> CutSettings:
        if self.max_clip_s < 2 * self.min_clip_s:
            raise ValueError(
                f"max_clip_s (--max_clip_s) is {self.max_clip_s:g}: expected at least twice min_clip_s ({self.min_clip_s:g})"
            )
        return self
