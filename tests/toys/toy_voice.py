"""An untrained voice, and features for its cluster centers and its index; made within a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from svcnb.data.feature_store import ClipRecord, FeatureSettings, FeatureStore
from svcnb.files.checkpoint import to_plain_names
from svcnb.models import sovits
from svcnb.models.sovits.checkpoint import save_sovits_checkpoint

SPEAKERS = ("ada", "bob")
WIDTH = 96  # of svcnb-units, the bundled encoder


def write_voice(folder: Path, *, steps: tuple[int, ...] = (0,)) -> Path:
    """Write config.json and a G_<step>.pth for each step, in the small size."""
    config = sovits.Config.small()
    config.spk = {name: number for number, name in enumerate(SPEAKERS)}
    config.model.n_speakers = len(SPEAKERS)
    config.save(folder / "config.json")
    torch.manual_seed(0)
    state = to_plain_names(sovits.build(config).generator.state_dict()) if steps else {}
    for step in steps:
        save_sovits_checkpoint(folder / f"G_{step}.pth", model_state=state, iteration=1, learning_rate=1e-4)
    return folder


def write_features(
    folder: Path, *, n_clip_frames: int = 60, n_clips: int = 4, encoder: str = "svcnb-units"
) -> Path:
    """Write clips of both speakers whose content is distributed around 40 vectors, like that of speech."""
    settings = FeatureSettings(sample_rate_hz=22050, hop_samples=256, encoder=encoder, pitch_method="dio")
    store = FeatureStore.create(folder, settings)
    random = np.random.default_rng(0)
    means = random.random((len(SPEAKERS), 40, WIDTH)) ** 8
    finished = []
    for number, speaker in enumerate(SPEAKERS):
        for i in range(n_clips):
            chosen = means[number, random.integers(0, 40, n_clip_frames)]
            content = (chosen + 0.02 * random.standard_normal(chosen.shape)).astype(np.float32)
            f0_hz = np.full(round(n_clip_frames / 50 * 22050 / 256), 150.0, np.float32)
            arrays = {"content": content, "f0_hz": f0_hz}
            finished.append(
                (
                    ClipRecord(
                        f"{speaker}/{i}.flac", speaker, 1, 1, len(f0_hz), content.nbytes, tuple(arrays)
                    ),
                    arrays,
                )
            )
    store.add(finished)
    store.merge([record.name for record, _ in finished])
    return folder
