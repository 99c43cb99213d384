"""so-vits-svc 4.0 and 4.1, from clips to a voice: the five verbs of every recipe, two for retrieval, two for diffusion.

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
from svcnb.recipes.sovits_diffusion_config import DiffusionConfig
from svcnb.recipes.sovits_diffusion_files import DiffusionFiles
from svcnb.recipes.sovits_diffusion_training import DiffusionChoices, train_diffusion
from svcnb.recipes.sovits_diffusion_voice import load_diffusion_voice
from svcnb.recipes.sovits_export import check_export, export_voice, with_exported
from svcnb.recipes.sovits_features import PrepareSettings, prepare
from svcnb.recipes.sovits_release import compress_voice, mix_voices
from svcnb.recipes.sovits_step import Networks, StepParts, build, train_step
from svcnb.recipes.sovits_training import train
from svcnb.recipes.sovits_voice import Voice, load_voice

__all__ = [
    "ClusterReport", "ClusterSettings", "Config", "DiffusionChoices", "DiffusionConfig", "DiffusionFiles", "Networks",
    "PrepareSettings", "StepParts", "Voice", "build", "build_voice_index", "check_export", "compress_voice", "export_voice",
    "fit_voice_centres", "load_diffusion_voice", "load_voice", "mix_voices", "prepare", "train", "train_diffusion",
    "train_step", "with_exported",
]  # fmt: skip
