"""An RVC voice as one ONNX file, with the inputs of RVC's own exports, and the check that it sings the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from svcnb.models.onnx_generator import OnnxRvc
from svcnb.onnx_files import check_onnx_name, open_onnx, write_onnx
from svcnb.recipes.rvc_f0 import coarse_f0
from svcnb.recipes.rvc_voice import RvcVoice

EXAMPLE_FRAMES = 40
FRAME_AXES = {"phone": {1: "frames"}, "pitch": {1: "frames"}, "pitchf": {1: "frames"}, "rnd": {2: "frames"},
              "audio": {2: "samples"}}  # fmt: skip


def export_onnx(voice: RvcVoice, output: Path | str) -> Path:
    """Write a voice as FILE.onnx: phone, phone_lengths, pitch, pitchf, ds and rnd to audio, for any number of frames.

    Encoder, pitch estimator and index are not in it. Without pitch guidance, pitch and pitchf are left out.

    Raises:
        SvcError: another suffix. MissingExtra: onnx is not installed.

    Source: RVC 20240604 (names; the noise is multiplied by its scale outside).
    """
    output = Path(output)
    check_onnx_name(output)
    example = example_inputs(voice, EXAMPLE_FRAMES)
    axes = {name: FRAME_AXES[name] for name in (*example, "audio") if name in FRAME_AXES}
    return write_onnx(OnnxRvc(voice.generator).eval(), example, output, axes)


def example_inputs(voice: RvcVoice, n_frames: int, *, seed: int = 0) -> dict[str, Tensor]:
    """Inputs of the graph in its order, with random content and a melody that glides: to trace it and to check it."""
    draw = torch.Generator().manual_seed(seed)
    frames = np.arange(n_frames)
    f0_hz = np.where(frames % 20 < 15, 220 * 2 ** (0.5 * np.sin(frames / 10)), 0.0)
    melody = {"pitch": torch.from_numpy(coarse_f0(f0_hz))[None], "pitchf": torch.from_numpy(f0_hz).float()[None]}
    n_latents = voice.config.model.inter_channels
    return {
        "phone": torch.randn(1, n_frames, voice.config.content_width, generator=draw),
        "phone_lengths": torch.tensor([n_frames]),
        **(melody if voice.config.f0 else {}),
        "ds": torch.zeros(1, dtype=torch.long),
        "rnd": 0.66666 * torch.randn(1, n_latents, n_frames, generator=draw),
    }


def check_onnx(voice: RvcVoice, path: Path | str, *, n_frames: tuple[int, ...] = (60, 211)) -> dict[int, float]:
    """Largest deviation of an exported voice from the same network in torch, for several lengths.

    Returns:
        number of frames -> largest difference of two samples; full scale is 1.
    """
    session, network = open_onnx(path, "svcnb rvc onnx MODEL"), OnnxRvc(voice.generator).eval()
    deviations = {}
    for n in n_frames:
        inputs = example_inputs(voice, n, seed=n)
        theirs = session.run(["audio"], {name: value.numpy() for name, value in inputs.items()})[0]
        with torch.no_grad():
            deviations[n] = float((torch.from_numpy(theirs) - network(*inputs.values())).abs().max())
    return deviations
