"""RMVPE: a U-Net with a recurrent head that maps a log-mel spectrogram to pitch salience."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

N_MELS = 128
N_PITCH_BINS = 360
CENTS_PER_BIN = 20.0
FIRST_BIN_CENTS = 1997.3794084376191  # 31.7 Hz, in cents above 10 Hz
PAD_FRAMES = 32  # the published network halves the time axis five times
GRU_WIDTH = 256


@dataclass(frozen=True)
class RmvpeLayout:
    """Sizes of the network, read from its state dict.

    `skip_filter` is the role of unet.tf: "unused" (so-vits-svc's file: in the weights, not in the
    computation), "used" or "absent".
    """

    n_blocks: int = 4
    n_gru: int = 1
    en_de_layers: int = 5
    inter_layers: int = 4
    en_out_channels: int = 16
    skip_filter: str = "unused"

    @classmethod
    def of(cls, state: Mapping[str, Tensor], *, wrapped: bool) -> RmvpeLayout:
        """Read the sizes from a state dict.

        Args:
            state: names as in the published file ("unet.encoder.layers.0...").
            wrapped: True for {"model": state} (so-vits-svc), False for the bare dict that RVC distributes,
                whose network runs the skip filters if the file has them.
        """
        first_block = "unet.encoder.layers.0.conv.{}.conv.0.weight"
        skip_filter = "unused" if wrapped else "used"
        return cls(
            n_blocks=_count(state, first_block),
            n_gru=_count(state, "fc.0.gru.weight_ih_l{}"),
            en_de_layers=_count(state, "unet.encoder.layers.{}.conv.0.conv.0.weight"),
            inter_layers=_count(state, "unet.intermediate.layers.{}.conv.0.conv.0.weight"),
            en_out_channels=state[first_block.format(0)].shape[0],
            skip_filter=skip_filter if "unet.tf.layers.0.conv.0.weight" in state else "absent",
        )


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    n = 0
    while pattern.format(n) in state:
        n += 1
    return n


class Rmvpe(nn.Module):
    """Log-mel [B, M, N] -> salience [B, N, 360] in 0..1; 360 bins of 20 cents from 31.7 Hz.

    Source: RMVPE (Wei et al. 2023) as so-vits-svc 4.1 runs it; attribute names are the checkpoint's.
    """

    def __init__(self, layout: RmvpeLayout | None = None) -> None:
        super().__init__()
        layout = layout or RmvpeLayout()
        self.unet = Unet(layout)
        self.cnn = nn.Conv2d(layout.en_out_channels, 3, 3, padding=1)
        self.fc = nn.Sequential(
            BidirectionalGru(3 * N_MELS, GRU_WIDTH, layout.n_gru),
            nn.Linear(2 * GRU_WIDTH, N_PITCH_BINS),
            nn.Dropout(0.25),
            nn.Sigmoid(),
        )

    def forward(self, mel: Tensor) -> Tensor:
        n_frames = mel.shape[-1]
        # zeros in the log domain as in the original, which is not silence
        padded = F.pad(mel, (0, -n_frames % PAD_FRAMES))
        x = padded.transpose(1, 2).unsqueeze(1)  # [B, 1, N, M]
        x = self.cnn(self.unet(x))  # [B, 3, N, M]
        x = x.transpose(1, 2).flatten(2)  # [B, N, 3 * M]
        return self.fc(x)[:, :n_frames]


class Unet(nn.Module):
    def __init__(self, layout: RmvpeLayout) -> None:
        super().__init__()
        widths = [layout.en_out_channels * 2**i for i in range(layout.en_de_layers)]
        self.runs_skip_filter = layout.skip_filter == "used"
        self.encoder = Encoder(widths, layout.n_blocks)
        self.intermediate = Intermediate(widths[-1], layout.inter_layers, layout.n_blocks)
        if layout.skip_filter != "absent":
            self.tf = SkipFilter(widths)
        self.decoder = Decoder(widths, layout.n_blocks)

    def forward(self, x: Tensor) -> Tensor:
        x, skips = self.encoder(x)
        x = self.intermediate(x)
        if self.runs_skip_filter:
            skips = self.tf(skips)
        return self.decoder(x, skips)


class ResidualBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(n_out, momentum=0.01),
            nn.ReLU(),
            nn.Conv2d(n_out, n_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(n_out, momentum=0.01),
            nn.ReLU(),
        )
        if n_in != n_out:
            self.shortcut = nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + (self.shortcut(x) if hasattr(self, "shortcut") else x)


class Stage(nn.Module):
    """`n_blocks` residual blocks; the first one changes the width."""

    def __init__(self, n_in: int, n_out: int, n_blocks: int) -> None:
        super().__init__()
        self.conv = _blocks(n_in, n_out, n_blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.conv:
            x = block(x)
        return x


def _blocks(n_in: int, n_out: int, n_blocks: int) -> nn.ModuleList:
    return nn.ModuleList(ResidualBlock(n_in if i == 0 else n_out, n_out) for i in range(n_blocks))


class Encoder(nn.Module):
    def __init__(self, widths: list[int], n_blocks: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(1, momentum=0.01)
        pairs = zip([1, *widths], widths)
        self.layers = nn.ModuleList(Stage(n_in, n_out, n_blocks) for n_in, n_out in pairs)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = self.bn(x)
        skips = []
        for stage in self.layers:
            x = stage(x)
            skips.append(x)
            x = F.avg_pool2d(x, 2)
        return x, skips


class Intermediate(nn.Module):
    def __init__(self, width: int, n_stages: int, n_blocks: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Stage(width if i == 0 else 2 * width, 2 * width, n_blocks) for i in range(n_stages)
        )

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.layers:
            x = stage(x)
        return x


class SkipFilter(nn.Module):
    """One residual block per skip connection."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ResidualBlock(width, width) for width in widths)

    def forward(self, skips: list[Tensor]) -> list[Tensor]:
        return [block(skip) for block, skip in zip(self.layers, skips)]


class Decoder(nn.Module):
    def __init__(self, widths: list[int], n_blocks: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(UpStage(2 * width, width, n_blocks) for width in reversed(widths))

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        for stage, skip in zip(self.layers, reversed(skips)):
            x = stage(x, skip)
        return x


class UpStage(nn.Module):
    def __init__(self, n_in: int, n_out: int, n_blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.ConvTranspose2d(n_in, n_out, 3, stride=2, padding=1, output_padding=1, bias=False),
            nn.BatchNorm2d(n_out, momentum=0.01),
            nn.ReLU(),
        )
        self.conv2 = _blocks(2 * n_out, n_out, n_blocks)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = torch.cat((self.conv1(x), skip), dim=1)
        for block in self.conv2:
            x = block(x)
        return x


class BidirectionalGru(nn.Module):
    def __init__(self, n_in: int, width: int, n_layers: int) -> None:
        super().__init__()
        self.gru = nn.GRU(n_in, width, num_layers=n_layers, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x)[0]


def decode_salience(salience: Tensor, threshold: float) -> Tensor:
    """f0 in Hz from salience: the weighted mean of the cents around each frame's strongest bin.

    Args:
        salience: [N, 360], 0..1.
        threshold: a frame is unvoiced where its largest salience is not above this (0.05 in so-vits-svc).

    Returns:
        float32 [N], 0 where unvoiced.

    Source: RMVPE's "local average" over nine bins; f0 = 10 * 2^(cents / 1200).
    """
    strongest, center = salience.max(dim=-1)
    salience = salience.double()
    offsets = torch.arange(-4, 5, device=salience.device)
    bins = center.unsqueeze(-1) + offsets  # [N, 9]
    inside = (bins >= 0) & (bins < N_PITCH_BINS)
    weights = salience.gather(-1, bins.clamp(0, N_PITCH_BINS - 1)) * inside
    cents = (weights * (CENTS_PER_BIN * bins + FIRST_BIN_CENTS)).sum(-1) / weights.sum(-1).clamp_min(1e-30)
    f0_hz = 10 * 2 ** (cents / 1200)
    return torch.where(strongest > threshold, f0_hz, torch.zeros_like(f0_hz)).float()
