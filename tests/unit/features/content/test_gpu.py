"""Content encoders give equal output on a GPU and a CPU; skipped with a reason if there is no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from svcnb.features.content.encoders import load_encoder
from tests.unit.features.content.test_dphubert import FILE, GATED, save_dphubert
from tests.unit.features.content.test_encoders import voice_like
from tests.unit.features.content.test_fairseq import GATED as WAVLM_LAYOUT
from tests.unit.features.content.test_fairseq import WAVLM, save_wavlm
from tests.unit.features.content.test_onnx import write_graph
from tests.unit.features.content.test_whisper import save_whisper

pytestmark = [
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no CUDA GPU here: encoders on a GPU are unproven by this run"
    ),
    pytest.mark.filterwarnings("ignore:.*values per frame"),
]


@pytest.mark.parametrize("name", ["whisper-ppg", "wavlmbase+", "dphubert", "vec768l12-onnx"])
def test_content_on_a_gpu_is_that_of_the_cpu(tmp_path: Path, name: str) -> None:
    save_whisper(tmp_path / "medium.pt")
    save_wavlm(tmp_path / WAVLM, WAVLM_LAYOUT)
    save_dphubert(tmp_path / FILE, GATED)
    write_graph(tmp_path / "vec-768-layer-12.onnx")
    samples = voice_like(40_000)  # two windows of the small Whisper
    ours = load_encoder(name, folder=tmp_path, device="cuda").encode(samples)
    assert ours.device.type == "cuda"
    torch.testing.assert_close(
        ours.cpu(), load_encoder(name, folder=tmp_path).encode(samples), atol=1e-3, rtol=1e-3
    )
