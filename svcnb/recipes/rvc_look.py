"""One clip of an experiment, to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from svcnb.audio import Audio
from svcnb.feature_store import INT16_SCALE
from svcnb.pitch import F0Track
from svcnb.recipes.rvc_features import open_features, sounding


def read_clip(experiment: Path | str, number: int = 0) -> tuple[Audio, F0Track]:
    """Sound and melody of a clip that is trained on, by its place among those that are not silence."""
    config, store = open_features(experiment)
    arrays = store.read(sounding(store)[number])
    audio = Audio(arrays["audio"].astype(np.float32) / INT16_SCALE, config.data.sampling_rate)
    return audio, F0Track(arrays["f0_hz"], store.settings.hop_s)
