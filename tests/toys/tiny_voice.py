"""A voice small enough to train within seconds, and trainings of it with fixed random numbers.

In its own module, so that spawned processes can import it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import numpy as np
import soundfile
import torch

from svcnb import SvcError
from svcnb.data.batches import Batch
from svcnb.data.extraction import extract, scan_clips
from svcnb.data.feature_store import Clip, FeatureSettings
from svcnb.models import sovits
from svcnb.models.sovits import step as sovits_step
from svcnb.models.sovits.config import Config
from svcnb.nn.discriminators import MultiPeriodDiscriminator
from svcnb.nn.layers import Noise
from svcnb.training.loop import TrainReport
from svcnb.training.settings import TrainSettings
from svcnb.training.state import TrainState

RATE_HZ, HOP, WIDTH = 8000, 64, 8
SETTINGS = FeatureSettings(
    sample_rate_hz=RATE_HZ, hop_samples=HOP, encoder="tiny", pitch_method="tiny", with_volume=True
)
CLIP_FRAMES = {"ada": (40, 90, 60, 75, 52), "bob": (110, 44, 83)}


def tiny_config(**train) -> Config:
    """All loss terms, a real discriminator (only its sub-discriminator of the waveform), no dropout."""
    config = Config.small()
    config.train = config.train.model_copy(
        update={
            "batch_size": 2,
            "segment_size": 32 * HOP,
            "max_frames": 100,
            "c_adversarial": 1.0,
            "learning_rate": 1e-3,
            "eps": 1e-4,
        }
        | train
    )
    config.data = config.data.model_copy(
        update={
            "sampling_rate": RATE_HZ,
            "hop_length": HOP,
            "filter_length": 256,
            "win_length": 256,
            "mel_fmax": 4000,
            "n_mel_channels": 20,
        }
    )
    config.model = config.model.model_copy(
        update={
            "inter_channels": 16,
            "hidden_channels": 16,
            "filter_channels": 32,
            "n_layers": 1,
            "n_flow_layer": 1,
            "upsample_rates": [8, 8],
            "upsample_kernel_sizes": [16, 16],
            "upsample_initial_channel": 16,
            "resblock_kernel_sizes": [3],
            "resblock_dilation_sizes": [[1, 3]],
            "gin_channels": 8,
            "ssl_dim": WIDTH,
            "n_speakers": 2,
            "vocoder_name": "nsf-hifigan",
            "speech_encoder": "tiny",
            "vol_embedding": True,
            "p_dropout": 0.0,
        }
    )
    config.spk = {"ada": 0, "bob": 1}
    return config


def make_tiny(settings: FeatureSettings):
    """Arrays that depend only on the clip."""

    def arrays_of(clip: Clip) -> dict[str, np.ndarray]:
        audio, _ = soundfile.read(clip.path, dtype="int16")
        n_frames = len(audio) // HOP
        rng = np.random.default_rng(n_frames)
        content = rng.standard_normal((n_frames // 2, WIDTH)).astype(np.float32)
        f0_hz = np.linspace(100, 200, n_frames, dtype=np.float32)
        f0_hz[5:9] = 0
        return {
            "audio": audio,
            "content": content,
            "f0_hz": f0_hz,
            "volume": np.full(n_frames, 0.2, np.float32),
        }

    return arrays_of


def write_features(folder: Path, config: Config | None = None) -> Path:
    """Write clips of different lengths (one of ada's is held out) and features; the features' folder."""
    rng = np.random.default_rng(0)
    for speaker, lengths in CLIP_FRAMES.items():
        (folder / "clips" / speaker).mkdir(parents=True)
        for n_frames in lengths:
            time = np.arange(n_frames * HOP) / RATE_HZ
            sound = 0.3 * np.sin(2 * np.pi * 150 * time) + 0.05 * rng.standard_normal(len(time))
            soundfile.write(folder / "clips" / speaker / f"{n_frames}.wav", sound, RATE_HZ)
    extract(scan_clips(folder / "clips"), folder / "features", SETTINGS, make_extractor=make_tiny)
    (config or tiny_config()).save(folder / "features" / "config.json")
    return folder / "features"


class RowNoise(Noise):
    """The same numbers for every clip of a batch, whatever the batch size; other numbers for other shapes."""

    def _draw(self, draw, shape, like):
        generator = torch.Generator().manual_seed(sum(shape[1:]))
        return draw(shape[1:], generator=generator).expand(shape).clone().to(like.device, like.dtype)


def steady() -> ExitStack:
    """Inside, trainings differ only in how batches are distributed over processes."""
    patches = ExitStack()
    noiseless = partial(sovits_step.StepParts, noise=RowNoise())
    patches.enter_context(patch.object(sovits_step, "StepParts", noiseless))
    patches.enter_context(small_discriminator())
    return patches


def small_discriminator():
    return patch.object(
        sovits_step, "MultiPeriodDiscriminator", partial(MultiPeriodDiscriminator, periods=())
    )


def train_steadily(jobs: list[tuple[Path, Path, TrainSettings, int]]) -> None:
    """Trainings one after the other: features, voice, settings, batch size of each."""
    with steady():
        for features, voice, settings, batch_size in jobs:
            sovits.train(features, voice, settings, batch_size=batch_size)


def train_in_parts(
    features: Path, voice: Path, settings: TrainSettings, *, stops: Sequence[int]
) -> TrainReport:
    """One training that stops and resumes at each of `stops`; random numbers are drawn in between."""
    for step in stops:
        report = sovits.train(features, voice, settings.model_copy(update={"max_steps": step}))
        torch.rand(7), np.random.rand(3)
    return report


def train_until(features: Path, voice: Path, settings: TrainSettings, *, step: int) -> None:
    """Train; the second process is killed at a step."""

    def disturbed_step(state: TrainState, batch: Batch) -> dict[str, torch.Tensor]:
        if state.step == step and not state.processes.is_main:
            os.kill(os.getpid(), signal.SIGKILL)
        return sovits_step.train_step(state, batch)

    with patch.object(import_module("svcnb.models.sovits.train"), "train_step", disturbed_step):
        sovits.train(features, voice, settings)


def refuse_in_second(started: Path) -> None:
    """The second process raises as soon as the first one waits."""
    if os.environ["RANK"] == "0":
        started.touch()
        time.sleep(60)
    while not started.exists():
        time.sleep(0.01)
    raise SvcError("the disk is full")
