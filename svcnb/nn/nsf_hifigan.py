"""Latents (or mel) and f0 to waveform: HiFi-GAN with a neural source filter (NSF).

The families and the mel vocoder differ by keyword arguments only; `NsfGenerator` without a source is plain HiFi-GAN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from svcnb.nn.convolutions import Conv1d
from svcnb.nn.layers import Noise, full_precision

SINE_AMPLITUDE = 0.1
VOICED_NOISE, UNVOICED_NOISE = 0.003, 0.1 / 3  # standard deviations


# ---------------------------------------------------------------- source


class HarmonicSource(nn.Module):
    """Source excitation: sines at the multiples of f0 plus noise (weak where voiced, strong where unvoiced).

    Args:
        sampling_rate_hz: of the waveform.
        n_harmonics: sines, the fundamental included.
        accumulate: "sample" sums the phase sample by sample in `phase_dtype` (so-vits-svc); "frame" finds the
            wraps from phases summed per frame, the sines in float64 (the NSF-HiFiGAN vocoder).
        unused_draw: draw one more noise tensor that is not used, as so-vits-svc does, for
            the same random stream.

    Source: neural source-filter models (Wang et al. 2019) as in so-vits-svc 4.1 and openvpi's NSF-HiFiGAN.
    """

    def __init__(
        self,
        sampling_rate_hz: int,
        *,
        n_harmonics: int = 9,
        accumulate: str = "sample",
        unused_draw: bool = False,
    ) -> None:
        super().__init__()
        if accumulate not in ("sample", "frame"):
            raise ValueError(f"accumulate {accumulate!r}: expected 'sample' or 'frame'")
        self.sampling_rate_hz, self.n_harmonics = sampling_rate_hz, n_harmonics
        self.accumulate, self.unused_draw = accumulate, unused_draw
        # float32 changes the waveform by up to 6e-4 (rounding of the running sum); float64 measures that.
        self.phase_dtype = torch.float32
        self.l_linear = nn.Linear(n_harmonics, 1)

    def forward(self, f0: Tensor, hop_samples: int, noise: Noise) -> Tensor:
        """f0 [B, N] in Hz (0 = unvoiced) -> source [B, 1, N * hop_samples], float32 unless the weights are not."""
        with full_precision(f0.device):
            sines = self.sines(f0, hop_samples, noise)
            merged = torch.tanh(self.l_linear(sines.to(self.l_linear.weight.dtype)))  # [B, T, 1]
            if self.unused_draw:
                noise.normal(tuple(merged.shape), like=merged)
            return merged.transpose(1, 2)

    @torch.no_grad()
    def sines(self, f0: Tensor, hop_samples: int, noise: Noise) -> Tensor:
        """Sines and noise before the learned mix: float32 [B, N * hop_samples, n_harmonics]."""
        f0 = f0.float().unsqueeze(-1)  # [B, N, 1]
        voiced = (f0 > 0).float().repeat_interleave(hop_samples, dim=1)  # [B, T, 1]
        multiples = torch.arange(1, self.n_harmonics + 1, device=f0.device, dtype=torch.float32)
        cycles = (f0 * multiples / self.sampling_rate_hz) % 1  # cycles per sample, [B, N, H]
        start = noise.uniform((f0.shape[0], self.n_harmonics), like=f0)
        start[:, 0] = 0
        if self.accumulate == "sample":
            phase = self._phase_per_sample(cycles, start, hop_samples)
        else:
            phase = self._phase_per_frame(cycles, start, hop_samples)
        sines = torch.sin(2 * math.pi * phase).float() * SINE_AMPLITUDE
        deviation = voiced * VOICED_NOISE + (1 - voiced) * UNVOICED_NOISE
        return sines.mul_(voiced).addcmul_(deviation, noise.normal(tuple(sines.shape), like=sines))

    def _phase_per_sample(self, cycles: Tensor, start: Tensor, hop_samples: int) -> Tensor:
        cycles = cycles.repeat_interleave(hop_samples, dim=1).to(self.phase_dtype)  # [B, T, H]
        cycles[:, 0] += start
        wrapped = cycles.cumsum(1) % 1
        cycles[:, 1:] -= (wrapped[:, 1:] < wrapped[:, :-1]).to(cycles.dtype)  # so the running sum stays small
        return cycles.cumsum(1)

    def _phase_per_frame(self, cycles: Tensor, start: Tensor, hop_samples: int) -> Tensor:
        cycles = cycles.clone()
        cycles[:, 0] += start
        ends = cycles.double().cumsum(1).float() * hop_samples  # phase at the end of each frame
        ends = ends.transpose(1, 2)  # [B, H, N]
        between = F.interpolate(ends, scale_factor=float(hop_samples), mode="linear", align_corners=True)
        wrapped = between.transpose(1, 2) % 1  # [B, T, H]
        cycles = cycles.repeat_interleave(hop_samples, dim=1).double()
        cycles[:, 1:] -= (wrapped[:, 1:] < wrapped[:, :-1]).double()
        return cycles.cumsum(1)


# ---------------------------------------------------------------- activations


class SnakeBeta(nn.Module):
    """x + sin^2(a x) / b with one learned a and b per channel, stored as logarithms. Source: BigVGAN."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        frequency = self.alpha.exp().unsqueeze(-1)  # [C, 1]
        return x + torch.sin(x * frequency) ** 2 / (self.beta.exp().unsqueeze(-1) + 1e-9)


def halfband_filter() -> Tensor:
    """Kaiser-windowed sinc at a quarter of the rate, 12 taps, unit sum: float32 [1, 1, 12]."""
    n_taps, cutoff, kaiser_beta = 12, 0.25, 4.663800
    window = torch.kaiser_window(n_taps, periodic=False, beta=kaiser_beta)
    positions = torch.arange(-n_taps // 2, n_taps // 2) + 0.5
    taps = 2 * cutoff * window * torch.sinc(2 * cutoff * positions)
    return (taps / taps.sum()).view(1, 1, n_taps)


class _HalfBand(nn.Module):
    """A half-band filter that is the same for every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", halfband_filter())

    def taps(self, x: Tensor) -> Tensor:
        return self.filter.to(x.dtype).expand(x.shape[1], -1, -1)


class UpsampleTwice(_HalfBand):
    """Twice as many samples, band-limited: [B, C, T] -> [B, C, 2 T]."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv_transpose1d(F.pad(x, (5, 5), mode="replicate"), self.taps(x), stride=2, groups=x.shape[1])
        return 2 * x[..., 15:-15]


class LowPass(_HalfBand):
    """Half as many samples, band-limited: [B, C, 2 T] -> [B, C, T]."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(F.pad(x, (5, 6), mode="replicate"), self.taps(x), stride=2, groups=x.shape[1])


class HalveSamples(nn.Module):
    """Wrapper that gives the low-pass filter its checkpoint name."""

    def __init__(self) -> None:
        super().__init__()
        self.lowpass = LowPass()

    def forward(self, x: Tensor) -> Tensor:
        return self.lowpass(x)


class AliasFreeSnake(nn.Module):
    """SnakeBeta at twice the sample rate, against aliasing of the harmonics it creates. Source: BigVGAN."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act = SnakeBeta(channels)
        self.upsample = UpsampleTwice()
        self.downsample = HalveSamples()

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.act(self.upsample(x)))


def make_activation(channels: int, *, snake: bool, slope: float = 0.1, inplace: bool = False) -> nn.Module:
    """Activation before a convolution; in place only where nothing else reads the input."""
    return AliasFreeSnake(channels) if snake else nn.LeakyReLU(slope, inplace=inplace)


# ---------------------------------------------------------------- generator


def dilated_conv(channels: int, kernel_size: int, dilation: int) -> nn.Module:
    padding = (kernel_size - 1) * dilation // 2
    return weight_norm(nn.Conv1d(channels, channels, kernel_size, dilation=dilation, padding=padding))


class ResBlock1(nn.Module):
    """Per dilation: activation, dilated convolution, activation, plain convolution, residual. Source: HiFi-GAN."""

    def __init__(
        self, channels: int, kernel_size: int, dilations: Sequence[int], *, snake: bool = False
    ) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(dilated_conv(channels, kernel_size, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(dilated_conv(channels, kernel_size, 1) for _ in dilations)
        self.activations = nn.ModuleList(
            make_activation(channels, snake=snake, inplace=i % 2 == 1) for i in range(2 * len(dilations))
        )

    def forward(self, x: Tensor) -> Tensor:
        before, between = self.activations[::2], self.activations[1::2]
        for conv_1, conv_2, act_1, act_2 in zip(self.convs1, self.convs2, before, between, strict=True):
            x = conv_2(act_2(conv_1(act_1(x)))).add_(x)  # in place: allocating waveform-sized tensors is slow
        return x


class ResBlock2(nn.Module):
    """Per dilation: activation, dilated convolution, residual. Source: HiFi-GAN."""

    def __init__(
        self, channels: int, kernel_size: int, dilations: Sequence[int], *, snake: bool = False
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(dilated_conv(channels, kernel_size, dilation) for dilation in dilations)
        self.activations = nn.ModuleList(make_activation(channels, snake=snake) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for conv, activation in zip(self.convs, self.activations, strict=True):
            x = conv(activation(x)).add_(x)
        return x


@dataclass(frozen=True)
class GeneratorSettings:
    """Sizes of a HiFi-GAN generator, under the families' own config keys, and its variants.

    Args:
        resblock: "1" has two convolutions per dilation, anything else one.
        resblock_dilation_sizes: one list of dilations per entry of resblock_kernel_sizes.
        upsample_rates: their product is the hop in samples.
        upsample_initial_channel: width after the first convolution, halved by every upsampling.
        snake: anti-aliased snake activations instead of leaky ReLU.
        plain_ends: first and last convolution without weight norm and the last without bias (RVC).
    """

    resblock: str = "1"
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3
    upsample_rates: tuple[int, ...] = (8, 8, 2, 2, 2)
    upsample_kernel_sizes: tuple[int, ...] = (16, 16, 4, 4, 4)
    upsample_initial_channel: int = 512
    snake: bool = False
    plain_ends: bool = False

    def __post_init__(self) -> None:
        pairs = list(zip(self.upsample_kernel_sizes, self.upsample_rates, strict=True))
        if any((kernel_size - rate) % 2 or kernel_size < rate for kernel_size, rate in pairs):
            raise ValueError(
                f"(upsample kernel, rate) {pairs}: each kernel must be its rate plus an even number"
            )

    @property
    def hop_samples(self) -> int:
        return math.prod(self.upsample_rates)


class NsfGenerator(nn.Module):
    """HiFi-GAN generator; every stage adds the downsampled source excitation.

    Args:
        in_channels: of the latents or the mel.
        settings: sizes and variants.
        source: None = plain HiFi-GAN; f0 is ignored.
        gin_channels: width of the speaker vector; 0 = none.

    Source: HiFi-GAN (Kong et al. 2020) with NSF as in so-vits-svc 4.1. The original initialises these
    convolutions with N(0, 0.01), but weight norm overwrites the value: they start from torch's
    default, here too.
    """

    def __init__(
        self,
        in_channels: int,
        settings: GeneratorSettings,
        *,
        source: HarmonicSource | None = None,
        gin_channels: int = 0,
    ) -> None:
        super().__init__()
        self.hop_samples = settings.hop_samples
        snake, first = settings.snake, settings.upsample_initial_channel
        widths = [first // 2**i for i in range(len(settings.upsample_rates) + 1)]
        self.m_source = source
        if source is not None:
            self.noise_convs = nn.ModuleList(self._source_convs(settings.upsample_rates, widths[1:]))
        self.conv_pre = nn.Conv1d(in_channels, first, 7, padding=3)
        self.ups = nn.ModuleList(
            weight_norm(nn.ConvTranspose1d(n_in, n_out, kernel_size, rate, padding=(kernel_size - rate) // 2))
            for n_in, n_out, kernel_size, rate in zip(
                widths[:-1], widths[1:], settings.upsample_kernel_sizes, settings.upsample_rates, strict=True
            )
        )
        self.n_blocks_per_stage = len(settings.resblock_kernel_sizes)
        block = ResBlock1 if settings.resblock == "1" else ResBlock2
        self.resblocks = nn.ModuleList(
            block(width, kernel_size, dilations, snake=snake)
            for width in widths[1:]
            for kernel_size, dilations in zip(
                settings.resblock_kernel_sizes, settings.resblock_dilation_sizes, strict=True
            )
        )
        # The checkpoints' names; these are leaky ReLUs (no parameters) when snake is off.
        self.snakes = nn.ModuleList(
            make_activation(width, snake=snake, inplace=True) for width in widths[:-1]
        )
        # Slope 0.01 (torch's default) here, unlike everywhere else: an oversight in the original that its
        # weights rely on.
        self.snake_post = make_activation(widths[-1], snake=snake, slope=0.01, inplace=True)
        self.conv_post = nn.Conv1d(widths[-1], 1, 7, padding=3, bias=not settings.plain_ends)
        if not settings.plain_ends:
            weight_norm(self.conv_pre)
            weight_norm(self.conv_post)
        if gin_channels:
            self.cond = Conv1d(gin_channels, first, 1)

    @staticmethod
    def _source_convs(rates: Sequence[int], widths: Sequence[int]) -> list[nn.Conv1d]:
        """One convolution per stage that downsamples the source to the stage's rate."""
        strides = [math.prod(rates[i + 1 :]) for i in range(len(rates))]
        return [
            nn.Conv1d(1, width, 2 * stride, stride, padding=(stride + 1) // 2)
            if stride > 1
            else nn.Conv1d(1, width, 1)
            for stride, width in zip(strides, widths, strict=True)
        ]

    def forward(
        self, z: Tensor, f0: Tensor, g: Tensor | None = None, *, noise: Noise | None = None
    ) -> Tensor:
        """Synthesize a waveform from latents.

        Args:
            z: [B, C, N].
            f0: [B, N] in Hz, 0 = unvoiced.
            g: speaker vector [B, gin, 1], or one per frame [B, gin, N].
            noise: random numbers of the source.

        Returns:
            [B, 1, N * hop_samples] in -1..1.
        """
        source = None if self.m_source is None else self.m_source(f0, self.hop_samples, noise or Noise())
        x = self.conv_pre(z)
        if g is not None:
            x = x + self.cond(g)
        for i, (activate, upsample) in enumerate(zip(self.snakes, self.ups, strict=True)):
            x = upsample(activate(x))  # [B, C / 2, N * rate]
            if source is not None:
                x.add_(self.noise_convs[i](source))
            x = self._mean_of_blocks(x, i * self.n_blocks_per_stage)
        return torch.tanh(self.conv_post(self.snake_post(x)))

    def _mean_of_blocks(self, x: Tensor, first: int) -> Tensor:
        total = self.resblocks[first](x)
        for block in self.resblocks[first + 1 : first + self.n_blocks_per_stage]:
            total.add_(block(x))
        return total.div_(self.n_blocks_per_stage)
