"""Recordings as float32 arrays: read, written, resampled, cut at silence, measured."""

from svcnb.audio.audio import Audio, find_audio_files, read_audio, resample, write_audio

__all__ = ["Audio", "find_audio_files", "read_audio", "resample", "write_audio"]
