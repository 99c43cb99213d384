"""so-vits-svc 4.0 and 4.1, from clips to a voice: the five verbs of every recipe, and two for retrieval.

    config = Config.small()
    prepare(config, "data/clips", "data/features/mine")
    train("data/features/mine", "data/models/mine", TrainSettings(max_minutes=30))
    fit_voice_centres("data/features/mine", "data/models/mine")
    voice = load_voice("data/models/mine")
    voice.convert_file("song.wav", "data/converted", ConversionSettings(transpose_semitones=5))
"""

from __future__ import annotations

from svcnb.recipes.sovits_clusters import ClusterReport, ClusterSettings, build_voice_index, fit_voice_centres
from svcnb.recipes.sovits_config import Config
from svcnb.recipes.sovits_features import PrepareSettings, prepare
from svcnb.recipes.sovits_step import Networks, StepParts, build, train_step
from svcnb.recipes.sovits_training import train
from svcnb.recipes.sovits_voice import Voice, load_voice

__all__ = [
    "ClusterReport", "ClusterSettings", "Config", "Networks", "PrepareSettings", "StepParts", "Voice",
    "build", "build_voice_index", "fit_voice_centres", "load_voice", "prepare", "train", "train_step",
]  # fmt: skip
