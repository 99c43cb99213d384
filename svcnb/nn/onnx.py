"""The families' generators as they are exported to ONNX: their own inputs and outputs, no random draws, no complex numbers.

Where the network draws random numbers, the graph has an input (the latents' noise) or a table (the source's noise), so
that the same input gives the same output wherever the graph runs.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svcnb.nn.convolutions import Conv1d
from svcnb.nn.frame_decoder import LOWEST_F0_HZ, FrameDecoder
from svcnb.nn.layers import fold_weight_norm
from svcnb.nn.nsf_hifigan import (
    SINE_AMPLITUDE,
    UNVOICED_NOISE,
    VOICED_NOISE,
    AliasFreeSnake,
    HalveSamples,
    HarmonicSource,
    UpsampleTwice,
)

TABLE_SIZE, TABLE_SEED = 2**16, 52468
TABLE_STEP = 7919  # a prime: harmonics read the table from unlike places


def exportable_copy(generator: nn.Module) -> nn.Module:
    """A family's generator without what ONNX has no operators for, without the posterior, and with stored noise."""
    network = fold_weight_norm(copy.deepcopy(generator)).eval().float()
    for module in list(network.modules()):
        if isinstance(module, Conv1d):
            module.may_differ_from_torch = False  # the faster way on a CPU is no ONNX operator
        if isinstance(module, AliasFreeSnake):
            module.upsample, module.downsample = ExportUpsample(module.upsample), ExportHalve(module.downsample)
    noise = StoredNoise()
    if isinstance(network.dec, FrameDecoder):
        network.dec = ExportFrameDecoder(network.dec, noise)
    elif network.dec.m_source is not None:
        network.dec.m_source = ExportSource(network.dec.m_source, noise)
    del network.enc_q
    return network


class StoredNoise(nn.Module):
    """Standard normal numbers from a table, read round and round."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(TABLE_SEED)
        self.register_buffer("table", torch.randn(TABLE_SIZE, generator=generator), persistent=False)

    def forward(self, like: Tensor) -> Tensor:
        """Numbers in the shape of `like`, [1, T] or [1, T, H]."""
        places = torch.arange(like.shape[1], device=like.device)
        if like.dim() == 3:
            places = places[:, None] + TABLE_STEP * torch.arange(like.shape[2], device=like.device)
        return self.table[places % TABLE_SIZE].unsqueeze(0)


# ---------------------------------------------------------------- NSF-HiFiGAN's source


def hold(values: Tensor, hop_samples: int) -> Tensor:
    """Every frame's values for all its samples: [B, N, H] -> [B, N * hop, H]."""
    return values.unsqueeze(2).expand(-1, -1, hop_samples, -1).flatten(1, 2)


def frame_phases(turns: Tensor, hop_samples: int) -> Tensor:
    """Phase at every sample of sines whose frequency is constant within a frame.

    Args:
        turns: [B, N, H], turns per sample.

    Returns:
        float32 [B, N * hop, H], 0..1: what a running sum over the samples gives, without whole turns. Only frames are
        summed up, so nothing is lost to rounding in a long piece.
    """
    whole = (turns.double() * hop_samples).cumsum(1)
    before = whole - turns.double() * hop_samples
    start = (before - before.floor()).float()  # [B, N, H]
    inside = torch.arange(1, hop_samples + 1, device=turns.device, dtype=torch.float32)[:, None]  # [hop, 1]
    phase = start.unsqueeze(2) + turns.unsqueeze(2) * inside  # [B, N, hop, H]
    return (phase - phase.floor()).flatten(1, 2)


class ExportSource(nn.Module):
    """HarmonicSource with phases from `frame_phases`, start phases 0 and noise from a table.

    Source: so-vits-svc 4.1's "onnx" mode of the source: phases accumulated at frame rate.
    """

    def __init__(self, source: HarmonicSource, noise: StoredNoise) -> None:
        super().__init__()
        self.sampling_rate_hz, self.n_harmonics = source.sampling_rate_hz, source.n_harmonics
        self.l_linear, self.noise = source.l_linear, noise

    def forward(self, f0: Tensor, hop_samples: int, _noise: object = None) -> Tensor:
        """f0 [B, N] in Hz (0 = unvoiced) -> source [B, 1, N * hop_samples]."""
        f0 = f0.unsqueeze(-1)
        multiples = torch.arange(1, self.n_harmonics + 1, device=f0.device, dtype=torch.float32)
        turns = f0 * multiples / self.sampling_rate_hz  # [B, N, H]
        turns = turns - turns.floor()
        voiced = hold((f0 > 0).float(), hop_samples)  # [B, T, 1]
        sines = torch.sin(2 * math.pi * frame_phases(turns, hop_samples)) * SINE_AMPLITUDE
        deviation = voiced * VOICED_NOISE + (1 - voiced) * UNVOICED_NOISE
        merged = self.l_linear(sines * voiced + deviation * self.noise(sines))
        return torch.tanh(merged).transpose(1, 2)


class ExportUpsample(nn.Module):
    """UpsampleTwice with every channel as an item of the batch: the filter stays the constant that ONNX wants."""

    def __init__(self, upsample: UpsampleTwice) -> None:
        super().__init__()
        self.register_buffer("filter", upsample.filter, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x.reshape(-1, 1, x.shape[2]), (5, 5), mode="replicate")
        doubled = 2 * F.conv_transpose1d(padded, self.filter, stride=2)[..., 15:-15]
        return doubled.reshape(x.shape[0], x.shape[1], -1)


class ExportHalve(nn.Module):
    """HalveSamples with every channel as an item of the batch."""

    def __init__(self, halve: HalveSamples) -> None:
        super().__init__()
        self.register_buffer("filter", halve.lowpass.filter, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x.reshape(-1, 1, x.shape[2]), (5, 6), mode="replicate")
        return F.conv1d(padded, self.filter, stride=2).reshape(x.shape[0], x.shape[1], -1)


# ---------------------------------------------------------------- the frame decoder of the small configuration


class ExportFrameDecoder(nn.Module):
    """FrameDecoder with its Fourier transforms as convolutions with sines and cosines, and its hiss from a table."""

    silent_when_unvoiced = FrameDecoder.silent_when_unvoiced

    def __init__(self, decoder: FrameDecoder, noise: StoredNoise) -> None:
        super().__init__()
        self.decoder, self.noise = decoder, noise
        n_fft, n_bins = decoder.n_fft, decoder.n_fft // 2 + 1
        angles = 2 * math.pi * torch.outer(torch.arange(n_bins).double(), torch.arange(n_fft).double()) / n_fft
        window = decoder.window.double().cpu()
        waves = torch.cat([angles.cos(), -angles.sin()]) * window  # [2 F, n_fft]
        shares = torch.full((n_bins, 1), 2.0, dtype=torch.float64)
        shares[0] = shares[-1] = 1.0  # these two have no mirror image
        self.register_buffer("analysis", waves[:, None].float(), persistent=False)  # [2 F, 1, n_fft]
        self.register_buffer("synthesis", (waves * shares.repeat(2, 1) / n_fft)[:, None].float(), persistent=False)
        self.register_buffer("overlap", window.square()[None, None].float(), persistent=False)  # [1, 1, n_fft]

    def forward(self, z: Tensor, f0_hz: Tensor, g: Tensor | None = None, *, noise: object = None) -> Tensor:
        """z [1, C, N], f0 [1, N] (0 = unvoiced), g [1, gin, 1 or N] -> [1, 1, N * hop]."""
        step = self.decoder.step
        gain, real, imag, hiss_gain = self.decoder.controls(z, f0_hz, g)  # [1, F, N'] each, N' = N * hop / step
        scale = gain / ((real.square() + imag.square()).sqrt() + 1e-5)
        controls = [F.pad(part, (0, 1), mode="replicate") for part in (scale * real, scale * imag, hiss_gain)]
        filter_real, filter_imag, hiss_gain = controls  # [1, F, N' + 1]
        pulses = self._pulse_train(f0_hz)
        real, imag = self._frames(pulses)
        hiss_real, hiss_imag = self._frames(self.noise(pulses) / self.decoder.n_fft**0.5)
        spectrum = [
            real * filter_real - imag * filter_imag + hiss_real * hiss_gain,
            real * filter_imag + imag * filter_real + hiss_imag * hiss_gain,
        ]
        audio = F.conv_transpose1d(torch.cat(spectrum, dim=1), self.synthesis, stride=step)  # [1, 1, T + n_fft]
        weight = F.conv_transpose1d(torch.ones_like(spectrum[0][:, :1]), self.overlap, stride=step)
        half = self.decoder.n_fft // 2
        return (audio / weight.clamp_min(1e-11))[..., half:-half]

    def _frames(self, signal: Tensor) -> list[Tensor]:
        """Real and imaginary part of the spectra of [1, T]: [1, F, N' + 1] each."""
        half = self.decoder.n_fft // 2
        padded = F.pad(signal.unsqueeze(1), (half, half))
        return F.conv1d(padded, self.analysis, stride=self.decoder.step).chunk(2, dim=1)

    def _pulse_train(self, f0_hz: Tensor) -> Tensor:
        """`frame_decoder.pulse_train` without its sinc: [1, N] -> [1, N * hop]."""
        hop, f0 = self.decoder.hop_samples, f0_hz.unsqueeze(1)
        voiced = hold((f0_hz > 0).float().unsqueeze(-1), hop).squeeze(-1)
        beside = F.max_pool1d(f0, 3, stride=1, padding=1)
        held = torch.where(f0 > 0, f0, beside).clamp_min(LOWEST_F0_HZ)
        f0_samples = self._between(held.squeeze(1).double())
        cycles = f0_samples / self.decoder.sampling_rate  # of a sample
        phase = torch.cumsum(cycles, dim=-1)
        offset = phase - torch.round(phase)
        angle = (math.pi * offset / cycles).float()
        pulse = torch.where(angle.abs() < 1e-6, torch.ones_like(angle), torch.sin(angle) / angle)
        return (pulse - cycles.float()) * voiced

    def _between(self, values: Tensor) -> Tensor:
        """Straight lines between the middles of the frames, held at the ends: [1, N] -> [1, N * hop].

        As `F.interpolate`, but in float64: the phase adds up its rounding, which differs from one program to the next.
        """
        hop = self.decoder.hop_samples
        place = (torch.arange(hop, device=values.device).double() + 0.5) / hop - 0.5  # [hop], in frames from the middle
        before = torch.cat([values[:, :1], values[:, :-1]], dim=1)
        after = torch.cat([values[:, 1:], values[:, -1:]], dim=1)
        left, right = (-place).clamp_min(0), place.clamp_min(0)
        rows = (before.unsqueeze(2) * left, values.unsqueeze(2) * (1 - left - right), after.unsqueeze(2) * right)
        return sum(rows).flatten(1)
