"""Recordings as float32 arrays: reading, writing, resampling, slicing at silence, loudness."""

from svcnb.audio.audio import Audio, find_audio_files, read_audio, resample, write_audio

__all__ = ["Audio", "find_audio_files", "read_audio", "resample", "write_audio"]
