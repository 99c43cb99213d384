"""Vocoders and clips so small that training takes a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from svcnb.audio.audio import Audio, write_audio
from svcnb.data.feature_store import INT16_SCALE, ClipRecord, FeatureSettings, FeatureStore
from svcnb.models.vocoder.config import Config as VocoderConfig

RATE_HZ, HOP = 8000, 64
N_CLIPS, N_FRAMES = 6, 120
SIZES = {
    "sampling_rate": RATE_HZ, "hop_size": HOP, "n_fft": 256, "win_size": 256, "num_freq": 129, "num_mels": 24,
    "fmax": 4000, "segment_size": 32 * HOP, "batch_size": 3,
}  # fmt: skip


def frame_config(**changes) -> VocoderConfig:
    return VocoderConfig.small().model_copy(
        update=SIZES | {"frame_channels": 24, "frame_blocks": 2} | changes
    )


def nsf_config(**changes) -> VocoderConfig:
    """An NSF-HiFiGAN with its discriminators (full size, but fewer)."""
    network = {
        "upsample_rates": [8, 8],
        "upsample_kernel_sizes": [16, 16],
        "upsample_initial_channel": 16,
        "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1, 3]],
        "discriminator_periods": [3],
    }
    return VocoderConfig.full().model_copy(update=SIZES | network | changes)


def sung(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A vowel with random loudness and brightness, and some noise: samples [T], and f0 [N]."""
    rng = np.random.default_rng(number)
    f0_hz = 150 + 10 * np.sin(np.arange(N_FRAMES) / 4)
    phase = 2 * np.pi * np.cumsum(np.repeat(f0_hz, HOP)) / RATE_HZ
    time_s = np.arange(len(phase)) / RATE_HZ
    turns = np.linspace(0, time_s[-1], 8)
    level, treble = (np.interp(time_s, turns, rng.uniform(*span, 8)) for span in ((-1, 1), (0.5, 1.5)))
    tone = sum(np.sin(k * phase) / k ** (1 / treble) for k in range(1, 13)) * 0.02 * 10**level
    breath = 0.002 * rng.standard_normal(len(tone))
    return (tone + breath).astype(np.float32), f0_hz.astype(np.float32)


def write_clips(folder: Path) -> Path:
    for number in range(N_CLIPS):
        write_audio(folder / "ada" / f"{number}.flac", Audio(sung(number)[0], RATE_HZ))
    return folder


def write_features(folder: Path, *, hop: int = HOP) -> Path:
    settings = FeatureSettings(sample_rate_hz=RATE_HZ, hop_samples=hop, encoder="tiny", pitch_method="dio")
    store = FeatureStore.create(folder, settings)
    finished = []
    for number in range(N_CLIPS):
        samples, f0_hz = sung(number)
        arrays = {"audio": np.round(samples * (INT16_SCALE - 1)).astype(np.int16), "f0_hz": f0_hz}
        record = ClipRecord(f"ada/{number}.flac", "ada", 1, 1, N_FRAMES, samples.nbytes, tuple(arrays))
        finished.append((record, arrays))
    store.add(finished)
    store.merge([record.name for record, _ in finished])
    return folder
