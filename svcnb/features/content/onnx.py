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
    """A graph as a module: `to(device)` opens it again on that device, where onnxruntime can compute there."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.register_buffer("place", torch.zeros(0), persistent=False)
        self.session = _open_session(path, "cpu")

    def forward(self, waveform: Tensor) -> Tensor:
        """float32 [1, 1, T] -> whatever the first output holds, on this module's device."""
        (name, *_) = [node.name for node in self.session.get_inputs()]
        output, *_ = self.session.run(None, {name: waveform.cpu().numpy()})
        return torch.from_numpy(np.asarray(output)).to(self.place.device)

    def _apply(self, fn: Any, recurse: bool = True) -> OnnxNetwork:
        before = self.place.device.type
        super()._apply(fn, recurse)
        if self.place.device.type != before:
            self.session = _open_session(self.path, self.place.device.type)
        return self


class OnnxEncoder:
    """An encoder whose width is whatever its graph gives; the waveform is taken as it is."""

    def __init__(self, network: OnnxNetwork, *, name: str, width: int) -> None:
        self.network = network
        self.name = name
        self.width = width
        self.hop_samples = HOP_SAMPLES

    def encode(self, samples: Tensor | np.ndarray) -> Tensor:
        """float32 [N, D], as many frames as the graph gives; input shorter than 25 ms is filled up to that."""
        waveform = as_waveform(samples, "cpu")
        waveform = nn.functional.pad(waveform, (0, max(0, SHORTEST_SAMPLES - len(waveform))))
        return self.network(waveform[None, None])[0].float()

    def for_recording(self, *clips: Tensor | np.ndarray) -> OnnxEncoder:
        """Itself: the graph needs no statistics of the voice."""
        return self


def load_onnx(path: Path, *, name: str) -> OnnxEncoder:
    """Encoder from an ONNX file; a second of silence shows its layout.

    Raises:
        MissingExtra: onnxruntime is not installed.
        CheckpointError: no ONNX file, or one with another layout.
    """
    errors = _onnxruntime_errors()
    network = OnnxNetwork(path)
    shapes = [node.shape for node in network.session.get_inputs()]
    try:
        shown = network(torch.zeros(1, 1, SAMPLE_RATE_HZ))
    except errors as error:
        expected = f"expected one waveform [1, 1, T] ({_first_line(error)})"
        raise CheckpointError(f"{path} takes inputs of shape {shapes}, {expected}.") from error
    if shown.ndim != 3 or shown.shape[0] != 1 or not shown.is_floating_point():
        found = f"{shown.dtype} {tuple(shown.shape)}"
        raise CheckpointError(f"{path} gives {found} for a second of sound, expected content [1, N, D] in floats.")
    return OnnxEncoder(network, name=name, width=shown.shape[2])


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra('encoders that are ONNX files need onnxruntime: pip install "svcnb[onnx]"') from error
    return onnxruntime


def _onnxruntime_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises; its errors have no common class but Exception."""
    _onnxruntime()
    from onnxruntime.capi import onnxruntime_pybind11_state as raised

    return (
        raised.Fail,
        raised.InvalidArgument,
        raised.InvalidGraph,
        raised.InvalidProtobuf,
        raised.NotImplemented,
        raised.RuntimeException,
        ValueError,  # inputs that are missing or unknown
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
        raise CheckpointError(f"{path} is no ONNX file that onnxruntime can run ({found}). Get it again.") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
