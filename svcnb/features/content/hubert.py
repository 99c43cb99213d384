"""Load HuBERT and WavLM from files of fairseq, hubert-soft and Microsoft, without those programs.

The networks are those of the transformers library. This module reads the sizes from a file, maps its tensor
names to transformers' and loads strictly: every tensor is used or listed as needed for training only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svcnb.features.content.waveform import as_waveform, build_unfilled, import_transformers
from svcnb.files.checkpoint import load_weights, read_checkpoint, to_plain_names
from svcnb.files.unpickling import CheckpointError

HEAD_WIDTH = 64  # of every published HuBERT; a file's own config has priority
# (pattern, replacement): names in the file -> names in transformers' HubertModel and WavLMModel
FAIRSEQ_NAMES = (
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.2\.1\.", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"^feature_extractor\.conv_layers\.0\.2\.", "feature_extractor.conv_layers.0.layer_norm."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"\.self_attn\.", ".attention."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
    (r"\.relative_attention_bias\.", ".rel_attn_embed."),
    (r"\.grep_linear\.", ".gru_rel_pos_linear."),
    (r"\.grep_a$", ".gru_rel_pos_const"),
)
SOFT_NAMES = (
    (r"^feature_extractor\.conv(\d+)\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"^feature_extractor\.norm0\.", "feature_extractor.conv_layers.0.layer_norm."),
    (r"^feature_projection\.norm\.", "feature_projection.layer_norm."),
    (r"^positional_embedding\.conv\.", "encoder.pos_conv_embed.conv."),
    (r"^norm\.", "encoder.layer_norm."),
    (r"^proj\.", "final_proj."),
    (r"\.self_attn\.", ".attention."),
    (r"\.linear1\.", ".feed_forward.intermediate_dense."),
    (r"\.linear2\.", ".feed_forward.output_dense."),
    (r"\.norm1\.", ".layer_norm."),
    (r"\.norm2\.", ".final_layer_norm."),
)
TRAINING_ONLY = ("final_proj.", "mask_emb", "label_embs_concat", "masked_spec_embed", "label_embedding.")
# in transformers' names
POSITIONS = "encoder.pos_conv_embed.conv.weight_v"
FEED_FORWARD = "encoder.layers.0.feed_forward.intermediate_dense.weight"
RELATIVE_POSITIONS = "encoder.layers.0.attention.rel_attn_embed.weight"  # only WavLM has them
SIZE_GIVING = (
    POSITIONS,
    FEED_FORWARD,
    "feature_extractor.conv_layers.0.conv.weight",
    "feature_projection.layer_norm.weight",
)


class WaveformNetwork(Protocol):
    """Waveform [B, T] -> content [B, N, D] through a stack of convolutions without padding."""

    width: int
    convolutions: list[tuple[int, int]]  # kernel and stride of each

    def __call__(self, waveform: Tensor) -> Tensor: ...


class HubertNetwork(nn.Module):
    """HuBERT's (or WavLM's) convolutions and first layers, then the projection if the encoder has one."""

    def __init__(self, hubert: nn.Module, projection: nn.Linear | None) -> None:
        super().__init__()
        self.hubert = hubert
        self.projection = projection
        self.width = projection.out_features if projection else hubert.config.hidden_size
        self.convolutions = list(zip(hubert.config.conv_kernel, hubert.config.conv_stride, strict=True))

    def forward(self, waveform: Tensor) -> Tensor:
        content = self.hubert(waveform).last_hidden_state  # [B, N, D]
        return content if self.projection is None else self.projection(content)


class HubertEncoder:
    """HuBERT family (ContentVec, hubert-soft, WavLM, DPHuBERT), in float32 on every device.

    Memory grows with the length (about 1 GB for 10 s with the base model, weights included); conversion
    uses chunks of at most 30 s. Clips are not batched: the group norm over time would include padding.

    Args:
        padding_samples: zero padding at each end.
        normalised: normalise the waveform to mean 0 and variance 1 first; else it is used unchanged.
    """

    def __init__(
        self, network: WaveformNetwork, *, name: str, padding_samples: int = 0, normalised: bool = False
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.name = name
        self.padding_samples = padding_samples
        self.normalised = normalised
        self.width = network.width
        self.hop_samples = math.prod(stride for _, stride in network.convolutions)
        self.shortest_samples = 1  # 400 with the usual kernels
        for kernel, stride in reversed(network.convolutions):
            self.shortest_samples = (self.shortest_samples - 1) * stride + kernel

    @torch.no_grad()
    def encode(self, samples: Tensor | np.ndarray) -> Tensor:
        """float32 [N, D], N = (T + 2 * padding - 400) // 320 + 1; short input is padded to one frame."""
        waveform = as_waveform(samples, next(self.network.parameters()).device)
        if self.normalised:
            waveform = F.layer_norm(waveform, waveform.shape)
        waveform = F.pad(waveform, (self.padding_samples, self.padding_samples))
        waveform = F.pad(waveform, (0, max(0, self.shortest_samples - len(waveform))))
        return self.network(waveform[None])[0]

    def for_recording(self, *clips: Tensor | np.ndarray) -> HubertEncoder:
        """Itself: HuBERT needs no statistics of the speaker."""
        return self


# Files ---------------------------------------------------------------------------------------------


def load_hubert(
    path: Path, *, name: str, n_layers: int = 0, projected: bool = False, padding_samples: int = 0
) -> HubertEncoder:
    """Encoder from a file of fairseq, {"model", "cfg" or "args"}, or of hubert-soft (a bare state dict).

    The waveform is not normalised, whatever the file's task config is, as the families train without it.

    Args:
        n_layers, projected: as in `hubert_from_state`.
        padding_samples: zero padding at each end.
    """
    checkpoint = read_checkpoint(path)
    settings = stored_settings(checkpoint)
    network = hubert_from_state(
        checkpoint.get("model", checkpoint),
        n_layers=n_layers,
        n_heads=settings.get("encoder_attention_heads"),
        projected=projected,
        pre_norm=settings.get("layer_norm_first"),
    )
    return HubertEncoder(network, name=name, padding_samples=padding_samples)


def load_wavlm(path: Path, *, name: str) -> HubertEncoder:
    """Encoder from Microsoft's file {"cfg", "model"}: the last layer's output; follows "normalize" in cfg."""
    checkpoint = read_checkpoint(path)
    settings = stored_settings(checkpoint)
    if not settings or "model" not in checkpoint:
        found = sorted(map(str, checkpoint))[:6]
        raise CheckpointError(f"{path} has the keys {found}, expected 'cfg' and 'model' of a WavLM file.")
    network = wavlm_from_state(
        checkpoint["model"],
        n_heads=settings.get("encoder_attention_heads"),
        pre_norm=settings.get("layer_norm_first"),
        max_distance=settings.get("max_distance", 800),
    )
    return HubertEncoder(network, name=name, normalised=bool(settings.get("normalize")))


def stored_settings(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Model settings in a file: fairseq's cfg.model (newer) or args (older), Microsoft's cfg, or {}."""
    cfg, args = checkpoint.get("cfg"), checkpoint.get("args")
    if isinstance(cfg, dict):
        return cfg["model"] if isinstance(cfg.get("model"), dict) else cfg
    return args if isinstance(args, dict) else {}


def stored_heads(checkpoint: Mapping[str, Any]) -> int | None:
    """Number of attention heads in a file's settings; None if it is not there."""
    return stored_settings(checkpoint).get("encoder_attention_heads")


# Networks from state dicts -------------------------------------------------------------------------


def hubert_from_state(
    state: Mapping[str, Tensor],
    *,
    n_layers: int = 0,
    n_heads: int | None = None,
    projected: bool = False,
    pre_norm: bool | None = None,
) -> HubertNetwork:
    """Build HuBERT with the sizes of a state dict and load it strictly.

    Args:
        state: fairseq's names, or hubert-soft's (with or without "module." in front).
        n_layers: transformer layers to build; 0 builds all. Post-norm models have no norm after the last
            layer, so this is fairseq's output of that layer; pre-norm models end with their norm.
        n_heads: attention heads, which the shapes do not show; None: width / 64.
        projected: with the final projection.
        pre_norm: layers normalise their input ("layer_norm_first"); None: inferred from the norms of the
            convolutions, since the large models have both.
    """
    state = _common_names(state)
    if RELATIVE_POSITIONS in state:
        raise CheckpointError("the file holds a WavLM, expected a HuBERT: use the encoder wavlmbase+ for it.")
    stored_layers = _n_layers(state)
    if n_layers > stored_layers:
        raise CheckpointError(
            f"the file has {stored_layers} transformer layers, the encoder needs {n_layers}: another model?"
        )
    transformers = import_transformers()
    sizes = _sizes(state, n_heads=n_heads, pre_norm=pre_norm) | {
        "num_hidden_layers": n_layers or stored_layers
    }
    hubert = build_unfilled(transformers.HubertModel, transformers.HubertConfig(**sizes))
    beyond = tuple(f"encoder.layers.{i}." for i in range(sizes["num_hidden_layers"], stored_layers))
    load_weights(hubert, state, may_skip=(*beyond, *TRAINING_ONLY))
    return HubertNetwork(hubert, _projection(state) if projected else None).eval()


def wavlm_from_state(
    state: Mapping[str, Tensor],
    *,
    n_heads: int | None = None,
    pre_norm: bool | None = None,
    max_distance: int = 800,
) -> HubertNetwork:
    """Build WavLM with the sizes of a state dict (Microsoft's names) and load it strictly.

    Args:
        max_distance: in frames; all larger relative positions are in one bucket.
    """
    state = _common_names(state)
    if RELATIVE_POSITIONS not in state:
        raise CheckpointError(
            "the file holds a HuBERT without relative positions, expected a WavLM: another model's file?"
        )
    transformers = import_transformers()
    n_buckets, stored_heads = state[RELATIVE_POSITIONS].shape
    sizes = _sizes(state, n_heads=n_heads or stored_heads, pre_norm=pre_norm)
    config = transformers.WavLMConfig(**sizes, num_buckets=n_buckets, max_bucket_distance=max_distance)
    wavlm = build_unfilled(transformers.WavLMModel, config)
    load_weights(wavlm, state, may_skip=TRAINING_ONLY)
    return HubertNetwork(wavlm, None).eval()


def _projection(state: Mapping[str, Tensor]) -> nn.Linear:
    if "final_proj.weight" not in state:
        raise CheckpointError("the file has no final projection (final_proj or proj): another model?")
    width_out, width_in = state["final_proj.weight"].shape
    projection = nn.Linear(width_in, width_out)
    own = {
        name.removeprefix("final_proj."): value
        for name, value in state.items()
        if name.startswith("final_proj.")
    }
    load_weights(projection, own)
    return projection


def _common_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state under transformers' names, with a joint q/k/v projection split into three."""
    state = {str(name).removeprefix("module."): value for name, value in to_plain_names(state).items()}
    soft, fairseq = "positional_embedding.conv.weight_v" in state, "encoder.pos_conv.0.weight_v" in state
    if not (soft or fairseq):
        raise CheckpointError(
            f"no HuBERT weights: the tensors begin {sorted(state)[:4]}. Is it another model's file?"
        )
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        for pattern, replacement in SOFT_NAMES if soft else FAIRSEQ_NAMES:
            name = re.sub(pattern, replacement, name)
        if ".in_proj_" in name:
            parts = zip(("q_proj.", "k_proj.", "v_proj."), value.chunk(3), strict=True)
            renamed |= {name.replace("in_proj_", part): third for part, third in parts}
        else:
            renamed[name] = value
    if missing := [name for name in SIZE_GIVING if name not in renamed]:
        raise CheckpointError(
            f"tensors are missing, in transformers' names {', '.join(missing)}: is the file whole?"
        )
    if "feature_projection.projection.weight" not in renamed:  # fairseq omits it between equal widths
        width = renamed["feature_projection.layer_norm.weight"].shape[0]
        renamed["feature_projection.projection.weight"] = torch.eye(width)
        renamed["feature_projection.projection.bias"] = torch.zeros(width)
    return renamed


def _n_layers(state: Mapping[str, Tensor]) -> int:
    return len({name.split(".")[2] for name in state if name.startswith("encoder.layers.")})


def _sizes(state: Mapping[str, Tensor], *, n_heads: int | None, pre_norm: bool | None) -> dict[str, Any]:
    """transformers' configuration, read from the shapes of `state` (transformers' names)."""
    n_convs = len({name.split(".")[2] for name in state if name.startswith("feature_extractor.conv_layers.")})
    convs = [state[f"feature_extractor.conv_layers.{i}.conv.weight"].shape for i in range(n_convs)]
    hidden, per_group, positions = state[POSITIONS].shape
    norm_everywhere = "feature_extractor.conv_layers.1.layer_norm.weight" in state
    return {
        "hidden_size": hidden,
        "num_hidden_layers": _n_layers(state),
        "num_attention_heads": n_heads or max(1, hidden // HEAD_WIDTH),
        "intermediate_size": state[FEED_FORWARD].shape[0],
        "conv_dim": [shape[0] for shape in convs],
        "conv_kernel": [shape[2] for shape in convs],
        "conv_stride": [5, *[2] * (n_convs - 1)],  # not in the shapes; the same in all published models
        "conv_bias": "feature_extractor.conv_layers.0.conv.bias" in state,
        "feat_extract_norm": "layer" if norm_everywhere else "group",
        "do_stable_layer_norm": norm_everywhere if pre_norm is None else bool(pre_norm),
        "num_conv_pos_embeddings": positions,
        "num_conv_pos_embedding_groups": hidden // per_group,
        "hidden_act": "gelu",
        "feat_extract_activation": "gelu",
        "apply_spec_augment": False,
        "mask_time_prob": 0.0,
        "mask_feature_prob": 0.0,
    }
