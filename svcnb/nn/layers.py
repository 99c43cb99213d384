"""Blocks shared by all three families: noise, masks, f0 scales, WaveNet stack, coupling flow, posterior.

Attribute names (`in_layers`, `flows`, `gamma` ...) are those of the families' checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from svcnb.nn.convolutions import Conv1d

N_COARSE_BINS = 256
COARSE_F0_MIN_HZ, COARSE_F0_MAX_HZ = 50.0, 1100.0
MEL_MIN, MEL_MAX = 77.75496616579426, 1064.4082331636394  # 1127 ln(1 + f0 / 700) at the two ends


class Noise:
    """Source of a network's random numbers.

    Without a generator the draws use torch's default generator on the tensor's device. With one, they are made on
    the generator's device and then moved: a CPU generator gives the same numbers for a network on any device,
    and `Noise(torch.Generator().manual_seed(n))` gives those of `torch.manual_seed(n)` on the CPU.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def normal(self, shape: tuple[int, ...], *, like: Tensor) -> Tensor:
        """Standard normal of `shape`, on the device and in the dtype of `like`; drawn in float32."""
        return self._draw(torch.randn, shape, like)

    def uniform(self, shape: tuple[int, ...], *, like: Tensor) -> Tensor:
        """Uniform in [0, 1) of `shape`: start phases of the harmonics."""
        return self._draw(torch.rand, shape, like)

    def segment_uniform(self, n_items: int, *, like: Tensor) -> Tensor:
        """Uniform in [0, 1), [n_items]: where each item's training segment starts, as a ratio."""
        return self._draw(torch.rand, (n_items,), like)

    def pitch_factor(self, n_items: int, *, like: Tensor) -> Tensor:
        """Uniform in [0.8, 1.2), [n_items, 1]: random scale of the centered log f0 in training."""
        return 0.8 + 0.4 * self._draw(torch.rand, (n_items, 1), like)

    def _draw(self, draw: Callable[..., Tensor], shape: tuple[int, ...], like: Tensor) -> Tensor:
        device = like.device if self.generator is None else self.generator.device
        drawn = draw(shape, generator=self.generator, device=device, dtype=torch.float32)
        return drawn.to(like.device, like.dtype)


def full_precision(device: torch.device) -> torch.autocast:
    """Context that switches autocast off: operations inside keep the dtype of their inputs."""
    return torch.autocast(device.type, enabled=False)


def fold_weight_norm(module: nn.Module) -> nn.Module:
    """Replace every parametrised weight by its value, in place, for inference; returns the module."""
    for part in list(module.modules()):
        if parametrize.is_parametrized(part, "weight"):
            parametrize.remove_parametrizations(part, "weight", leave_parametrized=True)
    return module


# ---------------------------------------------------------------- masks and segments


def sequence_mask(lengths: Tensor, n_frames: int) -> Tensor:
    """Float mask [B, 1, N]: 1 where the frame's position is below the item's length."""
    positions = torch.arange(n_frames, device=lengths.device)
    return (positions < lengths[:, None]).unsqueeze(1).float()


def random_starts(lengths: Tensor, segment_frames: int, noise: Noise) -> Tensor:
    """First frame of one random segment per item, long [B]; 0 for items shorter than the segment."""
    ratio = noise.segment_uniform(len(lengths), like=torch.empty((), device=lengths.device))
    return (ratio * (lengths - segment_frames + 1).clamp(min=1)).long()


def slice_segments(x: Tensor, starts: Tensor, n: int) -> Tensor:
    """Cut `n` steps from every item at its own start.

    Args:
        x: [B, C, N].
        starts: long [B], 0 <= start <= N - n.
        n: length of the segment in steps of the last dimension.

    Returns:
        [B, C, n].

    Raises:
        ValueError: x has fewer than n steps.
    """
    if x.shape[-1] < n:
        raise ValueError(f"{x.shape[-1]} steps are shorter than one segment of {n}: use longer clips")
    index = starts[:, None, None] + torch.arange(n, device=x.device)  # [B, 1, n]
    return x.gather(2, index.expand(-1, x.shape[1], -1))


# ---------------------------------------------------------------- f0 scales


def f0_to_coarse(f0_hz: Tensor, *, version: str = "4.1") -> Tensor:
    """Bin of each f0 on a 256-bin mel scale from 50 to 1100 Hz; unvoiced (0 Hz) is bin 1.

    Args:
        f0_hz: float, any shape, 0 = unvoiced.
        version: "4.1" puts everything above 1103 Hz into bin 0, whose embedding is never trained (the
            original's upper clamp has no effect); kept because its checkpoints were used that way. "4.0"
            clips to bin 255.

    Returns:
        long, same shape, 0..255.

    Source: so-vits-svc 4.0 and 4.1, f0_to_coarse.
    """
    if version not in ("4.0", "4.1"):
        raise ValueError(f"version {version!r}: expected '4.0' or '4.1'")
    slope = (N_COARSE_BINS - 2) / (MEL_MAX - MEL_MIN)
    offset = MEL_MIN * slope - 1.0
    mel = 1127.0 * (1.0 + f0_hz.float() / 700.0).log()
    scaled = torch.where(mel > 0, mel * slope - offset, mel)
    if version == "4.0":
        return (scaled.clamp(1, N_COARSE_BINS - 1) + 0.5).floor().long()
    coarse = scaled.round().long().clamp(min=1)
    return torch.where(coarse >= N_COARSE_BINS, 0, coarse)


def f0_to_log(f0_hz: Tensor) -> Tensor:
    """Mel-like log scale, about 0.3 at 100 Hz and 1 at 400 Hz; 0 stays 0."""
    return 2595.0 * torch.log10(1.0 + f0_hz.float() / 700.0) / 500.0


def log_to_f0(log_f0: Tensor) -> Tensor:
    """Inverse of `f0_to_log`, in Hz and float32."""
    return 700.0 * (torch.pow(10.0, log_f0.float() * 500.0 / 2595.0) - 1.0)


def center_log_f0(log_f0: Tensor, voiced: Tensor, mask: Tensor, *, factor: Tensor | float = 1.0) -> Tensor:
    """Log f0 without the item's voiced mean, times `factor`; 0 mean for an item without a voiced frame.

    Args:
        log_f0: [B, 1, N].
        voiced: [B, N], 1 = voiced.
        mask: [B, 1, N].
        factor: [B, 1] or a number.

    Returns:
        [B, 1, N], 0 outside the mask.

    Source: so-vits-svc 4.1, normalize_f0 (which exits on NaN; here the check of the loss finds it).
    """
    voiced = voiced.to(log_f0.dtype).unsqueeze(1)  # [B, 1, N]
    n_voiced = voiced.sum(-1, keepdim=True)
    n_voiced = torch.where(n_voiced == 0, 9999.0, n_voiced)
    mean = (log_f0 * voiced).sum(-1, keepdim=True) / n_voiced  # [B, 1, 1]
    if isinstance(factor, Tensor):
        factor = factor.unsqueeze(-1)
    return (log_f0 - mean) * factor * mask


# ---------------------------------------------------------------- convolution stacks


class LayerNorm(nn.Module):
    """Layer normalisation over the channels of [B, C, N], with the parameter names of VITS."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, -1)  # [B, N, C]
        return F.layer_norm(x, (self.channels,), self.gamma, self.beta, self.eps).transpose(1, -1)


class DepthwiseConv1d(nn.Module):
    """Depthwise-separable convolution, both parts weight-normed: a cheaper alternative to a dense one."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, dilation: int, padding: int
    ) -> None:
        super().__init__()
        depth = nn.Conv1d(
            in_channels, in_channels, kernel_size, dilation=dilation, padding=padding, groups=in_channels
        )
        self.depth_conv = weight_norm(depth)
        self.point_conv = weight_norm(nn.Conv1d(in_channels, out_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.point_conv(self.depth_conv(x))


def drop_out(x: Tensor, p_dropout: float, training: bool) -> Tensor:
    """Dropout; on a CPU with 16 random bits per value (p in steps of 1 / 65536), much faster than torch's."""
    if not training or p_dropout == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p_dropout, training)
    n_dropped = round(p_dropout * 65536)  # of the 65536 values of an int16
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    kept = (bits >= n_dropped - 32768).to(x.dtype)
    return x * kept.mul_(65536 / max(1, 65536 - n_dropped))


def gate(x: Tensor) -> Tensor:
    """tanh of the first half of the channels times sigmoid of the second: [B, 2C, N] -> [B, C, N]."""
    a, b = x.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)


class WN(nn.Module):
    """WaveNet: gated residual convolution stack, conditioned on a speaker vector.

    Args:
        hidden_channels: width, C.
        kernel_size: odd.
        n_layers: depth.
        gin_channels: width of the conditioning vector; 0 = none.
        dilation_rate: layer i has dilation dilation_rate ** i.
        depthwise: depthwise-separable instead of dense input convolutions.

    Source: WaveNet / WaveGlow / VITS; so-vits-svc 4.1 for `depthwise`.
    """

    def __init__(
        self,
        hidden_channels: int,
        kernel_size: int,
        *,
        n_layers: int,
        gin_channels: int = 0,
        dilation_rate: int = 1,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        self.hidden_channels = hidden_channels
        self.in_layers = nn.ModuleList()
        self.res_skip_layers = nn.ModuleList()
        for i in range(n_layers):
            dilation = dilation_rate**i
            sizes = (hidden_channels, 2 * hidden_channels, kernel_size)
            geometry = {"dilation": dilation, "padding": (kernel_size - 1) * dilation // 2}
            if depthwise:
                self.in_layers.append(DepthwiseConv1d(*sizes, **geometry))
            else:
                self.in_layers.append(weight_norm(Conv1d(*sizes, **geometry)))
            n_out = 2 * hidden_channels if i < n_layers - 1 else hidden_channels
            self.res_skip_layers.append(weight_norm(nn.Conv1d(hidden_channels, n_out, 1)))
        if gin_channels:
            self.cond_layer = weight_norm(Conv1d(gin_channels, 2 * hidden_channels * n_layers, 1))

    def forward(self, x: Tensor, mask: Tensor, g: Tensor | None = None) -> Tensor:
        """x [B, C, N], mask [B, 1, N], g [B, gin, 1 or N] -> [B, C, N]."""
        conditions = None if g is None else self.cond_layer(g).chunk(len(self.in_layers), dim=1)
        skipped = None
        for i, (in_layer, res_skip_layer) in enumerate(
            zip(self.in_layers, self.res_skip_layers, strict=True)
        ):
            a = in_layer(x)  # [B, 2C, N]
            if conditions is not None:
                a = a + conditions[i]
            a = res_skip_layer(gate(a))
            if i < len(self.in_layers) - 1:
                residual, a = a.chunk(2, dim=1)
                x = (x + residual) * mask
            skipped = a if skipped is None else skipped + a
        return skipped * mask


# ---------------------------------------------------------------- flow and posterior


class CouplingLayer(nn.Module):
    """Shift one half of the channels by a function of the other half and the speaker; volume preserving.

    Source: VITS, residual coupling with mean only.
    """

    def __init__(self, channels: int, hidden_channels: int, enc: nn.Module) -> None:
        super().__init__()
        self.pre = nn.Conv1d(channels // 2, hidden_channels, 1)
        self.enc = enc
        self.post = nn.Conv1d(hidden_channels, channels // 2, 1)
        nn.init.zeros_(self.post.weight)  # the untrained flow is the identity
        nn.init.zeros_(self.post.bias)

    def forward(self, x: Tensor, mask: Tensor, g: Tensor | None, *, reverse: bool) -> Tensor:
        kept, moved = x.chunk(2, dim=1)
        shift = self.post(self.enc(self.pre(kept) * mask, mask, g)) * mask
        moved = (moved - shift) * mask if reverse else shift + moved * mask
        return torch.cat([kept, moved], dim=1)


class Flip(nn.Module):
    """Reverse the channel order, so that the next coupling transforms the other half."""

    def forward(self, x: Tensor, mask: Tensor, g: Tensor | None, *, reverse: bool) -> Tensor:
        return x.flip(1)


class CouplingFlow(nn.Module):
    """Invertible map between posterior and prior latents: couplings, each followed by a flip.

    Args:
        channels: of the latents, even.
        hidden_channels: width inside the couplings.
        make_encoder: builds the network of one coupling, called as encoder(h, mask, g).
        n_couplings: number of couplings.
        shared: all couplings use one encoder, `wn`; the state dict lists it once more per coupling.

    Source: VITS; so-vits-svc 4.1 for `shared` (its config key flow_share_parameter).
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int,
        make_encoder: Callable[[], nn.Module],
        *,
        n_couplings: int = 4,
        shared: bool = False,
    ) -> None:
        super().__init__()
        self.flows = nn.ModuleList()
        if shared:
            self.wn = make_encoder()
        for _ in range(n_couplings):
            encoder = self.wn if shared else make_encoder()
            self.flows.append(CouplingLayer(channels, hidden_channels, encoder))
            self.flows.append(Flip())

    def forward(self, x: Tensor, mask: Tensor, g: Tensor | None = None, *, reverse: bool = False) -> Tensor:
        """[B, C, N] -> [B, C, N]: posterior z to prior z_p, or z_p to z with reverse=True."""
        for flow in reversed(self.flows) if reverse else self.flows:
            x = flow(x, mask, g, reverse=reverse)
        return x


class PosteriorEncoder(nn.Module):
    """Linear spectrogram -> mean and log standard deviation of the latents. Needed in training only."""

    def __init__(
        self,
        spec_channels: int,
        out_channels: int,
        hidden_channels: int,
        *,
        gin_channels: int,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        self.pre = nn.Conv1d(spec_channels, hidden_channels, 1)
        self.enc = WN(hidden_channels, 5, n_layers=16, gin_channels=gin_channels, depthwise=depthwise)
        self.proj = nn.Conv1d(hidden_channels, 2 * out_channels, 1)

    def forward(self, spec: Tensor, mask: Tensor, g: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """spec [B, F, N] -> (m, logs), each [B, C, N]."""
        hidden = self.enc(self.pre(spec) * mask, mask, g)
        return (self.proj(hidden) * mask).chunk(2, dim=1)


def sample_latents(
    m: Tensor, logs: Tensor, mask: Tensor, noise: Noise, *, noise_scale: float = 1.0
) -> Tensor:
    """Sample N(m, (exp(logs) * noise_scale)^2), 0 outside the mask."""
    drawn = noise.normal(tuple(m.shape), like=m)
    return (m + drawn * torch.exp(logs) * noise_scale) * mask
