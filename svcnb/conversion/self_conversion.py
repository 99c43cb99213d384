"""Clips as a voice speaks them, beside the recordings: what a vocoder or a diffusion model learns to mend."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from svcnb import SvcError
from svcnb.audio.audio import Audio, read_audio, resample, write_audio
from svcnb.conversion.settings import ConversionSettings
from svcnb.data.feature_store import INT16_SCALE, FeatureStore
from svcnb.features.content.waveform import SAMPLE_RATE_HZ
from svcnb.files.disk import write_text

if TYPE_CHECKING:
    from svcnb.features.content.encoders import ContentEncoder

N_TAKES = 4  # of each training clip
SPOKEN_CHANCE = 0.5  # part of what is learnt from that is heard as the voice speaks it
SPOKEN_FOLDER, SPOKEN_BY = "spoken", "spoken_by.json"
LARGEST_RATIO = 1.25  # a child's throat from a woman's, or a man's from it; further off, words are lost


@dataclass(frozen=True)
class SpokenTakes:
    """Where the clips lie as a voice speaks them: folder/spoken/<clip>.<take>.flac, takes counted from 0.

    `unseen` clips, which the voice was not trained on, are spoken once. It knows the others too well: of those there
    are N_TAKES in which it mishears as it would mishear anything new. `chance`: how often `draw` gives a take.
    """

    folder: Path
    unseen: Sequence[str]
    chance: float = SPOKEN_CHANCE

    def n_takes(self, name: str) -> int:
        return 1 if name in self.unseen else N_TAKES

    def path(self, name: str, take: int) -> Path:
        path = self.folder / SPOKEN_FOLDER / name
        return path.with_name(f"{path.name}.{take}.flac")

    def read(self, name: str) -> list[np.ndarray]:
        """Every take of a clip, float32 [T] each, at the rate of the clips."""
        return [read_audio(self.path(name, take)).samples for take in range(self.n_takes(name))]

    def draw(self, name: str, rng: np.random.Generator) -> int | None:
        """Which take to learn from, or None for the recording."""
        return int(rng.integers(self.n_takes(name))) if rng.random() < self.chance else None


def let_speak(voice: SpeakingVoice, store: FeatureStore, folder: Path, *, unseen: Sequence[str]) -> SpokenTakes:
    """Every clip as the voice speaks it, at the store's rate; what is there already is kept.

    Raises:
        SvcError: the folder holds what another voice, or the same at another step, spoke.
    """
    takes = SpokenTakes(folder, unseen)
    mark = folder / SPOKEN_FOLDER / SPOKEN_BY
    signature = json.dumps({"voice": voice.name, "step": voice.step, "takes": N_TAKES}) + "\n"
    if mark.is_file() and mark.read_text(encoding="utf-8") != signature:
        raise SvcError(f"{mark.parent} holds what another voice spoke, or this one at another step: delete that folder "
                       "to let this one speak the clips anew, or take another folder")  # fmt: skip
    write_text(mark, signature)
    rate_hz = store.settings.sample_rate_hz
    for index, name in enumerate(tqdm(store.names(), desc="spoken by the voice", mininterval=0.5)):
        speaker = store.record(name).speaker
        settings = ConversionSettings(speaker=speaker if speaker in voice.speakers else None)
        missing = [take for take in range(takes.n_takes(name)) if not takes.path(name, take).is_file()]
        recording = Audio(sound_of(store, name), rate_hz) if missing else None
        for take in missing:
            ratio = 1.0 if name in unseen else draw_ratio(np.random.default_rng([index, take]))
            perturbed = voice if ratio == 1 else voice.with_encoder(BentEncoder(voice.encoder, ratio))
            spoken = perturbed.convert(recording, settings)
            path = takes.path(name, take)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_audio(path, resample(spoken, rate_hz))
    return takes


def sound_of(store: FeatureStore, name: str) -> np.ndarray:
    """A clip's sound: float32 [T]."""
    return store.read(name)["audio"].astype(np.float32) / INT16_SCALE


class BentEncoder:
    """An encoder that hears voices in which pitch and formants are higher by `ratio` (above 1) or lower.

    The recording is resampled, which changes its tempo as well; the content is brought back to the recording's frames.
    """

    def __init__(self, encoder: ContentEncoder, ratio: float) -> None:
        self.encoder, self.ratio = encoder, ratio
        self.name, self.width, self.hop_samples, self.network = encoder.name, encoder.width, encoder.hop_samples, encoder.network

    def for_recording(self, *clips: Tensor | np.ndarray) -> BentEncoder:
        return BentEncoder(self.encoder.for_recording(*map(self._bent, clips)), self.ratio)

    def encode(self, samples: Tensor | np.ndarray) -> Tensor:
        """float32 [N, D] of samples [T], N = T // hop_samples, at least 1."""
        content = self.encoder.encode(self._bent(samples))
        n_frames = max(1, len(samples) // self.hop_samples)
        nearest = ((np.arange(n_frames) + 0.5) * len(content) / n_frames).astype(int)
        return content[torch.from_numpy(nearest).to(content.device)]

    def _bent(self, samples: Tensor | np.ndarray) -> np.ndarray:
        import soxr

        samples = samples.cpu().numpy() if isinstance(samples, Tensor) else samples
        return soxr.resample(samples, SAMPLE_RATE_HZ * self.ratio, SAMPLE_RATE_HZ)


class SpeakingVoice(Protocol):
    """The part of a voice that is needed to let it speak clips."""

    encoder: ContentEncoder
    speakers: dict[str, int]

    @property
    def name(self) -> str: ...

    @property
    def step(self) -> int | None: ...

    def with_encoder(self, encoder: ContentEncoder) -> SpeakingVoice: ...

    def convert(self, audio: Audio, settings: ConversionSettings) -> Audio: ...


def draw_ratio(rng: np.random.Generator) -> float:
    """Between 1 / LARGEST_RATIO and LARGEST_RATIO, evenly on a log scale."""
    return float(np.exp(rng.uniform(-1, 1) * np.log(LARGEST_RATIO)))
