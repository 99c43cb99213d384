"""Small random weights in the layouts of real encoder files, and reference implementations of those networks.

Independent of the package: names, shapes and formulas are those of the programs that wrote such files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
GATED_BUCKETS, GATED_DISTANCE = 12, 20


@dataclass(frozen=True)
class Layout:
    """Sizes of a HuBERT-like network. `heads`: per layer the heads that remain after pruning, of `n_heads`;
    `inner`: per layer the inner width of its feed-forward block, 0 for none."""

    width: int = 32
    n_heads: int = 4
    conv: int = 6
    heads: Sequence[Sequence[int]] = ((0, 1, 2, 3),) * 2
    inner: Sequence[int] = (20, 20)
    norm_everywhere: bool = False
    conv_bias: bool = False
    pre_norm: bool = False
    gated: bool = False

    @property
    def head_width(self) -> int:
        return self.width // self.n_heads


def random_tensors(shapes: dict[str, tuple[int, ...]], *, seed: int = 0) -> dict[str, Tensor]:
    """Random values, different for every name; scales (one-dimensional weights) are around 1."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        scales = name.endswith((".weight", "weight_g", "grep_a", "dummy_weight")) and max(shape) == math.prod(
            shape
        )
        state[name] = torch.randn(shape, generator=generator) * (0.1 if len(shape) < 2 else 0.3) + float(
            scales
        )
    return state


def hubert_state(layout: Layout) -> dict[str, Tensor]:
    """Weights under fairseq's names, which Microsoft's WavLM files share."""
    width, conv = layout.width, layout.conv
    shapes: dict[str, tuple[int, ...]] = {"mask_emb": (width,)}
    for i, kernel in enumerate(KERNELS):
        prefix = f"feature_extractor.conv_layers.{i}."
        shapes[f"{prefix}0.weight"] = (conv, conv if i else 1, kernel)
        if layout.conv_bias:
            shapes[f"{prefix}0.bias"] = (conv,)
        norm = f"{prefix}2.1" if layout.norm_everywhere else f"{prefix}2"
        if layout.norm_everywhere or i == 0:
            shapes |= {f"{norm}.weight": (conv,), f"{norm}.bias": (conv,)}
    shapes |= {"layer_norm.weight": (conv,), "layer_norm.bias": (conv,)}
    shapes |= {"post_extract_proj.weight": (width, conv), "post_extract_proj.bias": (width,)}
    shapes |= {"encoder.pos_conv.0.bias": (width,), "encoder.pos_conv.0.weight_g": (1, 1, 4)}
    shapes |= {"encoder.pos_conv.0.weight_v": (width, width // 2, 4)}
    shapes |= {"encoder.layer_norm.weight": (width,), "encoder.layer_norm.bias": (width,)}
    for i in range(len(layout.heads)):
        shapes |= {f"encoder.layers.{i}.{name}": shape for name, shape in _layer_shapes(layout, i).items()}
    return random_tensors(shapes)


def _layer_shapes(layout: Layout, index: int) -> dict[str, tuple[int, ...]]:
    width, heads, inner = layout.width, len(layout.heads[index]) * layout.head_width, layout.inner[index]
    shapes: dict[str, tuple[int, ...]] = {}
    for norm in ("self_attn_layer_norm", "final_layer_norm"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    if heads:
        for name in ("q_proj", "k_proj", "v_proj"):
            shapes |= {f"self_attn.{name}.weight": (heads, width), f"self_attn.{name}.bias": (heads,)}
        shapes |= {"self_attn.out_proj.weight": (width, heads), "self_attn.out_proj.bias": (width,)}
    if heads and layout.gated:
        shapes |= {"self_attn.grep_linear.weight": (8, layout.head_width), "self_attn.grep_linear.bias": (8,)}
        shapes["self_attn.grep_a"] = (1, layout.n_heads, 1, 1)
        if index == 0:
            shapes["self_attn.relative_attention_bias.weight"] = (GATED_BUCKETS, layout.n_heads)
    if inner:
        shapes |= {"fc1.weight": (inner, width), "fc1.bias": (inner,)}
        shapes |= {"fc2.weight": (width, inner), "fc2.bias": (width,)}
    return shapes


# Reference implementation of HuBERT ----------------------------------------------------------------


def hubert_by_hand(state: dict[str, Tensor], samples: Tensor, layout: Layout) -> Tensor:
    """Content [N, D] of samples [T]: the last layer's output; after the final norm if layers are pre-norm."""
    x = convolutions_by_hand(state, samples)
    x = _linear(state, "post_extract_proj", _norm(state, "layer_norm", x))
    v = state["encoder.pos_conv.0.weight_v"]
    weight = state["encoder.pos_conv.0.weight_g"] * v / v.square().sum((0, 1), keepdim=True).sqrt()
    positions = F.conv1d(x.T[None], weight, state["encoder.pos_conv.0.bias"], padding=2, groups=2)[0, :, :-1]
    x = x + F.gelu(positions).T
    if not layout.pre_norm:
        x = _norm(state, "encoder.layer_norm", x)
    for i in range(len(layout.heads)):
        x = _layer_by_hand(state, i, x, layout)
    return _norm(state, "encoder.layer_norm", x) if layout.pre_norm else x


def convolutions_by_hand(state: dict[str, Tensor], samples: Tensor) -> Tensor:
    """[T] -> [N, C]; "dummy_weight" scales the channels if there is one."""
    x = samples[None, None]
    for i, stride in enumerate(STRIDES):
        prefix = f"feature_extractor.conv_layers.{i}."
        x = F.conv1d(x, state[f"{prefix}0.weight"], state.get(f"{prefix}0.bias"), stride=stride)
        if f"{prefix}2.1.weight" in state:
            x = _norm(state, f"{prefix}2.1", x.mT).mT
        elif f"{prefix}2.weight" in state:
            x = F.group_norm(x, x.shape[1], state[f"{prefix}2.weight"], state[f"{prefix}2.bias"])
        x = F.gelu(x)
    return x[0].T * state.get("dummy_weight", torch.ones(1))


def _layer_by_hand(state: dict[str, Tensor], index: int, x: Tensor, layout: Layout) -> Tensor:
    prefix = f"encoder.layers.{index}"
    first, second = f"{prefix}.self_attn_layer_norm", f"{prefix}.final_layer_norm"
    if layout.heads[index]:
        x = x + attention_by_hand(state, index, _norm(state, first, x) if layout.pre_norm else x, layout)
    if not layout.pre_norm:
        x = _norm(state, first, x)
    if layout.inner[index]:
        inner = F.gelu(_linear(state, f"{prefix}.fc1", _norm(state, second, x) if layout.pre_norm else x))
        x = x + _linear(state, f"{prefix}.fc2", inner)
    return x if layout.pre_norm else _norm(state, second, x)


def attention_by_hand(state: dict[str, Tensor], index: int, x: Tensor, layout: Layout) -> Tensor:
    """[N, D] -> [N, D], head by head; if gated, with a bias per distance, scaled by the query's gates."""
    prefix, width = f"encoder.layers.{index}.self_attn", layout.head_width
    q, k, v = (_linear(state, f"{prefix}.{name}_proj", x) for name in "qkv")
    outputs = []
    for position, head in enumerate(layout.heads[index]):
        own = slice(position * width, (position + 1) * width)
        scores = q[:, own] @ k[:, own].T / math.sqrt(width)
        if layout.gated:
            gates = _linear(state, f"{prefix}.grep_linear", x[:, head * width : (head + 1) * width])  # [N, 8]
            a, b = gates[:, :4].sum(1).sigmoid(), gates[:, 4:].sum(1).sigmoid()
            scale = a * (b * state[f"{prefix}.grep_a"][0, head, 0, 0] - 1) + 2
            scores = scores + scale[:, None] * _bias_by_hand(state, head, len(x))
        outputs.append(scores.softmax(1) @ v[:, own])
    return _linear(state, f"{prefix}.out_proj", torch.cat(outputs, 1))


def _bias_by_hand(state: dict[str, Tensor], head: int, n_frames: int) -> Tensor:
    table = state["encoder.layers.0.self_attn.relative_attention_bias.weight"][:, head]
    frames = range(n_frames)
    return torch.stack([table[[bucket_by_hand(key - query) for key in frames]] for query in frames])


def bucket_by_hand(distance: int, n_buckets: int = GATED_BUCKETS, max_distance: int = GATED_DISTANCE) -> int:
    """Bucket of a relative position: single frames, then logarithmic; later frames in the upper half."""
    half, length = n_buckets // 2, abs(distance)
    single = half // 2
    if length >= single:
        steps = math.log(length / single) / math.log(max_distance / single) * (half - single)
        length = min(half - 1, single + int(steps))
    return length + (half if distance > 0 else 0)


def _norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def _linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


# Whisper -------------------------------------------------------------------------------------------


def whisper_dims(**changes: int) -> dict[str, int]:
    own = {"n_mels": 20, "n_audio_ctx": 60, "n_audio_state": 16, "n_audio_head": 2, "n_audio_layer": 2}
    return {
        **own,
        "n_vocab": 7,
        "n_text_ctx": 5,
        "n_text_state": 16,
        "n_text_head": 2,
        "n_text_layer": 1,
        **changes,
    }


def whisper_state(dims: dict[str, int]) -> dict[str, Tensor]:
    """Weights under OpenAI's names, in float16 as in its files; only two tensors of the decoder."""
    width = dims["n_audio_state"]
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.positional_embedding": (dims["n_audio_ctx"], width),
        "encoder.conv1.weight": (width, dims["n_mels"], 3),
        "encoder.conv1.bias": (width,),
        "encoder.conv2.weight": (width, width, 3),
        "encoder.conv2.bias": (width,),
        "encoder.ln_post.weight": (width,),
        "encoder.ln_post.bias": (width,),
        "decoder.positional_embedding": (dims["n_text_ctx"], width),
        "decoder.token_embedding.weight": (dims["n_vocab"], width),
    }
    for i in range(dims["n_audio_layer"]):
        prefix = f"encoder.blocks.{i}."
        for name in ("attn.query", "attn.key", "attn.value", "attn.out"):
            shapes |= {f"{prefix}{name}.weight": (width, width), f"{prefix}{name}.bias": (width,)}
        del shapes[f"{prefix}attn.key.bias"]
        for name in ("attn_ln", "mlp_ln"):
            shapes |= {f"{prefix}{name}.weight": (width,), f"{prefix}{name}.bias": (width,)}
        shapes |= {f"{prefix}mlp.0.weight": (4 * width, width), f"{prefix}mlp.0.bias": (4 * width,)}
        shapes |= {f"{prefix}mlp.2.weight": (width, 4 * width), f"{prefix}mlp.2.bias": (width,)}
    return {name: value.half() for name, value in random_tensors(shapes).items()}


def log_mel_by_hand(samples: np.ndarray, n_samples: int, n_mels: int) -> np.ndarray:
    """Whisper's input [M, n_samples / 160] from samples padded with silence."""
    from librosa.filters import mel

    padded = np.pad(np.pad(samples.astype(np.float64), (0, n_samples - len(samples))), 200, mode="reflect")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = np.stack([padded[160 * i : 160 * i + 400] * hann for i in range(n_samples // 160)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    decades = np.log10(np.maximum(mel(sr=16000, n_fft=400, n_mels=n_mels) @ power.T, 1e-10))
    return (np.maximum(decades, decades.max() - 8) + 4) / 4


def whisper_by_hand(state: dict[str, Tensor], log_mel: Tensor, n_heads: int) -> Tensor:
    """[M, 2N] -> [N, D]."""
    own = {
        name.removeprefix("encoder."): value.float()
        for name, value in state.items()
        if name.startswith("encoder.")
    }
    x = F.gelu(F.conv1d(log_mel[None], own["conv1.weight"], own["conv1.bias"], padding=1))
    x = F.gelu(F.conv1d(x, own["conv2.weight"], own["conv2.bias"], stride=2, padding=1))[0].T
    x = x + own["positional_embedding"]
    for i in range(len([name for name in own if name.endswith("attn_ln.weight")])):
        prefix = f"blocks.{i}"
        y = _norm(own, f"{prefix}.attn_ln", x)
        projected = [_linear(own, f"{prefix}.attn.{part}", y) for part in ("query", "key", "value")]
        q, k, v = (part.unflatten(1, (n_heads, -1)).transpose(0, 1) for part in projected)
        attended = (q @ k.mT / math.sqrt(q.shape[2])).softmax(2) @ v  # [H, N, W]
        x = x + _linear(own, f"{prefix}.attn.out", attended.transpose(0, 1).flatten(1))
        inner = F.gelu(_linear(own, f"{prefix}.mlp.0", _norm(own, f"{prefix}.mlp_ln", x)))
        x = x + _linear(own, f"{prefix}.mlp.2", inner)
    return _norm(own, "ln_post", x)
