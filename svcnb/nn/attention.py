"""Self-attention with windowed relative positions, feed-forward layers, and two transformer stacks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from svcnb.nn.convolutions import Conv1d
from svcnb.nn.layers import LayerNorm, drop_out, gate

# Finite: a row without any visible key gives uniform weights instead of NaN. Fits in float16.
MASKED_SCORE = -1e4


def band_to_square(band: Tensor) -> Tensor:
    """Put column r of row t at column t + r - window: [.., N, 2 window + 1] -> [.., N, N], 0 elsewhere."""
    n, width = band.shape[-2], band.shape[-1]
    window = width // 2
    # Rows of n + width, read again as rows of n + width - 1: each row moves one step further to the right.
    skewed = F.pad(band, (0, n)).flatten(-2)[..., : n * (n + width - 1)]
    return skewed.reshape(*band.shape[:-1], n + width - 1)[..., window : window + n]


def square_to_band(square: Tensor, window: int) -> Tensor:
    """Collect the diagonals -window..window of [.., N, N] as columns: [.., N, 2 window + 1]."""
    n = square.shape[-1]
    flat = F.pad(F.pad(square, (window, window)).flatten(-2), (0, n))
    return flat.reshape(*square.shape[:-1], n + 2 * window + 1)[..., : 2 * window + 1]


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention on [B, C, N] with 1x1 convolutions.

    Args:
        channels: width; out_channels defaults to it.
        n_heads: divides channels.
        window: with a number, learned terms for key offsets -window..window, shared by the heads, are added to scores
            and values; offsets outside contribute nothing. None = no relative positions.
        p_dropout: on the attention weights, in training.
        same_start: keys start as a copy of the queries' weights.

    Source: Shaw et al. 2018 as in VITS; so-vits-svc 4.1 for `same_start` ("proximal_init").
    """

    def __init__(
        self,
        channels: int,
        n_heads: int,
        *,
        out_channels: int | None = None,
        window: int | None = None,
        p_dropout: float = 0.0,
        same_start: bool = False,
    ) -> None:
        super().__init__()
        self.n_heads, self.window, self.p_dropout = n_heads, window, p_dropout
        self.conv_q = nn.Conv1d(channels, channels, 1)
        self.conv_k = nn.Conv1d(channels, channels, 1)
        self.conv_v = nn.Conv1d(channels, channels, 1)
        self.conv_o = nn.Conv1d(channels, out_channels or channels, 1)
        for conv in (self.conv_q, self.conv_k, self.conv_v):
            nn.init.xavier_uniform_(conv.weight)
        if same_start:
            self.conv_k.load_state_dict(self.conv_q.state_dict())
        if window is not None:
            head_channels = channels // n_heads
            shape = (1, 2 * window + 1, head_channels)
            self.emb_rel_k = nn.Parameter(torch.randn(shape) * head_channels**-0.5)
            self.emb_rel_v = nn.Parameter(torch.randn(shape) * head_channels**-0.5)

    def forward(
        self, x: Tensor, context: Tensor | None = None, *, visible: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Attend from x to context (None = to itself).

        Args:
            x: queries [B, C, N].
            context: keys and values [B, C, S].
            visible: bool [B, 1, N, S], False = masked key.
            causal: a frame attends to itself and earlier frames only (not together with `visible` or a
                window).

        Returns:
            [B, out_channels, N].
        """
        context = x if context is None else context
        query, key, value = (
            conv(source)
            .reshape(source.shape[0], self.n_heads, -1, source.shape[2])
            .transpose(2, 3)  # [B, H, N or S, C / H]
            for conv, source in ((self.conv_q, x), (self.conv_k, context), (self.conv_v, context))
        )
        if self.window is None:
            mixed = self._attend(query, key, value, visible, causal=causal)
        else:
            mixed = self._attend_with_window(query, key, value, visible)
        return self.conv_o(mixed.transpose(2, 3).flatten(1, 2))  # [B, C, N] -> [B, out, N]

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, *, causal: bool
    ) -> Tensor:
        p_dropout = self.p_dropout if self.training else 0.0
        # torch has no fast kernel for this case, and its dropout is slow on a CPU
        if p_dropout and causal and query.device.type == "cpu":
            scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
            later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            weights = scores.masked_fill(later, -math.inf).softmax(-1)
            return drop_out(weights, p_dropout, True) @ value
        bias = None if visible is None else torch.zeros_like(visible, dtype=query.dtype)
        if visible is not None:
            bias.masked_fill_(~visible, MASKED_SCORE)
        return F.scaled_dot_product_attention(query, key, value, bias, p_dropout, causal)

    def _attend_with_window(
        self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None
    ) -> Tensor:
        query = query / math.sqrt(query.shape[-1])
        scores = query @ key.transpose(2, 3)  # [B, H, N, N]
        scores = scores + band_to_square(query @ self.emb_rel_k.transpose(1, 2))
        if visible is not None:
            scores = scores.masked_fill(~visible, MASKED_SCORE)
        weights = drop_out(scores.softmax(-1), self.p_dropout, self.training)
        return weights @ value + square_to_band(weights, self.window) @ self.emb_rel_v


class FeedForward(nn.Module):
    """Two convolutions with a ReLU between; "same" padding, or on the left only when causal."""

    def __init__(
        self,
        channels: int,
        filter_channels: int,
        kernel_size: int,
        *,
        p_dropout: float = 0.0,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.p_dropout = p_dropout
        self.padding = (kernel_size - 1, 0) if causal else ((kernel_size - 1) // 2, kernel_size // 2)
        self.conv_1 = Conv1d(channels, filter_channels, kernel_size)
        self.conv_2 = Conv1d(filter_channels, channels, kernel_size)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = F.relu(self.conv_1(F.pad(x * mask, self.padding)), inplace=True)
        x = drop_out(x, self.p_dropout, self.training)
        return self.conv_2(F.pad(x * mask, self.padding)) * mask


@dataclass(frozen=True)
class TransformerSizes:
    """Sizes of a stack of attention and feed-forward layers."""

    channels: int
    filter_channels: int
    n_heads: int
    n_layers: int
    kernel_size: int = 3
    p_dropout: float = 0.0

    def attention(self, **given: Any) -> nn.ModuleList:
        layers = range(self.n_layers)
        return nn.ModuleList(
            MultiHeadAttention(self.channels, self.n_heads, p_dropout=self.p_dropout, **given) for _ in layers
        )

    def feed_forward(self, **given: Any) -> nn.ModuleList:
        sizes = self.channels, self.filter_channels, self.kernel_size
        return nn.ModuleList(
            FeedForward(*sizes, p_dropout=self.p_dropout, **given) for _ in range(self.n_layers)
        )

    def norms(self) -> nn.ModuleList:
        return nn.ModuleList(LayerNorm(self.channels) for _ in range(self.n_layers))


class RelativeEncoder(nn.Module):
    """Post-norm transformer with relative positions: the text encoder of VITS, here for content frames."""

    def __init__(self, sizes: TransformerSizes, *, window: int = 4) -> None:
        super().__init__()
        self.p_dropout = sizes.p_dropout
        self.attn_layers = sizes.attention(window=window)
        self.norm_layers_1 = sizes.norms()
        self.ffn_layers = sizes.feed_forward()
        self.norm_layers_2 = sizes.norms()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, C, N], mask [B, 1, N] -> [B, C, N]."""
        valid = mask.bool()
        visible = valid.unsqueeze(2) & valid.unsqueeze(3)  # [B, 1, N, N]
        x = x * mask
        layers = zip(self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2, strict=True)
        for attention, norm_1, feed_forward, norm_2 in layers:
            x = norm_1(x + drop_out(attention(x, visible=visible), self.p_dropout, self.training))
            x = norm_2(x + drop_out(feed_forward(x, mask), self.p_dropout, self.training))
        return x * mask


class CausalEncoder(nn.Module):
    """Post-norm transformer with causal attention, optionally conditioned on a speaker vector.

    With `gin_channels` every layer first replaces its input by a WaveNet gate of it and the speaker vector; one
    convolution (`cond_pre`) serves all layers.

    Source: so-vits-svc 4.1, class FFT (f0 decoder and transformer flow). Padded frames need no attention
    mask: they come after the valid ones, which attend to earlier frames only.
    """

    def __init__(self, sizes: TransformerSizes, *, gin_channels: int = 0) -> None:
        super().__init__()
        self.p_dropout = sizes.p_dropout
        if gin_channels:
            self.cond_pre = nn.Conv1d(sizes.channels, 2 * sizes.channels, 1)
            self.cond_layer = weight_norm(Conv1d(gin_channels, 2 * sizes.channels * sizes.n_layers, 1))
        self.self_attn_layers = sizes.attention(same_start=True)
        self.norm_layers_0 = sizes.norms()
        self.ffn_layers = sizes.feed_forward(causal=True)
        self.norm_layers_1 = sizes.norms()

    def forward(self, x: Tensor, mask: Tensor, g: Tensor | None = None) -> Tensor:
        """x [B, C, N], mask [B, 1, N], g [B, gin, 1 or N] -> [B, C, N]."""
        conditions = None if g is None else self.cond_layer(g).chunk(len(self.ffn_layers), dim=1)
        x = x * mask
        layers = zip(
            self.self_attn_layers, self.norm_layers_0, self.ffn_layers, self.norm_layers_1, strict=True
        )
        for i, (attention, norm_0, feed_forward, norm_1) in enumerate(layers):
            if conditions is not None:
                x = gate(self.cond_pre(x) + conditions[i])
            x = norm_0(x + drop_out(attention(x, causal=True), self.p_dropout, self.training))
            x = norm_1(x + drop_out(feed_forward(x, mask), self.p_dropout, self.training))
        return x * mask
