"""A feature extractor without a network, and clips for it; its own module, so that workers need no torch."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import soundfile

from svcnb import SvcError
from svcnb.data.extraction import scan_clips
from svcnb.data.feature_store import Clip, FeatureSettings

RATE_HZ, HOP = 8000, 80
SETTINGS = FeatureSettings(
    sample_rate_hz=RATE_HZ,
    hop_samples=HOP,
    encoder="toy",
    pitch_method="toy",
    with_volume=True,
    min_frames=10,
)


class ToyExtractor:
    """Arrays that depend only on the clip, and on the number of its speaker's clips."""

    def __init__(self, settings: FeatureSettings, *, pause_s: float, diary: Path | None) -> None:
        self.pause_s = pause_s
        self.diary = diary
        self.n_speaker_clips = 0
        self._note("built")

    def _note(self, text: str) -> None:
        if self.diary is not None:
            with self.diary.open("a") as file:
                file.write(f"{os.getpid()} {text}\n")

    def for_speaker(self, speaker: str, clips: list[Clip]) -> None:
        self.n_speaker_clips = len(clips)
        self._note(f"speaker {speaker}")

    def __call__(self, clip: Clip) -> dict[str, np.ndarray]:
        time.sleep(self.pause_s)
        if "bad" in clip.name:
            raise SvcError("no sound in it")
        audio, _ = soundfile.read(clip.path, dtype="int16")
        n_frames = len(audio) // HOP
        content = np.outer(np.arange(n_frames // 2), [1.0, 2.0, self.n_speaker_clips]).astype(np.float32)
        f0_hz = np.full(n_frames, 100.0, np.float32)
        f0_hz[3:6] = 0
        return {"audio": audio, "content": content, "f0_hz": f0_hz, "volume": np.ones(n_frames, np.float32)}


def make_toy(settings: FeatureSettings, *, pause_s: float = 0.0, diary: Path | None = None) -> ToyExtractor:
    return ToyExtractor(settings, pause_s=pause_s, diary=diary)


def write_clips(folder: Path, n_clips: int, *, speakers: tuple[str, ...] = ("ada", "bob")) -> list[Clip]:
    rng = np.random.default_rng(0)
    for number in range(n_clips):
        path = folder / speakers[number % len(speakers)] / f"take {number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(
            path, rng.uniform(-0.5, 0.5, RATE_HZ // 4 + 37 * (number % 7) + number % 3 * 800), RATE_HZ
        )
        os.utime(path, (1_700_000_000, 1_700_000_000 + number))
    return scan_clips(folder)


def refuse(settings: FeatureSettings) -> ToyExtractor:
    raise SvcError("no weights: put the file there")
