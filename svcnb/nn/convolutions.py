"""Faster 1-D convolutions on a CPU: Winograd filtering, or one matrix product (im2col).

torch's convolutions are optimised for images. Here the kernels are short, the channels many and the sequences
a few hundred steps long: matrix products of the right shape are faster, and for kernels of 3 and 5 taps
Winograd filtering needs less than half the multiplications. Results and gradients equal torch's up to
rounding (about 1e-6 relative). On other devices, in half precision and for small layers torch's own
convolution runs.

Inside, a batch of sequences is [C, M, L]: channels first, so that one matrix product covers the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

N_PRODUCTS = 8  # per channel pair and tile; a tile gives N_PRODUCTS - taps + 1 outputs
TILED_KERNELS = (3, 5)
SMALLEST_TILED = 128 * 128  # in * out channels; below, transforming the tiles costs more than it saves
FEWEST_TILES = 64  # in total; below, transforming the weights costs more than it saves
# Filtering as multiplication of polynomials at the points 0, 1, -1, 2, -2, 1/2, -1/2 and infinity.
# Source: Winograd 1980; Lavin and Gray 2016, F(6, 3), whose input transform serves every kernel of up to 8 taps.
POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)
FILTER_SCALES = (1, -2 / 9, -2 / 9, 1 / 90, 1 / 90, 32 / 45, 32 / 45, 1)
INPUT_TRANSFORM = (
    (1, 0, -21 / 4, 0, 21 / 4, 0, -1, 0),
    (0, 1, 1, -17 / 4, -17 / 4, 1, 1, 0),
    (0, -1, 1, 17 / 4, -17 / 4, -1, 1, 0),
    (0, 1 / 2, 1 / 4, -5 / 2, -5 / 4, 2, 1, 0),
    (0, -1 / 2, 1 / 4, 5 / 2, -5 / 4, -2, 1, 0),
    (0, 2, 4, -5 / 2, -5, 1 / 2, 1, 0),
    (0, -2, 4, 5 / 2, -5, -1 / 2, 1, 0),
    (0, -1, 0, 21 / 4, 0, -21 / 4, 0, 1),
)


def suits_products(x: Tensor) -> bool:
    """Whether this module's convolutions support x and are faster: full precision on a CPU."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
    )


def convolve(x: Tensor, weight: Tensor, bias: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """1-D convolution of a batch of sequences with the channels first.

    Args:
        x: [C, M, L], full precision on a CPU.
        weight: [O, C, K].
        bias: [O].

    Returns:
        [O, M, (L + 2 padding - K) // stride + 1].
    """
    n_taps, n_items, n_steps = weight.shape[2], x.shape[1], x.shape[2] + 2 * padding
    n_tiles = n_items * n_steps // (N_PRODUCTS - n_taps + 1) if n_taps in TILED_KERNELS else 0
    if stride == 1 and n_tiles >= FEWEST_TILES and weight.shape[0] * weight.shape[1] >= SMALLEST_TILED:
        return TiledConvolution.apply(x, weight, bias, padding)
    return MatrixConvolution.apply(x, weight, bias, stride, padding)


class Conv1d(nn.Conv1d):
    """torch's Conv1d without groups, faster on a CPU where possible; same parameters and names."""

    may_differ_from_torch = True  # False: always torch's own convolution, for comparisons and export

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N] -> [B, O, N + 2 padding - dilation (K - 1)]."""
        plain = self.may_differ_from_torch and self.stride == self.dilation == (1,) and suits_products(x)
        if plain and x.shape[2] == 1 and self.kernel_size == (1,):
            return F.linear(x.squeeze(2), self.weight.squeeze(2), self.bias).unsqueeze(2)  # a speaker vector
        large = self.in_channels * self.out_channels >= SMALLEST_TILED
        if plain and large and self.kernel_size[0] in TILED_KERNELS:
            y = convolve(x.transpose(0, 1), self.weight, self.bias, padding=self.padding[0])
            return y.transpose(0, 1).contiguous()  # as torch's output: dropout draws its mask in memory order
        return super().forward(x)


class TiledConvolution(torch.autograd.Function):
    """Convolution with stride 1 by Winograd filtering.

    The padded sequence is cut into tiles of 8 steps that overlap by taps - 1. In the transformed domain each of the
    8 positions is one matrix product over the channels.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
        n_out, n_in, n_taps = weight.shape
        n_items, length = x.shape[1], x.shape[2] + 2 * padding - n_taps + 1
        step = N_PRODUCTS - n_taps + 1
        n_tiles = -(-length // step)
        padded = x.new_zeros(n_in, n_items, n_tiles * step + n_taps - 1)
        padded[..., padding : padding + x.shape[2]] = x
        tiles = padded.unfold(2, N_PRODUCTS, step).reshape(-1, N_PRODUCTS)  # [C M tiles, 8]
        inputs = (_matrix(INPUT_TRANSFORM, x) @ tiles.t()).view(N_PRODUCTS, n_in, -1)  # [8, C, M tiles]
        filters = (_filter_transform(n_taps, x) @ weight.reshape(-1, n_taps).t()).view(
            N_PRODUCTS, n_out, n_in
        )
        products = torch.bmm(filters, inputs).view(N_PRODUCTS, -1)  # [8, O M tiles]
        y = (products.t() @ _powers(step, x)).view(n_out, n_items, -1)[..., :length]
        ctx.save_for_backward(inputs if ctx.needs_input_grad[1] else None, filters)
        ctx.shapes = (x.shape, weight.shape, padding)
        return y + bias[:, None, None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, filters = ctx.saved_tensors
        (n_in, n_items, n_steps), (n_out, _, n_taps), padding = ctx.shapes
        step = N_PRODUCTS - n_taps + 1
        n_tiles = -(-grad.shape[2] // step)
        tiles = F.pad(grad, (0, n_tiles * step - grad.shape[2])).reshape(-1, step)  # [O M tiles, step]
        products = (_powers(step, grad) @ tiles.t()).view(N_PRODUCTS, n_out, -1)  # [8, O, M tiles]
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            parts = torch.bmm(filters.transpose(1, 2), products).view(N_PRODUCTS, -1).t() @ _matrix(
                INPUT_TRANSFORM, grad
            )
            grad_x = _join_tiles(parts.view(n_in, n_items, n_tiles, N_PRODUCTS), step)[
                ..., padding : padding + n_steps
            ]
        if ctx.needs_input_grad[1]:
            sums = torch.bmm(products, inputs.transpose(1, 2)).view(N_PRODUCTS, -1)  # [8, O C]
            grad_weight = (sums.t() @ _filter_transform(n_taps, grad)).view(n_out, n_in, n_taps)
        grad_bias = grad.sum((1, 2)) if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias, None


def _join_tiles(tiles: Tensor, step: int) -> Tensor:
    """Overlap-add of tiles [C, M, n, 8] that start `step` apart: at least [C, M, (n - 1) step + 8]."""
    n_in, n_items, n_tiles, width = tiles.shape
    joined = F.pad(tiles[..., :step], (0, 0, 0, (width - 1) // step))
    for first in range(step, width, step):
        own = min(step, width - first)
        joined[:, :, first // step : first // step + n_tiles, :own] += tiles[..., first : first + own]
    return joined.flatten(2)


def _matrix(rows: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    return torch.tensor(rows, dtype=like.dtype, device=like.device)


def _powers(n: int, like: Tensor) -> Tensor:
    """Powers 0..n-1 of the points; for infinity the highest power only: [8, n]."""
    rows = [tuple(point**power for power in range(n)) for point in POINTS]
    return _matrix((*rows, (*[0.0] * (n - 1), 1.0)), like)


def _filter_transform(n_taps: int, like: Tensor) -> Tensor:
    """[8, taps]."""
    return _powers(n_taps, like) * torch.tensor(FILTER_SCALES, dtype=like.dtype, device=like.device)[:, None]


class MatrixConvolution(torch.autograd.Function):
    """Convolution as one matrix product with the unfolded input (im2col)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
        n_out, n_in, n_taps = weight.shape
        padded = F.pad(x, (padding, padding))
        columns = padded.unfold(2, n_taps, stride)  # [C, M, L', K]
        n_items, length = columns.shape[1:3]
        columns = columns.permute(0, 3, 1, 2).reshape(n_in * n_taps, -1)  # [C K, M L']
        matrix = weight.reshape(n_out, -1)
        ctx.save_for_backward(columns if ctx.needs_input_grad[1] else None, matrix)
        ctx.shapes = (padded.shape, weight.shape, stride, padding)
        y = x.new_empty(n_out, n_items, length)  # its own tensor: activations change it in place
        torch.addmm(bias[:, None], matrix, columns, out=y.view(n_out, -1))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        columns, matrix = ctx.saved_tensors
        padded_shape, (n_out, n_in, n_taps), stride, padding = ctx.shapes
        n_items, length = grad.shape[1:]
        flat = grad.reshape(n_out, -1)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            parts = (matrix.t() @ flat).view(n_in, n_taps, n_items, length)
            grad_x = grad.new_zeros(padded_shape)
            for tap in range(n_taps):
                grad_x[..., tap : tap + stride * length : stride] += parts[:, tap]
            grad_x = grad_x[..., padding : padded_shape[2] - padding]
        if ctx.needs_input_grad[1]:
            grad_weight = (flat @ columns.t()).view(n_out, n_in, n_taps)
        grad_bias = flat.sum(1) if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias, None, None
