"""Training data of a vocoder: audio and f0 of clips, cut into random segments, and self-converted clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from svcnb import SvcError
from svcnb.audio.audio import read_audio
from svcnb.conversion.self_conversion import SelfConvertedClips, sound_of
from svcnb.data.batches import BucketBatches
from svcnb.data.extraction import extract, scan_clips
from svcnb.data.feature_store import Arrays, Clip, FeatureSettings, FeatureStore
from svcnb.features.pitch.classical import PitchSettings
from svcnb.features.pitch.estimator import PitchEstimator, resolve_method
from svcnb.features.pitch.track import F0Track
from svcnb.models.vocoder.config import Config

CLIPS_FOLDER = "clips"
NO_ENCODER = "none"


# ---------------------------------------------------------------- the store


def open_clips(source: Path, folder: Path, config: Config, *, device: str = "cpu") -> FeatureStore:
    """The features in `source`; or, if it holds clips, a store of their audio and f0, made in folder/clips.

    Raises:
        SvcError: neither features nor clips, or features on another grid than the vocoder's.
    """
    if not (source / "settings.json").is_file():
        return _extract(source, folder / CLIPS_FOLDER, config, device=device)
    store = FeatureStore.open(source)
    found = store.settings.sample_rate_hz, store.settings.hop_samples
    if found != (config.sampling_rate, config.hop_size):
        raise SvcError(
            f"the features in {source} are of {found[0]} Hz and hop {found[1]}, the vocoder of "
            f"{config.sampling_rate} Hz and hop {config.hop_size}: choose --config "
            f"{'small' if found == (22050, 256) else 'full'}, or give the folder of clips instead"
        )
    return store


def _extract(source: Path, folder: Path, config: Config, *, device: str) -> FeatureStore:
    settings = FeatureSettings(
        sample_rate_hz=config.sampling_rate,
        hop_samples=config.hop_size,
        encoder=NO_ENCODER,
        pitch_method=resolve_method("auto"),
    )
    extract(scan_clips(source), folder, settings, make_extractor=partial(SoundAndPitch, device=device))
    return FeatureStore.open(folder)


class SoundAndPitch:
    """Extractor of a vocoder's training features: audio, f0, and dummy content, which a store requires."""

    def __init__(self, settings: FeatureSettings, *, device: str = "cpu") -> None:
        self.settings = settings
        self.pitch = PitchEstimator(
            settings.pitch_method,
            sample_rate_hz=settings.sample_rate_hz,
            hop_samples=settings.hop_samples,
            settings=PitchSettings(f0_min_hz=settings.f0_min_hz, f0_max_hz=settings.f0_max_hz),
            device=device,
        )

    def __call__(self, clip: Clip) -> Arrays:
        samples = read_audio(clip.path, sample_rate_hz=self.settings.sample_rate_hz).samples
        f0_hz = self.pitch(samples).f0_hz.astype(np.float32)
        return {"audio": samples, "content": np.zeros((1, 1), np.float32), "f0_hz": f0_hz}


# ---------------------------------------------------------------- segments


@dataclass
class Segment:
    """A clip or a part of one: N frames, N * hop samples.

    Attributes:
        input_audio: [T], audio of the input mel: the recording, or a self-converted clip.
        audio: [T], the target: the recording.
        f0_hz: [N], gaps interpolated.
    """

    input_audio: Tensor
    audio: Tensor
    f0_hz: Tensor


@dataclass
class SegmentBatch:
    """Segments of one length: input_audio and audio [B, 1, T], f0_hz [B, N]."""

    input_audio: Tensor
    audio: Tensor
    f0_hz: Tensor

    def to(self, device: torch.device | str) -> SegmentBatch:
        return SegmentBatch(self.input_audio.to(device), self.audio.to(device), self.f0_hz.to(device))


@dataclass
class VocoderClips:
    """Clips of a store, whole or as segments.

    Attributes:
        takes: self-converted clips; None without a voice.
        in_memory: keep the audio after the first reading.
    """

    store: FeatureStore
    takes: SelfConvertedClips | None = None
    in_memory: bool = False
    _kept: dict[str, tuple[np.ndarray, list[np.ndarray], np.ndarray]] = field(
        default_factory=dict, repr=False
    )

    def whole(self, name: str, *, take: int | None = None, max_frames: int | None = None) -> Segment:
        """A clip from its start."""
        n_frames = self.store.record(name).n_frames
        return self.part(name, 0, min(n_frames, max_frames or n_frames), take=take)

    def part(self, name: str, start: int, n_frames: int, *, take: int | None) -> Segment:
        """Frames start .. start + n_frames of a clip, zeros beyond its end; `take`: self-converted input."""
        samples, takes, f0_hz = self._read(name)
        hop = self.store.settings.hop_samples
        audio = _cut(samples, start * hop, n_frames * hop)
        input_audio = audio if take is None else _cut(takes[take], start * hop, n_frames * hop)
        return Segment(input_audio, audio, _cut(f0_hz, start, n_frames))

    def _read(self, name: str) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Recording [T], self-converted clips [T] (none without a voice), f0 [N] with interpolated gaps."""
        if name in self._kept:
            return self._kept[name]
        track = F0Track(self.store.read(name)["f0_hz"], self.store.settings.hop_s)
        takes = self.takes.read(name) if self.takes else []
        arrays = sound_of(self.store, name), takes, track.interpolated().astype(np.float32)
        if self.in_memory:
            self._kept[name] = arrays
        return arrays


def _cut(values: np.ndarray, start: int, length: int) -> Tensor:
    part = values[start : start + length]
    return torch.from_numpy(np.pad(part, (0, length - len(part))))


class SegmentBatches:
    """Batches of random segments, one epoch per iteration, for `fit`. Each clip gives as many as fit into it.

    The segments, and whether their input is self-converted, depend only on (seed, epoch, segment).

    Args:
        names: clips to use.
    """

    def __init__(
        self, clips: VocoderClips, names: Sequence[str], *, segment_frames: int, batch_size: int, seed: int
    ) -> None:
        self.clips, self.segment_frames, self.seed = clips, segment_frames, seed
        n_frames = {name: clips.store.record(name).n_frames for name in names}
        self.segments = [name for name in names for _ in range(max(1, n_frames[name] // segment_frames))]
        self.batches = BucketBatches(
            [segment_frames] * len(self.segments), min(batch_size, len(self.segments)), seed=seed
        )

    @property
    def batch_size(self) -> int:
        return self.batches.batch_size

    def set_batch_size(self, batch_size: int) -> None:
        self.batches.batch_size = batch_size

    def set_position(self, epoch: int, batch: int) -> None:
        self.batches.set_position(epoch, batch)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[SegmentBatch]:
        for keys in self.batches:
            yield collate([self._segment(epoch, index) for epoch, index in keys])

    def _segment(self, epoch: int, index: int) -> Segment:
        name = self.segments[index]
        rng = np.random.default_rng([self.seed, epoch, index])
        take = self.clips.takes.draw(name, rng) if self.clips.takes else None
        latest = max(0, self.clips.store.record(name).n_frames - self.segment_frames)
        return self.clips.part(name, int(rng.integers(latest + 1)), self.segment_frames, take=take)


def collate(segments: Sequence[Segment]) -> SegmentBatch:
    """Segments of one length as a batch."""
    return SegmentBatch(
        input_audio=torch.stack([segment.input_audio for segment in segments])[:, None],
        audio=torch.stack([segment.audio for segment in segments])[:, None],
        f0_hz=torch.stack([segment.f0_hz for segment in segments]),
    )
