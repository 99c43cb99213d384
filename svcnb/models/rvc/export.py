"""Export an RVC voice to one ONNX file with RVC's inputs, and compare it with the PyTorch network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from svcnb.files.onnx_files import check_onnx_name, open_onnx, write_onnx
from svcnb.models.rvc.network import RvcSynthesizer, coarse_f0
from svcnb.models.rvc.voice import Voice
from svcnb.nn.onnx import exportable_copy

EXAMPLE_FRAMES = 40
FRAME_AXES = {"phone": {1: "frames"}, "pitch": {1: "frames"}, "pitchf": {1: "frames"}, "rnd": {2: "frames"},
              "audio": {2: "samples"}}  # fmt: skip


def export_onnx(voice: Voice, output: Path | str) -> Path:
    """Write a voice as FILE.onnx: phone, phone_lengths, pitch, pitchf, ds and rnd to audio, for any number of frames.

    Encoder, pitch estimator and index are not included. Without pitch guidance there are no pitch and pitchf.

    Raises:
        SvcError: another suffix. MissingExtra: onnx is not installed.

    Source: RVC 20240604 (names; the noise is multiplied by its scale outside).
    """
    output = Path(output)
    check_onnx_name(output)
    example = example_inputs(voice, EXAMPLE_FRAMES)
    axes = {name: FRAME_AXES[name] for name in (*example, "audio") if name in FRAME_AXES}
    return write_onnx(OnnxRvc(voice.generator).eval(), example, output, axes)


def example_inputs(voice: Voice, n_frames: int, *, seed: int = 0) -> dict[str, Tensor]:
    """Example inputs in the graph's order, with random content and a gliding f0: to trace and to check it."""
    draw = torch.Generator().manual_seed(seed)
    frames = np.arange(n_frames)
    f0_hz = np.where(frames % 20 < 15, 220 * 2 ** (0.5 * np.sin(frames / 10)), 0.0)
    f0 = {"pitch": torch.from_numpy(coarse_f0(f0_hz))[None], "pitchf": torch.from_numpy(f0_hz).float()[None]}
    n_latents = voice.config.model.inter_channels
    return {
        "phone": torch.randn(1, n_frames, voice.config.content_width, generator=draw),
        "phone_lengths": torch.tensor([n_frames]),
        **(f0 if voice.config.f0 else {}),
        "ds": torch.zeros(1, dtype=torch.long),
        "rnd": 0.66666 * torch.randn(1, n_latents, n_frames, generator=draw),
    }


def check_onnx(voice: Voice, path: Path | str, *, n_frames: tuple[int, ...] = (60, 211)) -> dict[int, float]:
    """Largest deviation of an exported voice from the PyTorch network, for several lengths.

    Returns:
        number of frames -> largest difference of two samples; full scale is 1.
    """
    session, network = open_onnx(path, "svcnb rvc onnx MODEL"), OnnxRvc(voice.generator).eval()
    deviations = {}
    for n in n_frames:
        inputs = example_inputs(voice, n, seed=n)
        exported = session.run(["audio"], {name: value.numpy() for name, value in inputs.items()})[0]
        with torch.no_grad():
            deviations[n] = float((torch.from_numpy(exported) - network(*inputs.values())).abs().max())
    return deviations


class OnnxRvc(nn.Module):
    """The exported graph: content, f0 (with pitch guidance only) and speaker to waveform, one item at a time.

    Args:
        generator: trained; it is copied, not changed.

    Source: RVC 20240604's exported graphs, whose input and output names these are.
    """

    def __init__(self, generator: RvcSynthesizer) -> None:
        super().__init__()
        self.network = exportable_copy(generator)

    def forward(self, phone: Tensor, phone_lengths: Tensor, *rest: Tensor) -> Tensor:
        """Synthesize the waveform.

        Args:
            phone: content [1, N, D], on the frame grid already.
            phone_lengths: long [1], N.
            rest: pitch, coarse f0, long [1, N], and pitchf, [1, N] in Hz, 0 = unvoiced (with pitch guidance only);
                ds, long [1], the speaker; rnd, [1, C, N], standard normal times the wanted noise scale.

        Returns:
            waveform [1, 1, N * hop].
        """
        pitch, pitchf, ds, rnd = rest if len(rest) == 4 else (None, None, *rest)
        mask = (torch.arange(phone.shape[1], device=phone.device) < phone_lengths).float()[
            None, None
        ]  # [1, 1, N]
        g = self.network.embed_speaker(ds)
        m_p, logs_p = self.network.enc_p(phone, pitch, mask)
        z = self.network.flow((m_p + rnd * logs_p.exp()) * mask, mask, g, reverse=True)
        return self.network.dec(z * mask, pitchf, g)
