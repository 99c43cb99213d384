"""DPHuBERT's files {"config", "state_dict"}: a HuBERT (or WavLM) with individually pruned layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from svcnb.features.content.hubert import HubertEncoder
from svcnb.files.checkpoint import load_weights, read_checkpoint
from svcnb.files.unpickling import CheckpointError

RELATIVE_KEYS = (
    "encoder_total_num_heads",
    "encoder_remaining_heads",
    "encoder_num_buckets",
    "encoder_max_distance",
)
HUBERT_KEYS = ("encoder_num_heads", "encoder_head_dim")
SHARED_KEYS = (
    "extractor_mode", "extractor_conv_layer_config", "extractor_conv_bias", "encoder_embed_dim",
    "encoder_pos_conv_kernel", "encoder_pos_conv_groups", "encoder_num_layers", "encoder_use_attention",
    "encoder_use_feed_forward", "encoder_ff_interm_features", "encoder_layer_norm_first",
)  # fmt: skip
# For training only: dropout, layer drop, pruning.
TRAINING_KEYS = (
    "encoder_projection_dropout", "encoder_attention_dropout", "encoder_ff_interm_dropout", "encoder_dropout",
    "encoder_layer_drop", "extractor_prune_conv_channels", "encoder_prune_attention_heads",
    "encoder_prune_attention_layer", "encoder_prune_feed_forward_intermediate", "encoder_prune_feed_forward_layer",
)  # fmt: skip
EXTRACTOR_MODES = ("group_norm", "layer_norm")


def load_dphubert(path: Path, *, name: str) -> HubertEncoder:
    """Encoder from a file of DPHuBERT: the last layer's output, always in evaluation mode.

    The original leaves the network in training mode: dropout and layer drop make every call different. Here
    the rates in the config have no effect.

    Raises:
        CheckpointError: another kind of file, config keys that are missing or unknown, or tensors that do
            not fit the config (all differences are listed).
    """
    checkpoint = read_checkpoint(path)
    config, state = checkpoint.get("config"), checkpoint.get("state_dict")
    if not isinstance(config, dict) or not isinstance(state, dict):
        found = sorted(map(str, checkpoint))[:6]
        raise CheckpointError(
            f"{path} has the keys {found}, expected 'config' and 'state_dict' as in a DPHuBERT file."
        )
    network = dphubert_from_state(config, state)
    return HubertEncoder(network, name=name, normalised=bool(config.get("normalize_waveform")))


def dphubert_from_state(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> PrunedHubert:
    """Build the network of a config and load its weights strictly."""
    network = PrunedHubert(settings_from_config(config))
    # files that were converted but not pruned have no channel scale
    load_weights(network, state, may_miss=("feature_extractor.dummy_weight",))
    return network


def settings_from_config(config: Mapping[str, Any]) -> PrunedHubertSettings:
    """Sizes from DPHuBERT's config keys; `encoder_remaining_heads` identifies a WavLM."""
    relative = "encoder_remaining_heads" in config
    needed = (*SHARED_KEYS, *(RELATIVE_KEYS if relative else HUBERT_KEYS))
    known = {*needed, *TRAINING_KEYS, "normalize_waveform", "aux_num_out"}
    differences = [f"missing {key}" for key in needed if key not in config]
    differences += [f"unknown {key}" for key in config if key not in known]
    if config.get("aux_num_out"):
        differences.append(f"aux_num_out is {config['aux_num_out']}, expected none: a model for another task")
    mode = config.get("extractor_mode", "group_norm")
    if mode not in EXTRACTOR_MODES:
        differences.append(f"extractor_mode is {mode!r}, expected one of {', '.join(EXTRACTOR_MODES)}")
    if differences:
        raise CheckpointError(f"not a supported DPHuBERT config: {'; '.join(differences)}.")
    return PrunedHubertSettings(
        convolutions=tuple(tuple(layer) for layer in config["extractor_conv_layer_config"]),
        conv_bias=config["extractor_conv_bias"],
        norm_everywhere=mode == "layer_norm",
        width=config["encoder_embed_dim"],
        position_kernel=config["encoder_pos_conv_kernel"],
        position_groups=config["encoder_pos_conv_groups"],
        layers=tuple(_layer(config, i, relative=relative) for i in range(config["encoder_num_layers"])),
        pre_norm=config["encoder_layer_norm_first"],
        n_buckets=config["encoder_num_buckets"] if relative else 0,
        max_distance=config["encoder_max_distance"] if relative else 0,
    )


def _layer(config: Mapping[str, Any], index: int, *, relative: bool) -> PrunedLayerSettings:
    if relative:
        n_heads = config["encoder_total_num_heads"][index]
        heads = tuple(config["encoder_remaining_heads"][index])
        head_width = config["encoder_embed_dim"] // n_heads
    else:
        n_heads, head_width = config["encoder_num_heads"][index], config["encoder_head_dim"]
        heads = tuple(range(n_heads))
    return PrunedLayerSettings(
        heads=heads if config["encoder_use_attention"][index] else (),
        n_heads=n_heads,
        head_width=head_width,
        n_inner=config["encoder_ff_interm_features"][index]
        if config["encoder_use_feed_forward"][index]
        else 0,
    )


@dataclass(frozen=True)
class PrunedLayerSettings:
    """One transformer layer.

    heads: the remaining ones of `n_heads`, each `head_width` wide; empty: no attention.
    n_inner: hidden width of the feed-forward; 0: no feed-forward.
    """

    heads: tuple[int, ...]
    n_heads: int
    head_width: int
    n_inner: int


@dataclass(frozen=True)
class PrunedHubertSettings:
    """Sizes of the whole network.

    convolutions: channels, kernel and stride of each.
    norm_everywhere: LayerNorm after every convolution, else GroupNorm after the first.
    pre_norm: layers normalise their input, and the final norm is after the stack; else before it.
    n_buckets: of WavLM's gated relative position bias, shared by all layers; 0: HuBERT, without it.
    max_distance: in frames; all larger distances are in one bucket.
    """

    convolutions: tuple[tuple[int, int, int], ...]
    conv_bias: bool
    norm_everywhere: bool
    width: int
    position_kernel: int
    position_groups: int
    layers: tuple[PrunedLayerSettings, ...]
    pre_norm: bool
    n_buckets: int = 0
    max_distance: int = 800


class PrunedHubert(nn.Module):
    """Waveform [B, T] -> content [B, N, D]."""

    def __init__(self, settings: PrunedHubertSettings) -> None:
        super().__init__()
        self.settings = settings
        self.width = settings.width
        self.convolutions = [(kernel, stride) for _, kernel, stride in settings.convolutions]
        self.feature_extractor = FeatureExtractor(settings)
        self.encoder = nn.ModuleDict(
            {"feature_projection": FeatureProjection(settings), "transformer": PrunedTransformer(settings)}
        )

    def forward(self, waveform: Tensor) -> Tensor:
        features = self.feature_extractor(waveform)  # [B, N, C]
        return self.encoder["transformer"](self.encoder["feature_projection"](features))


class FeatureExtractor(nn.Module):
    """Convolutions over the waveform; `dummy_weight` is a channel scale left over from pruning."""

    def __init__(self, settings: PrunedHubertSettings) -> None:
        super().__init__()
        self.conv_layers = nn.ModuleList()
        n_in = 1
        for i, (n_out, kernel, stride) in enumerate(settings.convolutions):
            norm = None
            if settings.norm_everywhere:
                norm = nn.LayerNorm(n_out)
            elif i == 0:
                norm = nn.GroupNorm(n_out, n_out)
            conv = nn.Conv1d(n_in, n_out, kernel, stride, bias=settings.conv_bias)
            self.conv_layers.append(nn.ModuleDict({"conv": conv} | ({"layer_norm": norm} if norm else {})))
            n_in = n_out
        self.dummy_weight = nn.Parameter(torch.ones(n_in))

    def forward(self, waveform: Tensor) -> Tensor:
        x = waveform[:, None]  # [B, 1, T]
        for layer in self.conv_layers:
            x = layer["conv"](x)  # [B, C, N]
            norm = layer["layer_norm"] if "layer_norm" in layer else None
            if isinstance(norm, nn.LayerNorm):
                x = norm(x.transpose(1, 2)).transpose(1, 2)
            elif norm is not None:
                x = norm(x)
            x = F.gelu(x)
        return x.transpose(1, 2) * self.dummy_weight  # [B, N, C]


class FeatureProjection(nn.Module):
    def __init__(self, settings: PrunedHubertSettings) -> None:
        super().__init__()
        n_channels = settings.convolutions[-1][0]
        self.layer_norm = nn.LayerNorm(n_channels)
        self.projection = nn.Linear(n_channels, settings.width)

    def forward(self, features: Tensor) -> Tensor:
        return self.projection(self.layer_norm(features))


class PositionalConvolution(nn.Module):
    """Convolutional positional embedding (grouped, large kernel): [B, N, D] -> [B, N, D]."""

    def __init__(self, settings: PrunedHubertSettings) -> None:
        super().__init__()
        width, kernel = settings.width, settings.position_kernel
        conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=settings.position_groups)
        self.conv = weight_norm(conv, dim=2)

    def forward(self, x: Tensor) -> Tensor:
        positions = self.conv(x.transpose(1, 2))[..., : x.shape[1]]  # an even kernel gives one frame more
        return F.gelu(positions).transpose(1, 2)


class PrunedTransformer(nn.Module):
    def __init__(self, settings: PrunedHubertSettings) -> None:
        super().__init__()
        self.pre_norm = settings.pre_norm
        self.pos_conv_embed = PositionalConvolution(settings)
        self.layer_norm = nn.LayerNorm(settings.width)
        self.layers = nn.ModuleList(PrunedLayer(settings, i) for i in range(len(settings.layers)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_conv_embed(x)
        if not self.pre_norm:
            x = self.layer_norm(x)
        # all layers use the first layer's table of relative positions
        bias = self.layers[0].relative_bias(x.shape[1]) if len(self.layers) else None
        for layer in self.layers:
            x = layer(x, bias)
        return self.layer_norm(x) if self.pre_norm else x


class PrunedLayer(nn.Module):
    """Pruned attention and feed-forward; the layer norms remain even if one of the two is removed."""

    def __init__(self, settings: PrunedHubertSettings, index: int) -> None:
        super().__init__()
        own, width = settings.layers[index], settings.width
        self.pre_norm = settings.pre_norm
        self.attention = PrunedAttention(settings, index) if own.heads else None
        self.layer_norm = nn.LayerNorm(width)
        self.feed_forward = None
        if own.n_inner:
            self.feed_forward = nn.ModuleDict(
                {
                    "intermediate_dense": nn.Linear(width, own.n_inner),
                    "output_dense": nn.Linear(own.n_inner, width),
                }
            )
        self.final_layer_norm = nn.LayerNorm(width)

    def relative_bias(self, n_frames: int) -> Tensor | None:
        """[H, N, N] for all heads, from this layer's table; None if it has none."""
        return self.attention.relative_bias(n_frames) if self.attention is not None else None

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if self.attention is not None:
            x = x + self.attention(self.layer_norm(x) if self.pre_norm else x, bias)
        if not self.pre_norm:
            x = self.layer_norm(x)
        if self.feed_forward is not None:
            inner = self.feed_forward["intermediate_dense"](self.final_layer_norm(x) if self.pre_norm else x)
            x = x + self.feed_forward["output_dense"](F.gelu(inner))
        return x if self.pre_norm else self.final_layer_norm(x)


class PrunedAttention(nn.Module):
    """Self-attention of the remaining heads; WavLM's relative position gates use the inputs of all heads."""

    def __init__(self, settings: PrunedHubertSettings, index: int) -> None:
        super().__init__()
        self.own = own = settings.layers[index]
        self.n_buckets, self.max_distance = settings.n_buckets, settings.max_distance
        width, inner = settings.width, len(own.heads) * own.head_width
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, inner) for _ in "qkv")
        self.out_proj = nn.Linear(inner, width)
        if settings.n_buckets:
            self.gru_rel_pos_linear = nn.Linear(own.head_width, 8)
            self.gru_rel_pos_const = nn.Parameter(torch.ones(1, own.n_heads, 1, 1))
            if index == 0:
                self.rel_attn_embed = nn.Embedding(settings.n_buckets, own.n_heads)

    def relative_bias(self, n_frames: int) -> Tensor | None:
        """[H, N, N]: one value per head and distance bucket; None for HuBERT."""
        if not self.n_buckets:
            return None
        frames = torch.arange(n_frames, device=self.rel_attn_embed.weight.device)
        distances = frames[None] - frames[:, None]  # [N, N], of key frames from query frames
        buckets = relative_buckets(distances, n_buckets=self.n_buckets, max_distance=self.max_distance)
        return self.rel_attn_embed(buckets).permute(2, 0, 1)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        n_left, head_width = len(self.own.heads), self.own.head_width
        projected = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        # [B, h, N, W], h remaining heads
        q, k, v = (y.unflatten(2, (n_left, head_width)).transpose(1, 2) for y in projected)
        mask = None if bias is None else self._gated(x, bias)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def _gated(self, x: Tensor, bias: Tensor) -> Tensor:
        """[B, h, N, N]: relative position bias, scaled by the gates of each frame."""
        per_head = x.unflatten(2, (self.own.n_heads, self.own.head_width)).transpose(1, 2)  # [B, H, N, W]
        gates = self.gru_rel_pos_linear(per_head).unflatten(3, (2, 4)).sum(4).sigmoid()  # [B, H, N, 2]
        update, reset = gates.split(1, dim=3)
        scale = update * (reset * self.gru_rel_pos_const - 1) + 2  # [B, H, N, 1]
        return (scale * bias)[:, list(self.own.heads)]


def relative_buckets(distance: Tensor, *, n_buckets: int, max_distance: int) -> Tensor:
    """Bucket numbers 0..n_buckets - 1 for distances in frames: half of the buckets for each direction.

    Half of a direction's buckets are single distances, the others are spaced logarithmically up to
    `max_distance`.
    """
    per_direction = n_buckets // 2
    n_single = per_direction // 2
    length = distance.abs()
    growth = torch.log(length.clamp(min=1) / n_single) / math.log(max_distance / n_single)
    far = (n_single + growth * (per_direction - n_single)).long().clamp(max=per_direction - 1)
    return (distance > 0).long() * per_direction + torch.where(length < n_single, length, far)
