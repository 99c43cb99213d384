"""Moonshine tiny's encoder in torch, as a perceptual-loss network for the training of the base model.

The recogniser was trained on far more speakers than the bundled encoder, so its features distinguish
consonants better. Its 8 MB are not bundled: fine-tuning from the base uses the bundled encoder only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.moonshine import HEAD_WIDTH, N_HEADS, read_encoder
from svcnb.training.perceptual import PerceptualNetwork, TargetFeatures

WIDTH = N_HEADS * HEAD_WIDTH
ROTATED = 32  # values of each head with rotary position embedding
COMPARED_LAYERS = (1, 4)  # in addition to the input of the first layer


class MoonshineLayers(nn.Module):
    """Waveform [B, T] at 16 kHz to feature maps [B, N, 288], 24 ms frames: input of the layers, COMPARED_LAYERS.

    Source: Jeffries et al. 2024 (Moonshine), and the graph of its ONNX file, whose 8-bit weights are
    dequantized.
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
        maps = [x]
        for layer in range(max(COMPARED_LAYERS) + 1):
            x = x + self._attend(
                self._normalised(x, f"layers_{layer}_input_layernorm"), f"layers_{layer}_self_attn"
            )
            hidden = self._times(
                self._normalised(x, f"layers_{layer}_post_attention_layernorm"), f"layers_{layer}_mlp_fc1"
            )
            x = x + self._times(F.gelu(hidden), f"layers_{layer}_mlp_fc2")
            if layer in COMPARED_LAYERS:
                maps.append(x)
        return maps

    def _normalised(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), getattr(self, f"{name}_weight"))

    def _times(self, x: Tensor, name: str) -> Tensor:
        return x @ getattr(self, name) + getattr(self, f"{name}_bias", 0.0)

    def _attend(self, x: Tensor, name: str) -> Tensor:
        q, k, v = (
            self._times(x, f"{name}_{kind}_proj").unflatten(2, (N_HEADS, HEAD_WIDTH)).transpose(1, 2)
            for kind in "qkv"
        )
        angles = torch.arange(x.shape[1], device=x.device)[:, None] * self.frequencies
        cos, sin = (turn.repeat_interleave(2, 1) for turn in (angles.cos(), angles.sin()))
        mixed = F.scaled_dot_product_attention(_rotated(q, cos, sin), _rotated(k, cos, sin), v)
        return self._times(mixed.transpose(1, 2).flatten(2), f"{name}_dense")


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding on neighbouring pairs of the first values of each head [B, H, N, W]."""
    rotated, rest = x[..., :ROTATED], x[..., ROTATED:]
    quarter = torch.stack([-rotated[..., 1::2], rotated[..., 0::2]], -1).flatten(-2)
    return torch.cat([rotated * cos + quarter * sin, rest], -1)


def _read_weights(folder: Path) -> dict[str, np.ndarray]:
    """Weights by name, with underscores for dots and slashes; 8-bit weights are dequantized."""
    graph = read_encoder(folder).graph
    from onnx import numpy_helper

    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {"frequencies": stored["/rotary_emb/Cast_1_output_0"].flatten()}
    found |= {
        f"group_{kind}": stored[name].flatten()
        for kind, name in (("weight", "onnx::Mul_1488"), ("bias", "onnx::Add_1489"))
    }
    for name in ("conv1", "conv2", "conv3"):  # here the zero point is in units of the weights
        weight, scale, zero = (
            stored[f"{name}.weight_{part}"] for part in ("quantized", "scale", "zero_point")
        )
        found[name] = weight.astype(np.float32) * scale + zero
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            quantised = node.input[1]
            scale, zero = (
                stored[f"{quantised.removesuffix('_quantized')}_{part}"] for part in ("scale", "zero_point")
            )
            name = node.name.removesuffix("/MatMul_quant").strip("/")
            found[_plain(name)] = (stored[quantised].astype(np.float32) - zero.astype(np.float32)) * scale
    return found | {
        _plain(name): value for name, value in stored.items() if name.endswith((".bias", "layernorm.weight"))
    }


def _plain(name: str) -> str:
    return name.replace(".", "_").replace("/", "_")


class MoonshineFeatures(PerceptualNetwork):
    """Perceptual-loss network with Moonshine's encoder."""

    def __init__(self, folder: Path, *, sample_rate_hz: int) -> None:
        super().__init__(MoonshineLayers(folder), sample_rate_hz=sample_rate_hz)

    def maps(self, prepared: Tensor, statistics: None) -> list[Tensor]:
        return self.network(prepared)


class PerceptualTargets:
    """Target feature maps of several perceptual-loss networks."""

    def __init__(self, targets: list[TargetFeatures]) -> None:
        self.targets = targets

    def distance(self, audio: Tensor) -> Tensor:
        """Sum of the distances of all networks."""
        return torch.stack([target.distance(audio) for target in self.targets]).sum()


class PerceptualNetworks(nn.Module):
    """Several perceptual-loss networks as one; the losses are summed."""

    def __init__(self, *networks: PerceptualNetwork) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def encode_target(self, audio: Tensor) -> PerceptualTargets:
        return PerceptualTargets([network.encode_target(audio) for network in self.networks])
