"""Self-converted clips and their recordings: training pairs for a refining vocoder or diffusion model."""

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

N_VERSIONS = 4  # of each training clip
SELF_CONVERTED_CHANCE = 0.5  # fraction of the training segments that are self-converted
SELF_CONVERTED_FOLDER, CONVERTED_BY = "spoken", "spoken_by.json"
LARGEST_RATIO = 1.25  # from a woman's vocal tract to a child's or a man's; beyond it words become unclear


@dataclass(frozen=True)
class SelfConvertedClips:
    """The self-converted clips on disk: folder/spoken/<clip>.<version>.flac, versions counted from 0.

    `unseen` clips, which the voice was not trained on, are converted once. On its training clips the voice
    makes too few errors: each has N_VERSIONS with perturbed content, which cause the errors that unseen clips
    have.
        `chance`:
    probability that `draw` returns a version.
    """

    folder: Path
    unseen: Sequence[str]
    chance: float = SELF_CONVERTED_CHANCE

    def n_versions(self, name: str) -> int:
        return 1 if name in self.unseen else N_VERSIONS

    def path(self, name: str, version: int) -> Path:
        path = self.folder / SELF_CONVERTED_FOLDER / name
        return path.with_name(f"{path.name}.{version}.flac")

    def read(self, name: str) -> list[np.ndarray]:
        """All versions of a clip, float32 [T] each, at the sample rate of the clips."""
        return [read_audio(self.path(name, version)).samples for version in range(self.n_versions(name))]

    def draw(self, name: str, rng: np.random.Generator) -> int | None:
        """Number of the version to train on, or None for the recording."""
        return int(rng.integers(self.n_versions(name))) if rng.random() < self.chance else None


def self_convert_clips(
    voice: ConvertingVoice, store: FeatureStore, folder: Path, *, unseen: Sequence[str]
) -> SelfConvertedClips:
    """Convert every clip with the voice itself, at the store's sample rate; existing files are kept.

    Raises:
        SvcError: the folder has clips of another voice, or of this voice at another step.
    """
    clips = SelfConvertedClips(folder, unseen)
    mark = folder / SELF_CONVERTED_FOLDER / CONVERTED_BY
    signature = json.dumps({"voice": voice.name, "step": voice.step, "takes": N_VERSIONS}) + "\n"
    if mark.is_file() and mark.read_text(encoding="utf-8") != signature:
        raise SvcError(
            f"{mark.parent} has clips converted by another voice, or by this one at another step: "
            "delete that folder to convert the clips again, or take another folder"
        )
    write_text(mark, signature)
    rate_hz = store.settings.sample_rate_hz
    for index, name in enumerate(tqdm(store.names(), desc="self-conversion", mininterval=0.5)):
        speaker = store.record(name).speaker
        settings = ConversionSettings(speaker=speaker if speaker in voice.speakers else None)
        missing = [i for i in range(clips.n_versions(name)) if not clips.path(name, i).is_file()]
        recording = Audio(sound_of(store, name), rate_hz) if missing else None
        for version in missing:
            ratio = 1.0 if name in unseen else draw_ratio(np.random.default_rng([index, version]))
            perturbed = voice if ratio == 1 else voice.with_encoder(PerturbedEncoder(voice.encoder, ratio))
            converted = perturbed.convert(recording, settings)
            path = clips.path(name, version)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_audio(path, resample(converted, rate_hz))
    return clips


def sound_of(store: FeatureStore, name: str) -> np.ndarray:
    """A clip's samples: float32 [T]."""
    return store.read(name)["audio"].astype(np.float32) / INT16_SCALE


class PerturbedEncoder:
    """Content encoder on a perturbed input: pitch and formants are scaled by `ratio` (above 1: higher).

    The recording is resampled, which changes its tempo as well; the content is aligned to the recording's
    frames again.
    """

    def __init__(self, encoder: ContentEncoder, ratio: float) -> None:
        self.encoder, self.ratio = encoder, ratio
        self.name, self.width, self.hop_samples, self.network = (
            encoder.name,
            encoder.width,
            encoder.hop_samples,
            encoder.network,
        )

    def for_recording(self, *clips: Tensor | np.ndarray) -> PerturbedEncoder:
        return PerturbedEncoder(self.encoder.for_recording(*map(self._perturbed, clips)), self.ratio)

    def encode(self, samples: Tensor | np.ndarray) -> Tensor:
        """float32 [N, D] of samples [T], N = T // hop_samples, at least 1."""
        content = self.encoder.encode(self._perturbed(samples))
        n_frames = max(1, len(samples) // self.hop_samples)
        nearest = ((np.arange(n_frames) + 0.5) * len(content) / n_frames).astype(int)
        return content[torch.from_numpy(nearest).to(content.device)]

    def _perturbed(self, samples: Tensor | np.ndarray) -> np.ndarray:
        import soxr

        samples = samples.cpu().numpy() if isinstance(samples, Tensor) else samples
        return soxr.resample(samples, SAMPLE_RATE_HZ * self.ratio, SAMPLE_RATE_HZ)


class ConvertingVoice(Protocol):
    """The part of a voice that self-conversion needs."""

    encoder: ContentEncoder
    speakers: dict[str, int]

    @property
    def name(self) -> str: ...

    @property
    def step(self) -> int | None: ...

    def with_encoder(self, encoder: ContentEncoder) -> ConvertingVoice: ...

    def convert(self, audio: Audio, settings: ConversionSettings) -> Audio: ...


def draw_ratio(rng: np.random.Generator) -> float:
    """Log-uniform between 1 / LARGEST_RATIO and LARGEST_RATIO."""
    return float(np.exp(rng.uniform(-1, 1) * np.log(LARGEST_RATIO)))
