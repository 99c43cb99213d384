"""Waveform discriminators for adversarial training: multi-scale and multi-period."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from svcnb.nn.convolutions import Conv1d, convolve, suits_products

Norm = Callable[[nn.Module], nn.Module]


def run_convs(convs: nn.ModuleList, conv_post: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Scores [B, n] and the output of every convolution (after its activation, except the last)."""
    maps = []
    for conv in convs:
        x = F.leaky_relu(conv(x), 0.1, inplace=True)
        maps.append(x)
    x = conv_post(x)
    return x.flatten(1), [*maps, x]


class ScaleDiscriminator(nn.Module):
    """Strided grouped convolutions on the waveform. Source: MelGAN / HiFi-GAN, one scale."""

    def __init__(self, norm: Norm = weight_norm) -> None:
        super().__init__()
        # in, out, kernel, stride, groups, padding
        table = (
            (1, 16, 15, 1, 1, 7),
            (16, 64, 41, 4, 4, 20),
            (64, 256, 41, 4, 16, 20),
            (256, 1024, 41, 4, 64, 20),
            (1024, 1024, 41, 4, 256, 20),
            (1024, 1024, 5, 1, 1, 2),
        )
        self.convs = nn.ModuleList(
            norm((Conv1d if groups == 1 else nn.Conv1d)(n_in, n_out, kernel, stride, padding, groups=groups))
            for n_in, n_out, kernel, stride, groups, padding in table
        )
        self.conv_post = norm(nn.Conv1d(1024, 1, 3, padding=1))

    def forward(self, waveform: Tensor) -> tuple[Tensor, list[Tensor]]:
        """waveform [B, 1, T] -> scores [B, n], 7 feature maps [B, C, n]."""
        return run_convs(self.convs, self.conv_post, waveform)


class PeriodDiscriminator(nn.Module):
    """Convolutions along every `period`-th sample. Source: HiFi-GAN."""

    def __init__(self, period: int, norm: Norm = weight_norm) -> None:
        super().__init__()
        self.period = period
        widths = (1, 32, 128, 512, 1024, 1024)
        strides = (3, 3, 3, 3, 1)
        self.convs = nn.ModuleList(
            norm(nn.Conv2d(n_in, n_out, (5, 1), (stride, 1), padding=(2, 0)))
            for n_in, n_out, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.conv_post = norm(nn.Conv2d(1024, 1, (3, 1), padding=(1, 0)))

    def forward(self, waveform: Tensor) -> tuple[Tensor, list[Tensor]]:
        """waveform [B, 1, T] -> scores [B, n], 6 feature maps [B, C, n, period]."""
        missing = -waveform.shape[-1] % self.period
        folded = F.pad(waveform, (0, missing), mode="reflect").unflatten(
            -1, (-1, self.period)
        )  # [B, 1, T / p, p]
        if suits_products(folded):
            return self._run_as_products(folded)
        return run_convs(self.convs, self.conv_post, folded)

    def _run_as_products(self, folded: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The same with every phase of the period as its own sequence: the input becomes [1, B p, T / p]."""
        x = folded.permute(1, 0, 3, 2).flatten(1, 2)
        maps = []
        for conv in [*self.convs, self.conv_post]:
            x = convolve(x, conv.weight.squeeze(3), conv.bias, stride=conv.stride[0], padding=conv.padding[0])
            if conv is not self.conv_post:
                x = F.leaky_relu(x, 0.1, inplace=True)
            maps.append(x.unflatten(1, (-1, self.period)).permute(1, 0, 3, 2))  # [B, C, n, p]
        return maps[-1].flatten(1), maps


class MultiPeriodDiscriminator(nn.Module):
    """One scale discriminator and one per period, all on the same waveform.

    Args:
        use_spectral_norm: instead of weight norm.
        periods: in samples; 2, 3, 5, 7, 11 in so-vits-svc and GPT-SoVITS, RVC adds 17 (v1) and 23, 37 (v2).
        n_coarser_scales: more scale discriminators, on the waveform average-pooled by 2, 4 ... (HiFi-GAN: 2).
    """

    def __init__(
        self,
        use_spectral_norm: bool = False,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        *,
        n_coarser_scales: int = 0,
    ) -> None:
        super().__init__()
        norm = spectral_norm if use_spectral_norm else weight_norm
        parts = [ScaleDiscriminator(norm), *(PeriodDiscriminator(period, norm) for period in periods)]
        self.discriminators = nn.ModuleList(parts)
        if n_coarser_scales:
            self.coarser = nn.ModuleList(ScaleDiscriminator(norm) for _ in range(n_coarser_scales))

    def forward(self, waveform: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """waveform [B, 1, T] -> one tensor of scores and one list of feature maps per sub-discriminator."""
        outputs = [part(waveform) for part in self.discriminators]
        for part in getattr(self, "coarser", ()):
            waveform = F.avg_pool1d(waveform, 4, stride=2, padding=2)  # [B, 1, T / 2 + 1]
            outputs.append(part(waveform))
        scores, maps = zip(*outputs, strict=True)
        return list(scores), list(maps)
