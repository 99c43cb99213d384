"""Frame-rate decoder of the `small` configuration, fast enough to train on two CPU cores.

Instead of upsampling to samples with transposed convolutions, it filters harmonic excitation (a pulse train)
and noise excitation in the short-time Fourier domain. All its learned layers run at frame rate, so one
training step costs about an eighth of an NSF-HiFi-GAN's.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svcnb.nn.layers import Noise

LOWEST_F0_HZ = 20.0
SUBFRAMES = 2  # filters per latent frame: plosive bursts last less than a hop of 256 samples


def pulse_train(f0_hz: Tensor, hop_samples: int, sample_rate_hz: int) -> Tensor:
    """Harmonic excitation: band-limited pulses, one per period, zero where f0 is 0.

    Args:
        f0_hz: [B, N] per frame, 0 = unvoiced.

    Returns:
        float32 [B, N * hop_samples]; every pulse is sinc(phase * rate / f0), and the mean is subtracted:
        filters that differ from frame to frame would turn a DC offset into a hum at the frame rate.

    Source: one sinc pulse per period is the sum of all harmonics below Nyquist and of the constant f0 / rate.
    """
    with torch.autocast(device_type=f0_hz.device.type, enabled=False):
        f0 = f0_hz.float().unsqueeze(1)  # [B, 1, N]
        voiced = F.interpolate((f0 > 0).float(), scale_factor=hop_samples, mode="nearest")
        # an unvoiced frame next to a voiced one takes its f0; otherwise f0 would glide at the ends of a note
        adjacent = F.max_pool1d(f0, 3, stride=1, padding=1)
        held = torch.where(f0 > 0, f0, adjacent).clamp_min(LOWEST_F0_HZ)
        f0_samples = F.interpolate(held, scale_factor=hop_samples, mode="linear", align_corners=False)
        # float64: a float32 running sum drifts by a cycle within a minute
        phase = torch.cumsum(f0_samples.double() / sample_rate_hz, dim=-1)
        offset = (phase - torch.round(phase)).float()  # [-0.5, 0.5] cycles around the nearest pulse
        period = sample_rate_hz / f0_samples
        return ((torch.sinc(offset * period) - 1 / period) * voiced).squeeze(1)


class FrameBlock(nn.Module):
    """ConvNeXt block: depthwise convolution over time, then an expanding pointwise MLP, with a residual.

    Source: ConvNeXt (Liu et al. 2022), on frames as in vocos.
    """

    def __init__(self, channels: int, *, kernel_size: int = 7, expansion: int = 3) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, channels * expansion)
        self.narrow = nn.Linear(channels * expansion, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x).transpose(1, 2)  # [B, C, N] -> [B, N, C]
        y = self.narrow(F.gelu(self.widen(self.norm(y))))
        return x + (y * self.scale).transpose(1, 2)


class FrameDecoder(nn.Module):
    """Latent frames and f0 to a waveform, by filtering harmonic and noise excitation frame by frame.

    For each half of a frame the network predicts a complex filter for the pulse train and magnitudes for the
    noise. The filtered windows, two frames long, are overlap-added by the inverse STFT. Longer windows smear
    consonants.

    Args:
        in_channels: of the latent, or of the mel where this is a vocoder.
        gin_channels: width of the speaker vector; 0 = none.
    """

    silent_when_unvoiced = True  # pulses in pauses would hum until the filters have learned to suppress them

    def __init__(
        self,
        in_channels: int,
        *,
        gin_channels: int = 0,
        sampling_rate: int,
        hop_samples: int,
        channels: int = 256,
        n_blocks: int = 6,
    ) -> None:
        super().__init__()
        self.sampling_rate = sampling_rate
        self.hop_samples = hop_samples
        self.n_fft = 2 * hop_samples
        self.step = hop_samples // SUBFRAMES
        n_bins = self.n_fft // 2 + 1
        self.conv_pre = nn.Conv1d(in_channels, channels, 7, padding=3)
        self.pitch_pre = nn.Conv1d(2, channels, 3, padding=1)
        if gin_channels:
            self.cond = nn.Conv1d(gin_channels, channels, 1)
        self.blocks = nn.ModuleList(FrameBlock(channels) for _ in range(n_blocks))
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, SUBFRAMES * 4 * n_bins)
        nn.init.normal_(self.head.weight, std=0.02)
        bias = torch.zeros(SUBFRAMES, 4, n_bins)
        bias[:, 0], bias[:, 3] = -2.0, -5.0  # initial output: a quiet pulse train and quieter noise
        bias[:, 1] = 1.0  # filter phase 0
        with torch.no_grad():
            self.head.bias.copy_(bias.flatten())
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)

    def controls(self, z: Tensor, f0_hz: Tensor, g: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predicted filters: pulse train gain, real and imaginary part of its phase, noise gain.

        Each is float32 [B, F, N * SUBFRAMES]; the gains are positive, the phase is not unit length.
        """
        voiced = (f0_hz > 0).to(z.dtype)
        log_f0 = torch.log2(f0_hz.clamp_min(LOWEST_F0_HZ) / 220.0).to(z.dtype) * voiced
        x = self.conv_pre(z) + self.pitch_pre(torch.stack([log_f0, voiced], dim=1))
        if g is not None:
            x = x + self.cond(g)
        for block in self.blocks:
            x = block(x)
        head = self.head(self.norm(x.transpose(1, 2))).float()  # [B, N, S * 4F]
        head = head.reshape(z.shape[0], -1, head.shape[2] // SUBFRAMES).transpose(1, 2)  # [B, 4F, N * S]
        log_gain, real, imag, log_noise = head.chunk(4, dim=1)
        level = self._level(z)
        log_gain, log_noise = log_gain + level, log_noise + level
        return log_gain.clamp(-12.0, 5.0).exp(), real, imag, log_noise.clamp(-14.0, 5.0).exp()

    def _level(self, z: Tensor) -> Tensor | float:
        """Log gain that the predicted log gains are added to, [B, F, N * SUBFRAMES]."""
        return 0.0

    def _filters(self, z: Tensor, f0_hz: Tensor, g: Tensor | None) -> tuple[Tensor, Tensor]:
        gain, real, imag, noise_gain = self.controls(z, f0_hz, g)
        direction = torch.complex(real, imag)
        return gain * direction / (direction.abs() + 1e-5), noise_gain

    def _frames(self, signal: Tensor) -> Tensor:
        return torch.stft(
            signal,
            self.n_fft,
            self.step,
            window=self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )  # [B, F, S * N + 1]

    def _noise_frames(self, white_noise: Tensor) -> Tensor:
        return self._frames(white_noise)

    def forward(
        self, z: Tensor, f0_hz: Tensor, g: Tensor | None = None, *, noise: Noise | None = None
    ) -> Tensor:
        """Waveform of a latent.

        Args:
            z: [B, C, N].
            f0_hz: [B, N], 0 = unvoiced.
            g: speaker vector [B, gin, 1], or one per frame [B, gin, N]; None where gin_channels is 0.

        Returns:
            float32 [B, 1, N * hop_samples].
        """
        noise = noise or Noise()
        pulse_filter, noise_gain = self._filters(z, f0_hz, g)
        with torch.autocast(device_type=z.device.type, enabled=False):
            pulses = pulse_train(f0_hz, self.hop_samples, self.sampling_rate)
            white_noise = noise.normal(pulses.shape, like=pulses) / self.n_fft**0.5
            # a centered STFT has one frame more than the latent: it repeats the last filter
            pulse_filter = torch.cat([pulse_filter, pulse_filter[..., -1:]], dim=-1)
            noise_gain = torch.cat([noise_gain, noise_gain[..., -1:]], dim=-1)
            spectrum = self._frames(pulses) * pulse_filter + self._noise_frames(white_noise) * noise_gain
            audio = torch.istft(
                spectrum, self.n_fft, self.step, window=self.window, center=True, length=pulses.shape[-1]
            )
        return audio.unsqueeze(1)


class FrameVocoder(FrameDecoder):
    """Mel vocoder: a FrameDecoder whose latent is a log-mel spectrum that the output must reproduce.

    Its filters are relative to the mel's own envelope. The noise excitation has constant magnitude over the
    whole STFT and random phase only: white noise has its own peaks and gaps, which would add to those of the
    mel.

    Args:
        mel_filters: [M, F] of the log-mel [B, M, N] that is the latent; frame n is centered
            on sample (n + 0.5) * hop.
        sizes: as FrameDecoder's.
    """

    def __init__(self, mel_filters: Tensor, **sizes: int) -> None:
        super().__init__(len(mel_filters), **sizes)
        n_bins = self.n_fft // 2 + 1
        with torch.no_grad():  # initial levels of pulses every 5 ms and of noise, in the mel's units
            self.head.bias.view(SUBFRAMES, 4, n_bins)[:, 0] = -1.5
            self.head.bias.view(SUBFRAMES, 4, n_bins)[:, 3] = -0.7
        sums = mel_filters.double().sum(1)
        filled = sums > 0  # bands narrower than a bin may contain none
        frequencies = torch.linspace(0, 1, mel_filters.shape[1]).double()
        band_centers = (mel_filters.double() @ frequencies)[filled] / sums[filled]
        bins = np.linspace(0, 1, n_bins)
        rows = [np.interp(bins, band_centers.numpy(), row) for row in np.eye(int(filled.sum()))]
        between_bands = torch.zeros(n_bins, len(mel_filters))
        between_bands[:, filled] = torch.from_numpy(np.stack(rows, 1)).float()
        self.register_buffer("between_bands", between_bands, persistent=False)
        log_width = torch.where(filled, sums, 1.0).log().float()[:, None]
        self.register_buffer("log_width", log_width, persistent=False)

    def _level(self, z: Tensor) -> Tensor:
        level = self.between_bands @ (z.float() - self.log_width)  # [B, F, N], in the middle of each frame
        before = torch.cat([level[..., :1], level[..., :-1]], dim=-1)
        return torch.stack([(before + level) / 2, level], dim=-1).flatten(2)

    def _noise_frames(self, white_noise: Tensor) -> Tensor:
        frames = self._frames(white_noise)
        return frames / frames.abs().clamp_min(1e-6) * (self.window.square().sum() / self.n_fft).sqrt()
