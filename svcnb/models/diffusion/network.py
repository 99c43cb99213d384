"""Diffusion model of mel spectra: the WaveNet denoiser, its conditions, and the noise schedule.

Mel spectra are [B, 1, M, N] here, as the original's convolutions and checkpoints require.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svcnb.nn.convolutions import Conv1d

# Log mel magnitudes that are scaled to -1 and 1; silence is ln(1e-5) = -11.5.
MEL_RANGE = (-12.0, 2.0)
SHIFT_SCALE = 5.0  # semitones that are scaled to 1: the usual largest key shift


@dataclass(frozen=True)
class DenoiserSizes:
    """Widths of the network.

    Attributes:
        n_mels: bands of the mel spectrum.
        n_layers: residual layers.
        n_chans: channels of each, even.
        n_hidden: channels of the condition.
    """

    n_mels: int = 128
    n_layers: int = 20
    n_chans: int = 512
    n_hidden: int = 256


class StepEmbedding(nn.Module):
    """Sines and cosines of the diffusion step, at wavelengths from 2 pi to 20000 pi steps: [B] -> [B, C]."""

    def __init__(self, n_chans: int) -> None:
        super().__init__()
        half = n_chans // 2
        frequencies = torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, step: Tensor) -> Tensor:
        angles = step.float()[:, None] * self.frequencies[None]  # [B, C / 2]
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ResidualLayer(nn.Module):
    """One gated convolution over time, conditioned on the diffusion step and on the input features."""

    def __init__(self, sizes: DenoiserSizes) -> None:
        super().__init__()
        n_chans = sizes.n_chans
        self.dilated_conv = Conv1d(n_chans, 2 * n_chans, 3, padding=1)  # of dilation 1 in every layer
        self.diffusion_projection = nn.Linear(n_chans, n_chans)
        self.conditioner_projection = Conv1d(sizes.n_hidden, 2 * n_chans, 1)
        self.output_projection = Conv1d(n_chans, 2 * n_chans, 1)

    def forward(self, x: Tensor, condition: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, C, N], condition [B, H, N], step [B, C] -> x of the next layer and skip output, [B, C, N]."""
        y = x + self.diffusion_projection(step)[:, :, None]
        gate, signal = (self.dilated_conv(y) + self.conditioner_projection(condition)).chunk(2, dim=1)
        residual, skip = self.output_projection(gate.sigmoid() * signal.tanh()).chunk(2, dim=1)
        return (x + residual) / math.sqrt(2.0), skip


class WaveNetDenoiser(nn.Module):
    """Predicts the noise in a noisy mel spectrum.

    Source: so-vits-svc 4.1, diffusion/wavenet (DiffSinger's denoiser without dilation).
    """

    def __init__(self, sizes: DenoiserSizes) -> None:
        super().__init__()
        n_chans = sizes.n_chans
        self.input_projection = Conv1d(sizes.n_mels, n_chans, 1)
        self.step_embedding = StepEmbedding(n_chans)
        self.mlp = nn.Sequential(nn.Linear(n_chans, 4 * n_chans), nn.Mish(), nn.Linear(4 * n_chans, n_chans))
        self.residual_layers = nn.ModuleList(ResidualLayer(sizes) for _ in range(sizes.n_layers))
        self.skip_projection = Conv1d(n_chans, n_chans, 1)
        self.output_projection = Conv1d(n_chans, sizes.n_mels, 1)
        nn.init.zeros_(self.output_projection.weight)

    def forward(self, noisy: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        """noisy [B, 1, M, N], step [B] (may be fractional), condition [B, H, N] -> noise [B, 1, M, N]."""
        x = F.relu(self.input_projection(noisy[:, 0]))
        step = self.mlp(self.step_embedding(step))
        skips = 0.0
        for layer in self.residual_layers:
            x, skip = layer(x, condition, step)
            skips = skips + skip
        x = F.relu(self.skip_projection(skips / math.sqrt(len(self.residual_layers))))
        return self.output_projection(x)[:, None]


class GaussianDiffusion(nn.Module):
    """The noise schedule and the denoiser; the schedule is stored in checkpoints.

    Source: so-vits-svc 4.1, diffusion/diffusion (linear schedule of Ho et al. 2020).
    """

    def __init__(self, sizes: DenoiserSizes, *, timesteps: int = 1000) -> None:
        super().__init__()
        self.timesteps = timesteps
        for name, values in linear_schedule(timesteps).items():
            self.register_buffer(name, values)
        self.register_buffer("spec_min", torch.full((1, 1, 1), MEL_RANGE[0]))
        self.register_buffer("spec_max", torch.full((1, 1, 1), MEL_RANGE[1]))
        self.denoise_fn = WaveNetDenoiser(sizes)

    def normalise(self, mel: Tensor) -> Tensor:
        """Log mel [B, N, M] -> about -1..1 as [B, 1, M, N]."""
        scaled = (mel - self.spec_min) / (self.spec_max - self.spec_min) * 2 - 1
        return scaled.transpose(1, 2)[:, None]

    def denormalise(self, spec: Tensor) -> Tensor:
        """[B, 1, M, N] -> log mel [B, N, M]."""
        return (spec[:, 0].transpose(1, 2) + 1) / 2 * (self.spec_max - self.spec_min) + self.spec_min

    def add_noise(self, spec: Tensor, step: Tensor, noise: Tensor) -> Tensor:
        """`spec` [B, 1, M, N] with the noise of step `step` (long [B], from 0) added."""
        shape = (-1, 1, 1, 1)
        alpha = self.sqrt_alphas_cumprod[step].view(shape)
        return alpha * spec + self.sqrt_one_minus_alphas_cumprod[step].view(shape) * noise


def linear_schedule(timesteps: int) -> dict[str, Tensor]:
    """Arrays of a linear schedule, noise variances from 1e-4 to 0.02; float32 [timesteps] each."""
    betas = torch.linspace(1e-4, 0.02, timesteps, dtype=torch.float64)
    alphas = torch.cumprod(1 - betas, 0)
    alphas_prev = torch.cat([torch.ones(1, dtype=torch.float64), alphas[:-1]])
    variance = betas * (1 - alphas_prev) / (1 - alphas)
    arrays = {
        "betas": betas,
        "alphas_cumprod": alphas,
        "alphas_cumprod_prev": alphas_prev,
        "sqrt_alphas_cumprod": alphas.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - alphas).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - alphas).log(),
        "sqrt_recip_alphas_cumprod": (1 / alphas).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / alphas - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * alphas_prev.sqrt() / (1 - alphas),
        "posterior_mean_coef2": (1 - alphas_prev) * (1 - betas).sqrt() / (1 - alphas),
    }
    return {name: values.float() for name, values in arrays.items()}


class Unit2Mel(nn.Module):
    """Diffusion model of a voice's log mel spectra, conditioned on content, f0 and loudness.

    Args:
        input_channel: width of the content features.
        n_spk: speakers; there is a speaker embedding if there are two or more.
        use_pitch_aug: conditioned on the key shift of augmented training data.
        k_step_max: largest number of noise steps it is trained to remove; 0 or above `timesteps` means all.

    Source: so-vits-svc 4.1, diffusion/unit2mel.
    """

    def __init__(
        self,
        input_channel: int,
        n_spk: int,
        sizes: DenoiserSizes,
        *,
        use_pitch_aug: bool = True,
        timesteps: int = 1000,
        k_step_max: int = 0,
    ) -> None:
        super().__init__()
        n_hidden = sizes.n_hidden
        self.k_step_max = k_step_max if 0 < k_step_max < timesteps else timesteps
        self.unit_embed = nn.Linear(input_channel, n_hidden)
        self.f0_embed = nn.Linear(1, n_hidden)
        self.volume_embed = nn.Linear(1, n_hidden)
        self.aug_shift_embed = nn.Linear(1, n_hidden, bias=False) if use_pitch_aug else None
        self.spk_embed = nn.Embedding(n_spk, n_hidden) if n_spk > 1 else None
        self.decoder = GaussianDiffusion(sizes, timesteps=timesteps)

    @property
    def is_full(self) -> bool:
        """Whether it can sample from noise alone, without a mel spectrum to start from."""
        return self.k_step_max == self.decoder.timesteps

    def condition(
        self,
        content: Tensor,
        f0_hz: Tensor,
        volume: Tensor,
        speaker: Tensor,
        *,
        shift_semitones: Tensor | None = None,
    ) -> Tensor:
        """The condition of the denoiser, [B, N, H]: the sum of all embedded input features.

        Args:
            content: [B, N, D].
            f0_hz: [B, N, 1], gaps interpolated.
            volume: [B, N, 1], root mean square per frame.
            speaker: long [B, 1], or weights of all speakers, float [B, N, S] (a mix that may change over time).
            shift_semitones: [B, 1, 1], key shift of the mel spectrum, formants included; None is no shift.
        """
        x = self.unit_embed(content) + self.f0_embed((1 + f0_hz / 700).log()) + self.volume_embed(volume)
        if self.spk_embed is not None:
            mixed = speaker.is_floating_point()
            x = x + (speaker @ self.spk_embed.weight if mixed else self.spk_embed(speaker))
        if self.aug_shift_embed is not None and shift_semitones is not None:
            x = x + self.aug_shift_embed(shift_semitones / SHIFT_SCALE)
        return x

    def forward(self, mel: Tensor, condition: tuple[Tensor, ...], step: Tensor, noise: Tensor) -> Tensor:
        """Predict the noise after `noise` of step `step` [B] was added to `mel` [B, N, M]: [B, 1, M, N].

        `condition` holds the arguments of the method `condition`, shift included.
        """
        *features, shift = condition
        cond = self.condition(*features, shift_semitones=shift).transpose(1, 2)
        noisy = self.decoder.add_noise(self.decoder.normalise(mel), step, noise)
        return self.decoder.denoise_fn(noisy, step, cond)
