"""ONNX encoders: a small graph in the family's layout, [1, 1, T] -> [1, N, D]."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb import MissingExtra, SvcError
from svcnb.features.content.encoders import ENCODERS, load_encoder
from svcnb.files.pretrained_table import WEIGHTS
from svcnb.files.unpickling import CheckpointError
from tests.unit.features.content.test_encoders import voice_like

pytestmark = pytest.mark.filterwarnings("ignore:.*values per frame")  # the files are small ones
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
ONNX_NAMES = [name for name in ENCODERS if name.endswith("-onnx")]


def write_graph(
    path: Path, *, width: int = 6, rank: int = 3, transposed: bool = True, n_inputs: int = 1
) -> np.ndarray:
    """One convolution over 400 samples every 320, its channels last; the weight [D, 1, 400] is returned."""
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).standard_normal((width, 1, 400)).astype(np.float32)
    shape = [1, 1, "T"][3 - rank :]
    inputs = [helper.make_tensor_value_info(f"source{i}", TensorProto.FLOAT, shape) for i in range(n_inputs)]
    nodes, waveform = [], "source0"
    if rank == 2:
        nodes.append(helper.make_node("Unsqueeze", ["source0", "axis"], ["raised"]))
        waveform = "raised"
    nodes.append(helper.make_node("Conv", [waveform, "weight"], ["content"], strides=[320]))
    if transposed:
        nodes.append(helper.make_node("Transpose", ["content"], ["last"], perm=[0, 2, 1]))
    else:
        nodes.append(helper.make_node("ReduceMean", ["content"], ["last"], keepdims=0))
    output = helper.make_tensor_value_info("last", TensorProto.FLOAT, None)
    stored = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.array([1]), "axis")]
    graph = helper.make_graph(nodes, "encoder", inputs, [output], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))
    return weight


@pytest.mark.parametrize("name", ONNX_NAMES)
def test_content_equals_the_output_of_the_graph(tmp_path: Path, name: str) -> None:
    weight = write_graph(tmp_path / WEIGHTS[ENCODERS[name].weights].file_name)
    encoder = load_encoder(name, folder=tmp_path)
    samples = torch.from_numpy(voice_like(5000))
    ours = encoder.encode(samples)
    assert (encoder.name, encoder.width, encoder.hop_samples) == (name, 6, 320)
    assert ours.shape == ((5000 - 400) // 320 + 1, 6) and ours.dtype == torch.float32
    expected = torch.nn.functional.conv1d(samples[None, None], torch.from_numpy(weight), stride=320)[0].T
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    assert encoder.for_recording(samples) is encoder


def test_clips_shorter_than_one_frame_give_one_frame(tmp_path: Path) -> None:
    write_graph(tmp_path / "hubert-soft.onnx")
    encoder = load_encoder("hubertsoft-onnx", folder=tmp_path)
    assert encoder.encode(np.ones(7, np.float32)).shape == (1, 6)
    with pytest.raises(ValueError, match=r"\(0,\), expected \[T\]"):
        encoder.encode(np.zeros(0, np.float32))


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "hubert-soft.onnx"
    path.write_text("<html>please log in</html>")
    with pytest.raises(CheckpointError, match=r"hubert-soft\.onnx is no ONNX file that onnxruntime can run"):
        load_encoder("hubertsoft-onnx", folder=tmp_path)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"rank": 2}, r"takes inputs of shape \[\[1, 'T'\]\], expected one waveform \[1, 1, T\]"),
        ({"n_inputs": 2}, r"takes inputs of shape .*expected one waveform"),
        (
            {"transposed": False},
            r"gives torch.float32 \(\) for a second of audio, expected content \[1, N, D\]",
        ),
    ],
    ids=["two axes", "two inputs", "a number"],
)
def test_a_graph_of_another_layout_is_named(tmp_path: Path, layout: dict, message: str) -> None:
    write_graph(tmp_path / "vec-768-layer-9.onnx", **layout)
    with pytest.raises(CheckpointError, match=message):
        load_encoder("vec768l9-onnx", folder=tmp_path)


def test_without_onnxruntime_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_graph(tmp_path / "vec-768-layer-12.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r'pip install "svcnb\[onnx\]"'):
        load_encoder("vec768l12-onnx", folder=tmp_path)
    assert issubclass(MissingExtra, SvcError)


def test_a_graph_moves_with_its_module_to_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session is opened again for the device, and once only."""
    import svcnb.features.content.onnx as module

    opened = []
    original = module._open_session
    monkeypatch.setattr(
        module, "_open_session", lambda path, kind: opened.append(kind) or original(path, kind)
    )
    write_graph(tmp_path / "vec-768-layer-9.onnx")
    encoder = load_encoder("vec768l9-onnx", folder=tmp_path)
    encoder.network.to("cpu")
    assert opened == ["cpu"]
    encoder.network.to("meta")
    assert opened == ["cpu", "meta"]
