"""so-vits-svc 4.0 and 4.1, from clips to a voice: the five verbs of every recipe.

    config = Config.small()
    prepare(config, "data/clips", "data/features/mine")
    train("data/features/mine", "data/models/mine", TrainSettings(max_minutes=30))
    voice = load_voice("data/models/mine")
    voice.convert_file("song.wav", "data/converted", ConversionSettings(transpose_semitones=5))
"""

from __future__ import annotations

from svcnb.recipes.sovits_config import Config
from svcnb.recipes.sovits_features import PrepareSettings, prepare
from svcnb.recipes.sovits_step import Networks, StepParts, build, train_step
from svcnb.recipes.sovits_training import train
from svcnb.recipes.sovits_voice import Voice, load_voice

__all__ = [
    "Config", "Networks", "PrepareSettings", "StepParts", "Voice",
    "build", "load_voice", "prepare", "train", "train_step",
]  # fmt: skip
