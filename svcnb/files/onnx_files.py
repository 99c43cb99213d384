"""ONNX files of voices: written from a graph of torch, run with onnxruntime."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from svcnb import MissingExtra, SvcError
from svcnb.files.disk import atomic_path

OPSET = 16  # the families'; older programs read no newer one


def check_onnx_name(output: Path) -> None:
    """Before the work: another suffix, or no package to export with.

    Raises:
        SvcError: not FILE.onnx. MissingExtra: onnx is not installed.
    """
    if output.suffix != ".onnx":
        raise SvcError(f"{output.name}: an exported voice is a .onnx file, name it {output.stem}.onnx")
    if importlib.util.find_spec("onnx") is None:
        raise MissingExtra('exporting needs onnx: pip install "svcnb[onnx]"')


def write_onnx(
    graph: nn.Module, example: Mapping[str, Tensor], output: Path, axes: Mapping[str, dict[int, str]]
) -> Path:
    """Trace a graph whose output is "audio"; the file appears whole or not at all.

    Args:
        example: inputs by name, in the graph's order.
        axes: dimensions of inputs and output that may have any length.
    """
    with atomic_path(output) as temporary, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of tracing: what it takes for constant here is
        # The newer exporter (dynamo) needs one more package and fixes the number of frames in places.
        torch.onnx.export(
            graph,
            tuple(example.values()),
            str(temporary),
            input_names=list(example),
            output_names=["audio"],
            dynamic_axes=dict(axes),
            opset_version=OPSET,
            dynamo=False,
        )
    return output


def open_onnx(path: Path | str, made_with: str) -> Any:
    """An onnxruntime session on the CPU; `made_with` is the command that makes such a file.

    Raises:
        SvcError: no such file. MissingExtra: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra(
            'running an exported voice needs onnxruntime: pip install "svcnb[onnx]"'
        ) from error
    if not Path(path).is_file():
        raise SvcError(f"no exported voice at {path}: make it with `{made_with} {path}`")
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
