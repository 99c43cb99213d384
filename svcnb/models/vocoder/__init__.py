"""Vocoders of one's own: mel and f0 to waveform, in the files of the families' NSF-HiFiGAN.

train("data/features/mine", "data/models/mine/vocoder", TrainSettings(max_minutes=30))
vocoder = load_vocoder("data/models/mine/vocoder")
"""

from __future__ import annotations

from svcnb.models.vocoder.config import Config
from svcnb.models.vocoder.files import load_vocoder
from svcnb.models.vocoder.step import Networks, build, train_step
from svcnb.models.vocoder.train import train

__all__ = ["Config", "Networks", "build", "load_vocoder", "train", "train_step"]
