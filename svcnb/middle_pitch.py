"""The median f0 of a voice's training clips, kept beside it so that conversion can suggest a key."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from svcnb.disk import write_json
from svcnb.feature_store import FeatureStore

MIDDLE_PITCH_FILE = "middle_pitch.json"  # speaker -> Hz


def write_middle_pitches(store: FeatureStore, speakers: Iterable[str], voice_folder: Path) -> Path:
    """Write each speaker's median over voiced frames; who has none is left out."""
    tracks: dict[str, list[np.ndarray]] = {name: [] for name in speakers}
    for name in store.names():
        f0_hz = store.read(name)["f0_hz"]
        if (speaker := store.record(name).speaker) in tracks:
            tracks[speaker].append(f0_hz[f0_hz > 0])
    medians = {speaker: float(np.median(np.concatenate(own))) for speaker, own in tracks.items() if any(map(len, own))}
    return write_json(voice_folder / MIDDLE_PITCH_FILE, medians)


def read_middle_pitches(voice_folder: Path) -> dict[str, float]:
    """What lies beside a voice; empty where nothing does."""
    path = voice_folder / MIDDLE_PITCH_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
