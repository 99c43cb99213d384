"""How a voice is evaluated."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from svcnb.conversion.settings import ConversionSettings
from svcnb.files.options import Settings, option


class EvaluationSettings(Settings):
    """Every choice of an evaluation.

    Attributes:
        conversion: how recordings are converted; `transposition` is added to its own.
        n_references: the last ones; more hardly move their mean.
        most: the first ones.
        max_seconds: from the start.
        words: in songs, which the recognizer does not understand, they are not counted.
    """

    conversion: ConversionSettings = Field(default_factory=ConversionSettings)
    transposition: Literal["auto", "semitones", "octaves", "none"] = option(
        "auto",
        "move the median f0 to the target's; auto: octaves for songs, semitones for speech",
        group="melody",
    )
    n_references: int = option(
        12, "recordings of the target to compare with", advanced=True, ge=1, slider=(1, 50, 1)
    )
    n_copies: int = option(3, "of these, recordings to convert into their own voice", ge=0, slider=(0, 12, 1))
    most: int = option(10, "recordings to take of each folder of sources", ge=1, slider=(1, 50, 1))
    max_seconds: float = option(
        60.0,
        "of each recording, from its start",
        unit="seconds",
        advanced=True,
        ge=1,
        le=600,
        slider=(5, 120, 5),
    )
    words: bool = option(
        True,
        "count word errors, where there are transcripts (English)",
        flags="--no_words",
        advanced=True,
    )
    parallel: bool = option(
        False,
        "equal names in target and sources are the same words: also measure MCD",
        advanced=True,
    )
