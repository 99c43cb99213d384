"""The families' generators in the form exported to ONNX: no random draws, no complex numbers.

Where the network draws random numbers, the graph has an input (noise of the latents) or a table (noise of the
excitation), so that the same input gives the same output in every runtime.
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
TABLE_STEP = 7919  # a prime: every harmonic reads the table from another offset


def exportable_copy(generator: nn.Module) -> nn.Module:
    """Copy of a family's generator with ONNX operators only, without the posterior, and with stored noise."""
    network = fold_weight_norm(copy.deepcopy(generator)).eval().float()
    for module in list(network.modules()):
        if isinstance(module, Conv1d):
            module.may_differ_from_torch = False  # the faster CPU implementation has no ONNX operator
        if isinstance(module, AliasFreeSnake):
            module.upsample, module.downsample = (
                ExportUpsample(module.upsample),
                ExportHalve(module.downsample),
            )
    noise = StoredNoise()
    if isinstance(network.dec, FrameDecoder):
        network.dec = ExportFrameDecoder(network.dec, noise)
    elif network.dec.m_source is not None:
        network.dec.m_source = ExportSource(network.dec.m_source, noise)
    del network.enc_q
    return network


class StoredNoise(nn.Module):
    """Standard normal numbers from a table, read cyclically."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(TABLE_SEED)
        self.register_buffer("table", torch.randn(TABLE_SIZE, generator=generator), persistent=False)

    def forward(self, like: Tensor) -> Tensor:
        """Numbers in the shape of `like`, [1, T] or [1, T, H]."""
        positions = torch.arange(like.shape[1], device=like.device)
        if like.dim() == 3:
            positions = positions[:, None] + TABLE_STEP * torch.arange(like.shape[2], device=like.device)
        return self.table[positions % TABLE_SIZE].unsqueeze(0)


# ---------------------------------------------------------------- NSF-HiFiGAN's source


def repeat_frames(values: Tensor, hop_samples: int) -> Tensor:
    """Repeat every frame's values for all its samples: [B, N, H] -> [B, N * hop, H]."""
    return values.unsqueeze(2).expand(-1, -1, hop_samples, -1).flatten(1, 2)


def frame_phases(cycles: Tensor, hop_samples: int) -> Tensor:
    """Phase at every sample of sines whose frequency is constant within a frame.

    Args:
        cycles: [B, N, H], cycles per sample.

    Returns:
        float32 [B, N * hop, H], 0..1: the running sum over the samples, modulo 1. Only frames are summed, so
        rounding errors do not grow in a long recording.
    """
    whole = (cycles.double() * hop_samples).cumsum(1)
    before = whole - cycles.double() * hop_samples
    start = (before - before.floor()).float()  # [B, N, H]
    inside = torch.arange(1, hop_samples + 1, device=cycles.device, dtype=torch.float32)[:, None]  # [hop, 1]
    phase = start.unsqueeze(2) + cycles.unsqueeze(2) * inside  # [B, N, hop, H]
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
        cycles = f0 * multiples / self.sampling_rate_hz  # [B, N, H]
        cycles = cycles - cycles.floor()
        voiced = repeat_frames((f0 > 0).float(), hop_samples)  # [B, T, 1]
        sines = torch.sin(2 * math.pi * frame_phases(cycles, hop_samples)) * SINE_AMPLITUDE
        deviation = voiced * VOICED_NOISE + (1 - voiced) * UNVOICED_NOISE
        merged = self.l_linear(sines * voiced + deviation * self.noise(sines))
        return torch.tanh(merged).transpose(1, 2)


class ExportUpsample(nn.Module):
    """UpsampleTwice with channels as batch items: the filter stays a constant, as ONNX requires."""

    def __init__(self, upsample: UpsampleTwice) -> None:
        super().__init__()
        self.register_buffer("filter", upsample.filter, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x.reshape(-1, 1, x.shape[2]), (5, 5), mode="replicate")
        doubled = 2 * F.conv_transpose1d(padded, self.filter, stride=2)[..., 15:-15]
        return doubled.reshape(x.shape[0], x.shape[1], -1)


class ExportHalve(nn.Module):
    """HalveSamples with channels as batch items."""

    def __init__(self, halve: HalveSamples) -> None:
        super().__init__()
        self.register_buffer("filter", halve.lowpass.filter, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x.reshape(-1, 1, x.shape[2]), (5, 6), mode="replicate")
        return F.conv1d(padded, self.filter, stride=2).reshape(x.shape[0], x.shape[1], -1)


# ---------------------------------------------------------------- the frame decoder of the small configuration


class ExportFrameDecoder(nn.Module):
    """FrameDecoder with Fourier transforms as convolutions with sines and cosines, and noise from a table."""

    silent_when_unvoiced = FrameDecoder.silent_when_unvoiced

    def __init__(self, decoder: FrameDecoder, noise: StoredNoise) -> None:
        super().__init__()
        self.decoder, self.noise = decoder, noise
        n_fft, n_bins = decoder.n_fft, decoder.n_fft // 2 + 1
        angles = (
            2 * math.pi * torch.outer(torch.arange(n_bins).double(), torch.arange(n_fft).double()) / n_fft
        )
        window = decoder.window.double().cpu()
        waves = torch.cat([angles.cos(), -angles.sin()]) * window  # [2 F, n_fft]
        bin_weights = torch.full((n_bins, 1), 2.0, dtype=torch.float64)
        bin_weights[0] = bin_weights[-1] = 1.0  # DC and Nyquist have no negative-frequency counterpart
        self.register_buffer("analysis", waves[:, None].float(), persistent=False)  # [2 F, 1, n_fft]
        synthesis = waves * bin_weights.repeat(2, 1) / n_fft
        self.register_buffer("synthesis", synthesis[:, None].float(), persistent=False)
        self.register_buffer(
            "overlap", window.square()[None, None].float(), persistent=False
        )  # [1, 1, n_fft]

    def forward(self, z: Tensor, f0_hz: Tensor, g: Tensor | None = None, *, noise: object = None) -> Tensor:
        """z [1, C, N], f0 [1, N] (0 = unvoiced), g [1, gin, 1 or N] -> [1, 1, N * hop]."""
        step = self.decoder.step
        gain, real, imag, noise_gain = self.decoder.controls(
            z, f0_hz, g
        )  # [1, F, N'] each, N' = N * hop / step
        scale = gain / ((real.square() + imag.square()).sqrt() + 1e-5)
        controls = [
            F.pad(part, (0, 1), mode="replicate") for part in (scale * real, scale * imag, noise_gain)
        ]
        filter_real, filter_imag, noise_gain = controls  # [1, F, N' + 1]
        pulses = self._pulse_train(f0_hz)
        real, imag = self._frames(pulses)
        noise_real, noise_imag = self._frames(self.noise(pulses) / self.decoder.n_fft**0.5)
        spectrum = [
            real * filter_real - imag * filter_imag + noise_real * noise_gain,
            real * filter_imag + imag * filter_real + noise_imag * noise_gain,
        ]
        audio = F.conv_transpose1d(
            torch.cat(spectrum, dim=1), self.synthesis, stride=step
        )  # [1, 1, T + n_fft]
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
        voiced = repeat_frames((f0_hz > 0).float().unsqueeze(-1), hop).squeeze(-1)
        adjacent = F.max_pool1d(f0, 3, stride=1, padding=1)
        held = torch.where(f0 > 0, f0, adjacent).clamp_min(LOWEST_F0_HZ)
        f0_samples = self._interpolate(held.squeeze(1).double())
        cycles = f0_samples / self.decoder.sampling_rate  # per sample
        phase = torch.cumsum(cycles, dim=-1)
        offset = phase - torch.round(phase)
        angle = (math.pi * offset / cycles).float()
        pulse = torch.where(angle.abs() < 1e-6, torch.ones_like(angle), torch.sin(angle) / angle)
        return (pulse - cycles.float()) * voiced

    def _interpolate(self, values: Tensor) -> Tensor:
        """Linear interpolation between frame centers, constant at the ends: [1, N] -> [1, N * hop].

        As `F.interpolate`, but in float64: the phase sums the rounding errors, which differ between runtimes.
        """
        hop = self.decoder.hop_samples
        # [hop], in frames from the frame center
        position = (torch.arange(hop, device=values.device).double() + 0.5) / hop - 0.5
        before = torch.cat([values[:, :1], values[:, :-1]], dim=1)
        after = torch.cat([values[:, 1:], values[:, -1:]], dim=1)
        left, right = (-position).clamp_min(0), position.clamp_min(0)
        rows = (
            before.unsqueeze(2) * left,
            values.unsqueeze(2) * (1 - left - right),
            after.unsqueeze(2) * right,
        )
        return sum(rows).flatten(1)
