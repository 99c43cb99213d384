"""Spectral transforms as modules: STFT magnitude, log-mel, windowed-sinc resampling.

Each transform has its window and filters as buffers, so it moves with `.to(device)` and two settings never
share state. All compute in float32, also inside autocast: half precision is too coarse for squares and
logarithms. The buffers are not in checkpoints.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIGH_PASS_ORDER, HIGH_PASS_HZ = 5, 48.0


def _float32(tensor: Tensor) -> torch.autocast:
    """Context in which operations on this tensor's device stay in float32."""
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def _as_batch(waveform: Tensor) -> Tensor:
    """[B, 1, T] or [B, T] -> float32 [B, T]."""
    if waveform.dim() == 3 and waveform.shape[1] == 1:
        waveform = waveform[:, 0]
    if waveform.dim() != 2:
        raise ValueError(f"waveform has shape {tuple(waveform.shape)}, expected [B, T] or [B, 1, T]")
    return waveform.float()


class Stft(nn.Module):
    """Short-time Fourier transform with T // hop_samples frames: frame i is centered on hop i's middle.

    Args:
        n_fft: transform size; F = n_fft // 2 + 1 bins.
        hop_samples: frame distance; (n_fft - hop) / 2 reflected samples are padded at both ends.
        win_samples: Hann window length, n_fft where None.
        epsilon: added to the power before the root, which keeps the gradient finite at silence.
    """

    def __init__(
        self, *, n_fft: int, hop_samples: int, win_samples: int | None = None, epsilon: float = 1e-6
    ) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.hop_samples = hop_samples
        self.win_samples = win_samples or n_fft
        self.epsilon = epsilon
        self.register_buffer("window", torch.hann_window(self.win_samples), persistent=False)

    def complex(self, waveform: Tensor) -> Tensor:
        """[B, T] or [B, 1, T] -> complex64 [B, F, N]."""
        samples = _as_batch(waveform)
        n_padding = self.n_fft - self.hop_samples
        left = n_padding // 2
        if samples.shape[-1] <= n_padding - left:
            raise ValueError(
                f"waveform has {samples.shape[-1]} samples, this STFT needs more than {n_padding - left}"
            )
        with _float32(samples):
            padded = F.pad(samples, (left, n_padding - left), mode="reflect")
            return torch.stft(
                padded,
                self.n_fft,
                self.hop_samples,
                self.win_samples,
                self.window.float(),
                center=False,
                onesided=True,
                return_complex=True,
            )

    def forward(self, waveform: Tensor) -> Tensor:
        """[B, T] or [B, 1, T] -> magnitude float32 [B, F, N]."""
        return magnitude(self.complex(waveform), self.epsilon)


def magnitude(spectrum: Tensor, epsilon: float) -> Tensor:
    """sqrt(re^2 + im^2 + epsilon) of a complex spectrum."""
    return torch.view_as_real(spectrum).square().sum(-1).add(epsilon).sqrt()


def mel_filters(
    *, sample_rate_hz: int, n_fft: int, n_mels: int, fmin_hz: float, fmax_hz: float | None, htk: bool = False
) -> Tensor:
    """Triangular mel filters with unit area (Slaney's norm), float32 [M, F]; `htk` picks the HTK scale."""
    from librosa.filters import mel

    filters = mel(
        sr=sample_rate_hz,
        n_fft=n_fft,
        n_mels=n_mels,
        fmin=fmin_hz,
        fmax=fmax_hz or sample_rate_hz / 2,
        htk=htk,
    )
    return torch.from_numpy(np.ascontiguousarray(filters, dtype=np.float32))


class MelSpectrogram(nn.Module):
    """Log-mel spectrum on the grid of Stft; `project` takes an existing linear spectrum."""

    def __init__(  # a transform's definition: every number is part of it
        self,
        *,
        sample_rate_hz: int,
        n_fft: int,
        hop_samples: int,
        n_mels: int,
        fmin_hz: float = 0.0,
        fmax_hz: float | None = None,
        win_samples: int | None = None,
        epsilon: float = 1e-6,
        log_floor: float = 1e-5,
        htk: bool = False,
    ) -> None:
        super().__init__()
        self.log_floor = log_floor
        self.stft = Stft(n_fft=n_fft, hop_samples=hop_samples, win_samples=win_samples, epsilon=epsilon)
        filters = mel_filters(
            sample_rate_hz=sample_rate_hz,
            n_fft=n_fft,
            n_mels=n_mels,
            fmin_hz=fmin_hz,
            fmax_hz=fmax_hz,
            htk=htk,
        )
        self.register_buffer("filters", filters, persistent=False)

    def project(self, spec: Tensor) -> Tensor:
        """Magnitude [B, F, N] -> natural log of mel magnitude, float32 [B, M, N]."""
        with _float32(spec):
            return torch.matmul(self.filters.float(), spec.float()).clamp(min=self.log_floor).log()

    def forward(self, waveform: Tensor) -> Tensor:
        """[B, T] or [B, 1, T] -> float32 [B, M, N]."""
        return self.project(self.stft(waveform))


class VocoderMel(nn.Module):
    """Log-mel of the NSF-HiFiGAN vocoders and the diffusion models, with optional key shift and speed.

    A key shift analyses the signal with longer or shorter windows: +12 semitones moves every partial to
    twice its bin, a cheap pitch augmentation.
    Source: the mel of the openvpi vocoders, as so-vits-svc 4.1 uses it.
    """

    def __init__(
        self,
        *,
        sample_rate_hz: int,
        n_fft: int,
        hop_samples: int,
        n_mels: int,
        fmin_hz: float = 40.0,
        fmax_hz: float | None = 16000.0,
        win_samples: int | None = None,
        epsilon: float = 1e-9,
        log_floor: float = 1e-5,
    ) -> None:
        super().__init__()
        self.n_fft, self.hop_samples, self.win_samples = n_fft, hop_samples, win_samples or n_fft
        self.epsilon, self.log_floor = epsilon, log_floor
        filters = mel_filters(
            sample_rate_hz=sample_rate_hz, n_fft=n_fft, n_mels=n_mels, fmin_hz=fmin_hz, fmax_hz=fmax_hz
        )
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, waveform: Tensor, *, key_shift_semitones: float = 0.0, speed: float = 1.0) -> Tensor:
        """[B, T] or [B, 1, T] -> float32 [B, M, N]; `speed` 2 halves the number of frames."""
        factor = 2 ** (key_shift_semitones / 12)
        n_fft, win = round(self.n_fft * factor), round(self.win_samples * factor)
        hop = round(self.hop_samples * speed)
        samples = _as_batch(waveform)
        n_samples = samples.shape[-1]
        left = (win - hop) // 2
        right = max((win - hop + 1) // 2, win - n_samples - left)
        with _float32(samples):
            padded = F.pad(samples, (left, right), mode="reflect" if right < n_samples else "constant")
            window = torch.hann_window(win, device=samples.device)
            spectrum = torch.stft(padded, n_fft, hop, win, window, center=False, return_complex=True)
            spec = magnitude(spectrum, self.epsilon)
            if key_shift_semitones:
                n_bins = self.n_fft // 2 + 1
                spec = F.pad(spec, (0, 0, 0, max(0, n_bins - spec.shape[1])))[:, :n_bins] * (
                    self.win_samples / win
                )
            return torch.matmul(self.filters.float(), spec).clamp(min=self.log_floor).log()


class SincResample(nn.Module):
    """Band-limited resampling with a short Hann-windowed sinc: torchaudio's default filter, kept for equal output.

    With both rates divided by their greatest common divisor (a -> b), output sample j = b * i + k is the sum
    over inputs n of x[n] * h(n / a - j / b), h(t) = sinc(2 f t) * cos^2(pi f t / width) inside its `width`
    zero crossings, f = rolloff * min(a, b) / 2. The b phases of h are the b output channels of one
    convolution with stride a. Elsewhere prefer audio.resample: this filter is short.
    """

    def __init__(
        self, from_hz: int, to_hz: int, *, lowpass_filter_width: int = 6, rolloff: float = 0.99
    ) -> None:
        super().__init__()
        divisor = math.gcd(from_hz, to_hz)
        self.n_in, self.n_out = from_hz // divisor, to_hz // divisor
        crossings = rolloff * min(self.n_in, self.n_out)  # zero crossings of the sinc per common period
        self.half_width = math.ceil(lowpass_filter_width * self.n_in / crossings)
        taps = torch.arange(-self.half_width, self.half_width + self.n_in, dtype=torch.float64) / self.n_in
        phases = torch.arange(self.n_out, dtype=torch.float64) / self.n_out
        time = (taps[None] - phases[:, None]) * crossings  # [n_out, 2 * half_width + n_in]
        time = time.clamp(-lowpass_filter_width, lowpass_filter_width)
        hann = torch.cos(time * (math.pi / lowpass_filter_width / 2)).square()
        kernel = torch.sinc(time) * hann * (crossings / self.n_in)
        self.register_buffer("kernel", kernel[:, None].float(), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """float [..., T] -> float32 [..., ceil(T * to / from)]."""
        if self.n_in == self.n_out:
            return waveform.float()
        n_samples = waveform.shape[-1]
        flat = waveform.float().reshape(-1, 1, n_samples)
        with _float32(flat):
            padded = F.pad(flat, (self.half_width, self.half_width + self.n_in))
            phases = F.conv1d(padded, self.kernel.float(), stride=self.n_in)  # [B, n_out, steps]
        n_wanted = -(-n_samples * self.n_out // self.n_in)
        return (
            phases.transpose(1, 2)
            .reshape(len(flat), -1)[:, :n_wanted]
            .reshape(waveform.shape[:-1] + (n_wanted,))
        )
