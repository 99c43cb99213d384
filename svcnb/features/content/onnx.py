"""Content encoders that are ONNX files: waveform [1, 1, T] in, content [1, N, D] out, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from svcnb import MissingExtra
from svcnb.features.content.waveform import HOP_SAMPLES, SAMPLE_RATE_HZ, as_waveform
from svcnb.files.unpickling import CheckpointError

SHORTEST_SAMPLES = 400  # the first frame of HuBERT's convolutions
PROVIDERS = {"cuda": "CUDAExecutionProvider"}


class OnnxNetwork(nn.Module):
    """ONNX graph as a module: `to(device)` opens it again on that device, if onnxruntime supports it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.register_buffer("device_probe", torch.zeros(0), persistent=False)
        self.session = _open_session(path, "cpu")

    def forward(self, waveform: Tensor) -> Tensor:
        """float32 [1, 1, T] -> the first output, on this module's device."""
        (name, *_) = [node.name for node in self.session.get_inputs()]
        output, *_ = self.session.run(None, {name: waveform.cpu().numpy()})
        return torch.from_numpy(np.asarray(output)).to(self.device_probe.device)

    def _apply(self, fn: Any, recurse: bool = True) -> OnnxNetwork:
        before = self.device_probe.device.type
        super()._apply(fn, recurse)
        if self.device_probe.device.type != before:
            self.session = _open_session(self.path, self.device_probe.device.type)
        return self


class OnnxEncoder:
    """Encoder from an ONNX graph, which determines its width; the waveform is used unchanged."""

    def __init__(self, network: OnnxNetwork, *, name: str, width: int) -> None:
        self.network = network
        self.name = name
        self.width = width
        self.hop_samples = HOP_SAMPLES

    def encode(self, samples: Tensor | np.ndarray) -> Tensor:
        """float32 [N, D], N from the graph; input shorter than 25 ms is zero-padded to 25 ms."""
        waveform = as_waveform(samples, "cpu")
        waveform = nn.functional.pad(waveform, (0, max(0, SHORTEST_SAMPLES - len(waveform))))
        return self.network(waveform[None, None])[0].float()

    def for_recording(self, *clips: Tensor | np.ndarray) -> OnnxEncoder:
        """Itself: the graph needs no statistics of the speaker."""
        return self


def load_onnx(path: Path, *, name: str) -> OnnxEncoder:
    """Encoder from an ONNX file; its layout is checked on a second of silence.

    Raises:
        MissingExtra: onnxruntime is not installed.
        CheckpointError: not an ONNX file, or one with another layout.
    """
    errors = _onnxruntime_errors()
    network = OnnxNetwork(path)
    shapes = [node.shape for node in network.session.get_inputs()]
    try:
        output = network(torch.zeros(1, 1, SAMPLE_RATE_HZ))
    except errors as error:
        expected = f"expected one waveform [1, 1, T] ({_first_line(error)})"
        raise CheckpointError(f"{path} takes inputs of shape {shapes}, {expected}.") from error
    if output.ndim != 3 or output.shape[0] != 1 or not output.is_floating_point():
        found = f"{output.dtype} {tuple(output.shape)}"
        expected = "expected content [1, N, D] in floats"
        raise CheckpointError(f"{path} gives {found} for a second of audio, {expected}.")
    return OnnxEncoder(network, name=name, width=output.shape[2])


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra(
            'encoders that are ONNX files need onnxruntime: pip install "svcnb[onnx]"'
        ) from error
    return onnxruntime


def _onnxruntime_errors() -> tuple[type[Exception], ...]:
    """Exceptions of onnxruntime, which have no common base class but Exception."""
    _onnxruntime()
    from onnxruntime.capi import onnxruntime_pybind11_state as raised

    return (
        raised.Fail,
        raised.InvalidArgument,
        raised.InvalidGraph,
        raised.InvalidProtobuf,
        raised.NotImplemented,
        raised.RuntimeException,
        ValueError,  # missing or unknown inputs
    )


def _open_session(path: Path, device_type: str) -> Any:
    onnxruntime = _onnxruntime()
    wanted = [PROVIDERS[device_type]] if device_type in PROVIDERS else []
    present = [provider for provider in wanted if provider in onnxruntime.get_available_providers()]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[*present, "CPUExecutionProvider"])
    except _onnxruntime_errors() as error:
        found = _first_line(error)
        raise CheckpointError(
            f"{path} is no ONNX file that onnxruntime can run ({found}). Get it again."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
