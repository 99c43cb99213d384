"""The notebooks on a GPU: training in fp16 and conversion; skipped with a message if there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb.audio.audio import read_audio
from tests.test_notebooks import read_history, start_run

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA GPU here: GPU use is unproven by this run"
)

GPU = {"device": "cuda"}


@pytest.mark.parametrize("size", ["small", "full"])
def test_notebooks_train_in_fp16_and_convert_on_the_gpu(
    size: str, voices_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("papermill")
    run = start_run(tmp_path, voices_folder)
    run.execute("01_slice", raw_folder="data/raw", max_clip_s=6.0)
    run.execute("02_features", features_folder="data/features/me", config=size, **GPU)
    limits = {"max_minutes": 0.0, "max_steps": 60, "log_every_steps": 10}
    run.execute(
        "03_train",
        features_folder="data/features/me",
        voice_folder="data/models/me",
        precision="fp16",
        **limits,
        **GPU,
    )
    run.execute(
        "04_cluster",
        features_folder="data/features/me",
        voice_folder="data/models/me",
        wav=run.song.name,
        **GPU,
    )
    pulled = {"cluster_infer_ratio": 0.5, "wav_format": "wav", "panel": False}
    run.execute("05_convert", wav=run.song.name, model="data/models/me", **pulled, **GPU)
    losses = [entry["losses"]["mel"] for entry in read_history(run)]
    assert losses[-1] < losses[0]
    result = read_audio(next((tmp_path / "data" / "converted").glob("*.wav")))
    assert np.isfinite(result.samples).all() and result.peak > 1e-3
