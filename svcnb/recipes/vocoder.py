"""Vocoders of one's own: mel and f0 to waveform, in the files of the families' NSF-HiFiGAN.

    train("data/features/mine", "data/models/mine/vocoder", TrainSettings(max_minutes=30))
    vocoder = svcnb.vocoder.load_vocoder("data/models/mine/vocoder")
"""

from __future__ import annotations

from svcnb.recipes.vocoder_config import VocoderConfig
from svcnb.recipes.vocoder_step import VocoderNetworks, build, train_step
from svcnb.recipes.vocoder_training import train

__all__ = ["VocoderConfig", "VocoderNetworks", "build", "train", "train_step"]
