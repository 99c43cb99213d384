"""Weights and inputs computed from (seed, name, shape), as in the reference sets.

Every tensor is `default_rng(crc32("<seed>:<name>"))` standard normal, scaled by the first rule that
matches its name. The generator needs only numpy, so a set does not have to contain its weights.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping

import numpy as np
import torch

EMBEDDING_NAME = re.compile(
    r"(^|\.)(emb_g|emb_uv|f0_emb|emb_pitch|spk_embed|text_embedding|_codebook)\.(weight|embed|embed_avg)$"
)
# Kaiser-sinc filters of the snake activations keep their initial values.
FIXED_BUFFER = re.compile(r"(^|\.)(upsample\.filter|downsample\.lowpass\.filter)$")


def generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(f"{seed}:{name}".encode()))


def gauss(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 array of the given name."""
    return generator(seed, name).standard_normal(shape).astype(np.float32)


def _scaled(name: str, normal: np.ndarray) -> np.ndarray:
    fan_in = max(1, normal.size // normal.shape[0]) if normal.ndim else 1
    if name.endswith(".running_var"):
        return 1 + 0.1 * np.abs(normal)
    if name.endswith(".running_mean"):
        return 0.1 * normal
    if name.endswith((".weight_g", ".original0")):
        return 1 + 0.1 * normal
    if name.endswith((".weight_v", ".original1")):
        return 0.02 * normal
    if name in ("enc_p.proj.weight", "enc_q.proj.weight"):
        return 0.3 * normal / np.sqrt(fan_in)
    if name == "f0_decoder.proj.bias":
        return 0.7 + 0 * normal
    if name == "f0_decoder.proj.weight":
        return 0.1 * normal / np.sqrt(fan_in)
    if name.endswith((".alpha", ".beta")) and ("act" in name or "snake" in name):
        return 0.1 * normal
    if name.endswith(".gamma") or (name.endswith(".weight") and normal.ndim == 1):
        return 1 + 0.1 * normal
    if name.endswith((".beta", ".bias")) or normal.ndim <= 1:
        return 0.02 * normal
    if EMBEDDING_NAME.search(name):
        return 0.5 * normal
    return normal / np.sqrt(fan_in)


def value(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The formula's array for one state-dict name (prefix included)."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith((".inited", ".cluster_size")):
        return np.ones(shape, np.float32)
    normal = generator(seed, name).standard_normal(shape)
    return np.asarray(_scaled(name, normal), np.float32)


def state_dict(
    shapes: Mapping[str, tuple[int, ...]], seed: int, *, prefix: str = ""
) -> dict[str, torch.Tensor]:
    """Formula weights for every name except fixed filters; `prefix` ("disc:") is part of the hashed name."""
    return {
        name: torch.from_numpy(value(seed, prefix + name, tuple(shape)))
        for name, shape in shapes.items()
        if not FIXED_BUFFER.search(name)
    }
