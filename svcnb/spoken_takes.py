"""Clips as a voice speaks them, beside the recordings: what a vocoder or a diffusion model learns to mend."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm.auto import tqdm

from svcnb import SvcError
from svcnb.audio import Audio, read_audio, resample, write_audio
from svcnb.bent_content import HearingVoice, bent_hearing, draw_ratio
from svcnb.conversion import ConversionSettings
from svcnb.disk import write_text
from svcnb.feature_store import INT16_SCALE, FeatureStore

N_TAKES = 4  # of each training clip
SPOKEN_CHANCE = 0.5  # part of what is learnt from that is heard as the voice speaks it
SPOKEN_FOLDER, SPOKEN_BY = "spoken", "spoken_by.json"


class SpeakingVoice(HearingVoice, Protocol):
    """The part of a voice that is needed to let it speak clips."""

    name: str
    step: int | None
    speakers: dict[str, int]

    def convert(self, audio: Audio, settings: ConversionSettings) -> Audio: ...


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
            with bent_hearing(voice, ratio):
                spoken = voice.convert(recording, settings)
            path = takes.path(name, take)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_audio(path, resample(spoken, rate_hz))
    return takes


def sound_of(store: FeatureStore, name: str) -> np.ndarray:
    """A clip's sound: float32 [T]."""
    return store.read(name)["audio"].astype(np.float32) / INT16_SCALE
