"""A small RVC experiment with synthetic recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from svcnb.audio.audio import Audio, write_audio
from svcnb.models.rvc.config import Config


def sung(seconds: float, *, f0_hz: float = 180.0, rate_hz: int = 22050, seed: int = 0) -> Audio:
    """A tone with harmonics, vibrato and some noise."""
    times_s = np.arange(round(seconds * rate_hz)) / rate_hz
    phase = 2 * np.pi * np.cumsum(f0_hz * (1 + 0.02 * np.sin(2 * np.pi * 5 * times_s))) / rate_hz
    tone = sum(np.sin(k * phase) / k for k in range(1, 9))
    breath = np.random.default_rng(seed).standard_normal(len(times_s)) * 0.01
    return Audio((0.2 * tone / np.abs(tone).max() + breath).astype(np.float32), rate_hz)


def write_recordings(folder: Path, *, seconds: tuple[float, ...] = (2.0, 3.0, 5.0, 2.5)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, length in enumerate(seconds):
        write_audio(folder / f"take {number}.flac", sung(length, f0_hz=150 + 20 * number, seed=number))
    return folder


def tiny_config() -> Config:
    """The small size with fewer channels."""
    config = Config.small()
    config.model = config.model.model_copy(
        update={
            "inter_channels": 8,
            "hidden_channels": 8,
            "filter_channels": 16,
            "n_layers": 1,
            "gin_channels": 8,
            "upsample_initial_channel": 16,
        }
    )
    config.train = config.train.model_copy(
        update={"batch_size": 2, "segment_size": 32 * 320, "max_frames": 64}
    )
    return config


def tiny_rvc_config(version: str = "v1", *, f0: bool = True) -> Config:
    """RVC's own network with very few channels; its discriminator has the full size."""
    config = Config.full(version, 32000, f0=f0)
    sizes = {
        "inter_channels": 4,
        "hidden_channels": 4,
        "filter_channels": 8,
        "n_layers": 1,
        "gin_channels": 4,
    }
    config.model = config.model.model_copy(
        update=sizes | {"upsample_initial_channel": 32, "spk_embed_dim": 3}
    )
    config.train = config.train.model_copy(
        update={"batch_size": 2, "segment_size": 20 * 320, "max_frames": 60}
    )
    return config
