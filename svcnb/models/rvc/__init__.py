"""RVC v1 and v2, from recordings to a voice.

config = Config.small()
cut_recordings("data/raw/me", "data/rvc/me", CutSettings(sample_rate_hz=config.data.sampling_rate))
prepare(config, "data/rvc/me")
train("data/rvc/me", TrainSettings(max_minutes=30))
build_voice_index("data/rvc/me")
load_voice("data/rvc/me").convert_file("song.wav", "data/converted", RvcConversionSettings(transpose_semitones=5))
"""

from __future__ import annotations

from svcnb.data.settings import PrepareSettings
from svcnb.models.rvc.config import Config
from svcnb.models.rvc.one_click import OneClickSettings, build_voice_index, train_one_click
from svcnb.models.rvc.prepare import prepare
from svcnb.models.rvc.preprocess import CutSettings, cut_recordings
from svcnb.models.rvc.step import build
from svcnb.models.rvc.train import train
from svcnb.models.rvc.voice import load_voice
from svcnb.models.settings import RvcConversionSettings

__all__ = [
    "Config",
    "OneClickSettings",
    "PrepareSettings",
    "RvcConversionSettings",
    "CutSettings",
    "build",
    "build_voice_index",
    "cut_recordings",
    "load_voice",
    "prepare",
    "train",
    "train_one_click",
]
