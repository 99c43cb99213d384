"""What a vocoder trains on: sound and f0 of clips, cut into segments, and the clips as a voice speaks them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from svcnb import SvcError
from svcnb.audio import Audio, read_audio, resample, write_audio
from svcnb.bent_content import HearingVoice, bent_hearing, draw_ratio
from svcnb.conversion import ConversionSettings
from svcnb.dataset import BucketBatches, extract, scan_clips
from svcnb.disk import write_text
from svcnb.feature_store import INT16_SCALE, Arrays, Clip, FeatureSettings, FeatureStore
from svcnb.pitch import F0Track, PitchEstimator, PitchSettings, resolve_method
from svcnb.recipes.vocoder_config import VocoderConfig

SPOKEN_CHANCE = 0.5  # part of the segments that are heard as the voice speaks them
N_TAKES = 4  # of each training clip, as the voice speaks it
CLIPS_FOLDER, SPOKEN_FOLDER, SPOKEN_BY = "clips", "spoken", "spoken_by.json"
NO_ENCODER = "none"


# ---------------------------------------------------------------- the store


def open_clips(source: Path, folder: Path, config: VocoderConfig, *, device: str = "cpu") -> FeatureStore:
    """The features in `source`; or, where it holds clips, a store of their sound and f0, made in folder/clips.

    Raises:
        SvcError: neither features nor clips, or features on another grid than the vocoder's.
    """
    if not (source / "settings.json").is_file():
        return _extract(source, folder / CLIPS_FOLDER, config, device=device)
    store = FeatureStore.open(source)
    found = store.settings.sample_rate_hz, store.settings.hop_samples
    if found != (config.sampling_rate, config.hop_size):
        raise SvcError(f"the features in {source} are of {found[0]} Hz and hop {found[1]}, the vocoder of "
                       f"{config.sampling_rate} Hz and hop {config.hop_size}: choose --config "
                       f"{'small' if found == (22050, 256) else 'full'}, or give the folder of clips instead")  # fmt: skip
    return store


def _extract(source: Path, folder: Path, config: VocoderConfig, *, device: str) -> FeatureStore:
    settings = FeatureSettings(
        sample_rate_hz=config.sampling_rate, hop_samples=config.hop_size, encoder=NO_ENCODER,
        pitch_method=resolve_method("auto"),
    )  # fmt: skip
    extract(scan_clips(source), folder, settings, make_extractor=partial(SoundAndPitch, device=device))
    return FeatureStore.open(folder)


class SoundAndPitch:
    """Turns clips into what a vocoder needs: audio and f0. The content of a store is there, and empty."""

    def __init__(self, settings: FeatureSettings, *, device: str = "cpu") -> None:
        self.settings = settings
        self.pitch = PitchEstimator(
            settings.pitch_method, sample_rate_hz=settings.sample_rate_hz, hop_samples=settings.hop_samples,
            settings=PitchSettings(f0_min_hz=settings.f0_min_hz, f0_max_hz=settings.f0_max_hz), device=device,
        )  # fmt: skip

    def __call__(self, clip: Clip) -> Arrays:
        samples = read_audio(clip.path, sample_rate_hz=self.settings.sample_rate_hz).samples
        f0_hz = self.pitch(samples).f0_hz.astype(np.float32)
        return {"audio": samples, "content": np.zeros((1, 1), np.float32), "f0_hz": f0_hz}


# ---------------------------------------------------------------- clips as a voice speaks them


class SpeakingVoice(HearingVoice, Protocol):
    """The part of a voice that is needed to let it speak clips."""

    name: str
    step: int | None
    speakers: dict[str, int]

    def convert(self, audio: Audio, settings: ConversionSettings) -> Audio: ...


def let_speak(voice: SpeakingVoice, store: FeatureStore, folder: Path, *, unseen: Sequence[str]) -> None:
    """Every clip as the voice speaks it: folder/spoken/<clip>.<take>.flac at the store's rate; done ones are kept.

    `unseen` clips, which the voice was not trained on, are spoken once. It knows the others too well: of those there
    are N_TAKES in which it mishears as it would mishear anything new.

    Raises:
        SvcError: the folder holds what another voice, or the same at another step, spoke.
    """
    mark = folder / SPOKEN_FOLDER / SPOKEN_BY
    signature = json.dumps({"voice": voice.name, "step": voice.step, "takes": N_TAKES}) + "\n"
    if mark.is_file() and mark.read_text(encoding="utf-8") != signature:
        raise SvcError(f"{mark.parent} holds what another voice spoke, or this one at another step: delete that folder "
                       "to let this one speak the clips anew, or take another folder for the vocoder")  # fmt: skip
    write_text(mark, signature)
    rate_hz = store.settings.sample_rate_hz
    for index, name in enumerate(tqdm(store.names(), desc="spoken by the voice", mininterval=0.5)):
        speaker = store.record(name).speaker
        settings = ConversionSettings(speaker=speaker if speaker in voice.speakers else None)
        for take in range(1 if name in unseen else N_TAKES):
            path = spoken_path(folder, name, take)
            if not path.is_file():
                ratio = 1.0 if name in unseen else draw_ratio(np.random.default_rng([index, take]))
                with bent_hearing(voice, ratio):
                    spoken = voice.convert(Audio(sound_of(store, name), rate_hz), settings)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_audio(path, resample(spoken, rate_hz))


def spoken_path(folder: Path, name: str, take: int) -> Path:
    """Where a clip lies as the voice speaks it, takes counted from 0."""
    path = folder / SPOKEN_FOLDER / name
    return path.with_name(f"{path.name}.{take}.flac")


def sound_of(store: FeatureStore, name: str) -> np.ndarray:
    """A clip's sound: float32 [T]."""
    return store.read(name)["audio"].astype(np.float32) / INT16_SCALE


# ---------------------------------------------------------------- segments


@dataclass
class Segment:
    """A clip or a part of one: N frames, N * hop samples.

    Attributes:
        heard: [T], what the mel is made of: the recording, or the clip as a voice speaks it.
        audio: [T], the recording, which shall come out.
        f0_hz: [N], gaps interpolated.
    """

    heard: Tensor
    audio: Tensor
    f0_hz: Tensor


@dataclass
class SegmentBatch:
    """Segments of one length: heard and audio [B, 1, T], f0_hz [B, N]."""

    heard: Tensor
    audio: Tensor
    f0_hz: Tensor

    def to(self, device: torch.device | str) -> SegmentBatch:
        return SegmentBatch(self.heard.to(device), self.audio.to(device), self.f0_hz.to(device))


@dataclass
class VocoderClips:
    """Clips of a store, whole or as segments.

    Attributes:
        spoken_folder: where the clips lie as a voice speaks them (see let_speak); None without a voice.
        unseen: clips that the voice was not trained on.
        in_memory: keep the sound after the first reading.
    """

    store: FeatureStore
    spoken_folder: Path | None = None
    unseen: Sequence[str] = ()
    in_memory: bool = False
    _kept: dict[str, tuple[np.ndarray, list[np.ndarray], np.ndarray]] = field(default_factory=dict, repr=False)

    def n_takes(self, name: str) -> int:
        """How many times the voice speaks a clip."""
        return 1 if name in self.unseen else N_TAKES

    def whole(self, name: str, *, take: int | None = None, max_frames: int | None = None) -> Segment:
        """A clip from its start."""
        n_frames = self.store.record(name).n_frames
        return self.part(name, 0, min(n_frames, max_frames or n_frames), take=take)

    def part(self, name: str, start: int, n_frames: int, *, take: int | None) -> Segment:
        """Frames start .. start + n_frames of a clip, zeros beyond its end; heard as recorded, or as the voice's take."""
        sound, takes, f0_hz = self._read(name)
        hop = self.store.settings.hop_samples
        audio = _cut(sound, start * hop, n_frames * hop)
        heard = audio if take is None else _cut(takes[take], start * hop, n_frames * hop)
        return Segment(heard, audio, _cut(f0_hz, start, n_frames))

    def _read(self, name: str) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Recording [T], the voice's takes of it [T] (none without a voice), f0 with its gaps interpolated [N]."""
        if name in self._kept:
            return self._kept[name]
        sound = sound_of(self.store, name)
        track = F0Track(self.store.read(name)["f0_hz"], self.store.settings.hop_s)
        takes = []
        if self.spoken_folder is not None:
            paths = [spoken_path(self.spoken_folder, name, take) for take in range(self.n_takes(name))]
            takes = [read_audio(path).samples for path in paths]
        arrays = sound, takes, track.interpolated().astype(np.float32)
        if self.in_memory:
            self._kept[name] = arrays
        return arrays


def _cut(values: np.ndarray, start: int, length: int) -> Tensor:
    part = values[start : start + length]
    return torch.from_numpy(np.pad(part, (0, length - len(part))))


class SegmentBatches:
    """Batches of random segments, an epoch per iteration (what `fit` reads). Each clip gives as many as fit into it.

    Which segments, and whether they are heard as the voice speaks them, is drawn from (seed, epoch, segment) alone.

    Args:
        names: clips to use.
    """

    def __init__(
        self, clips: VocoderClips, names: Sequence[str], *, segment_frames: int, batch_size: int, seed: int
    ) -> None:
        self.clips, self.segment_frames, self.seed = clips, segment_frames, seed
        n_frames = {name: clips.store.record(name).n_frames for name in names}
        self.segments = [name for name in names for _ in range(max(1, n_frames[name] // segment_frames))]
        self.batches = BucketBatches([segment_frames] * len(self.segments), min(batch_size, len(self.segments)), seed=seed)

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
        spoken = self.clips.spoken_folder is not None and bool(rng.random() < SPOKEN_CHANCE)
        take = int(rng.integers(self.clips.n_takes(name))) if spoken else None
        latest = max(0, self.clips.store.record(name).n_frames - self.segment_frames)
        return self.clips.part(name, int(rng.integers(latest + 1)), self.segment_frames, take=take)


def collate(segments: Sequence[Segment]) -> SegmentBatch:
    """Segments of one length as a batch."""
    return SegmentBatch(
        heard=torch.stack([segment.heard for segment in segments])[:, None],
        audio=torch.stack([segment.audio for segment in segments])[:, None],
        f0_hz=torch.stack([segment.f0_hz for segment in segments]),
    )
