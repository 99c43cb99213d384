"""Moonshine tiny's encoder as layers of torch: it listens to a base voice while that is trained.

A recogniser that has heard far more people than the bundled encoder is the better judge of what a consonant is. Its
eight megabytes are not bundled: voices that start from the base are judged by the bundled encoder alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.moonshine import HEAD_WIDTH, N_HEADS, read_encoder
from svcnb.training.perceptual import Listener, TargetFeatures

WIDTH = N_HEADS * HEAD_WIDTH
ROTATED = 32  # values of each head that turn with time
LAYERS_HEARD = (1, 4)  # beside what enters the first one


class MoonshineLayers(nn.Module):
    """Waveform [B, T] at 16 kHz to maps [B, N, 288], a frame per 24 ms: what enters the layers, and LAYERS_HEARD.

    Source: Jeffries et al. 2024 (Moonshine), and the graph of its ONNX file, whose 8-bit weights are read as numbers.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        for name, values in _read_weights(folder).items():
            self.register_buffer(name, torch.from_numpy(np.array(values, dtype=np.float32)))

    def forward(self, waveform: Tensor) -> list[Tensor]:
        x = torch.tanh(F.conv1d(waveform[:, None], self.conv1, stride=64))
        x = F.group_norm(x, 1, self.group_weight, self.group_bias)
        x = F.gelu(F.conv1d(x, self.conv2, self.conv2_bias, stride=3))
        x = F.gelu(F.conv1d(x, self.conv3, self.conv3_bias, stride=2)).transpose(1, 2)
        found = [x]
        for layer in range(max(LAYERS_HEARD) + 1):
            x = x + self._attend(self._normalised(x, f"layers_{layer}_input_layernorm"), f"layers_{layer}_self_attn")
            wide = self._times(self._normalised(x, f"layers_{layer}_post_attention_layernorm"), f"layers_{layer}_mlp_fc1")
            x = x + self._times(F.gelu(wide), f"layers_{layer}_mlp_fc2")
            if layer in LAYERS_HEARD:
                found.append(x)
        return found

    def _normalised(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), getattr(self, f"{name}_weight"))

    def _times(self, x: Tensor, name: str) -> Tensor:
        return x @ getattr(self, name) + getattr(self, f"{name}_bias", 0.0)

    def _attend(self, x: Tensor, name: str) -> Tensor:
        q, k, v = (self._times(x, f"{name}_{kind}_proj").unflatten(2, (N_HEADS, HEAD_WIDTH)).transpose(1, 2) for kind in "qkv")
        angles = torch.arange(x.shape[1], device=x.device)[:, None] * self.frequencies
        cos, sin = (turn.repeat_interleave(2, 1) for turn in (angles.cos(), angles.sin()))
        mixed = F.scaled_dot_product_attention(_turned(q, cos, sin), _turned(k, cos, sin), v)
        return self._times(mixed.transpose(1, 2).flatten(2), f"{name}_dense")


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position: neighbouring pairs among the first values of each head [B, H, N, W] turn with time."""
    turning, rest = x[..., :ROTATED], x[..., ROTATED:]
    quarter = torch.stack([-turning[..., 1::2], turning[..., 0::2]], -1).flatten(-2)
    return torch.cat([turning * cos + quarter * sin, rest], -1)


def _read_weights(folder: Path) -> dict[str, np.ndarray]:
    """Weights by name, with underscores for dots and slashes; those of 8 bits as the numbers that they stand for."""
    graph = read_encoder(folder).graph
    from onnx import numpy_helper

    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {"frequencies": stored["/rotary_emb/Cast_1_output_0"].flatten()}
    found |= {f"group_{kind}": stored[name].flatten() for kind, name in (("weight", "onnx::Mul_1488"), ("bias", "onnx::Add_1489"))}
    for name in ("conv1", "conv2", "conv3"):  # here the zero point is a number of the weights' own
        weight, scale, zero = (stored[f"{name}.weight_{part}"] for part in ("quantized", "scale", "zero_point"))
        found[name] = weight.astype(np.float32) * scale + zero
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            quantised = node.input[1]
            scale, zero = (stored[f"{quantised.removesuffix('_quantized')}_{part}"] for part in ("scale", "zero_point"))
            place = node.name.removesuffix("/MatMul_quant").strip("/")
            found[_plain(place)] = (stored[quantised].astype(np.float32) - zero.astype(np.float32)) * scale
    return found | {_plain(name): value for name, value in stored.items() if name.endswith((".bias", "layernorm.weight"))}


def _plain(name: str) -> str:
    return name.replace(".", "_").replace("/", "_")


class MoonshineListener(Listener):
    """Moonshine listens."""

    def __init__(self, folder: Path, *, sample_rate_hz: int) -> None:
        super().__init__(MoonshineLayers(folder), sample_rate_hz=sample_rate_hz)

    def maps(self, prepared: Tensor, statistics: None) -> list[Tensor]:
        return self.network(prepared)


class HeardByAll:
    """Segments as several listeners heard them."""

    def __init__(self, heard: list[TargetFeatures]) -> None:
        self.heard = heard

    def distance(self, audio: Tensor) -> Tensor:
        """The sum of all distances."""
        return torch.stack([each.distance(audio) for each in self.heard]).sum()


class Listeners(nn.Module):
    """Several listeners as one."""

    def __init__(self, *listeners: Listener) -> None:
        super().__init__()
        self.listeners = nn.ModuleList(listeners)

    def encode_target(self, audio: Tensor) -> HeardByAll:
        return HeardByAll([listener.encode_target(audio) for listener in self.listeners])
