"""Conversion for every model family: settings, long recordings, speaker mixes, feature retrieval."""

from svcnb.conversion.settings import ConversionSettings
from svcnb.conversion.speaker_mix import read_mix, write_mix

__all__ = ["ConversionSettings", "read_mix", "write_mix"]
