"""so-vits-svc 4.0 and 4.1, from clips to a voice.

config = Config.small()
prepare(config, "data/clips", "data/features/mine")
train("data/features/mine", "data/models/mine", TrainSettings(max_minutes=30))
fit_voice_centers("data/features/mine", "data/models/mine")
voice = load_voice("data/models/mine")
voice.convert_file("song.wav", "data/converted", ConversionSettings(transpose_semitones=5))
"""

from __future__ import annotations

from svcnb.data.settings import PrepareSettings
from svcnb.models.sovits.clusters import build_voice_index, fit_voice_centers
from svcnb.models.sovits.config import Config
from svcnb.models.sovits.export import export_voice
from svcnb.models.sovits.prepare import prepare
from svcnb.models.sovits.release import mix_voices
from svcnb.models.sovits.step import build, train_step
from svcnb.models.sovits.train import train
from svcnb.models.sovits.voice import Voice, load_voice

__all__ = [
    "Config",
    "PrepareSettings",
    "Voice",
    "build",
    "build_voice_index",
    "export_voice",
    "fit_voice_centers",
    "load_voice",
    "mix_voices",
    "prepare",
    "train",
    "train_step",
]
