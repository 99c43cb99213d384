"""Loss terms of the adversarial training, computed in float32 whatever precision comes in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


def discriminator_loss(real_scores: Sequence[Tensor], fake_scores: Sequence[Tensor]) -> Tensor:
    """Least squares: real scores to 1, generated ones to 0, summed over the sub-discriminators. Source: LSGAN."""
    pairs = zip(real_scores, fake_scores, strict=True)
    terms = [(1 - real.float()).square().mean() + fake.float().square().mean() for real, fake in pairs]
    return torch.stack(terms).sum()


def adversarial_loss(fake_scores: Sequence[Tensor]) -> Tensor:
    """Least squares for the generator: generated scores to 1, summed over the sub-discriminators."""
    return torch.stack([(1 - fake.float()).square().mean() for fake in fake_scores]).sum()


def feature_loss(real_maps: Sequence[Sequence[Tensor]], fake_maps: Sequence[Sequence[Tensor]]) -> Tensor:
    """Twice the mean absolute difference of the discriminators' feature maps, summed; real ones are the target."""
    terms = [
        (real.detach().float() - fake.float()).abs().mean()
        for real_list, fake_list in zip(real_maps, fake_maps, strict=True)
        for real, fake in zip(real_list, fake_list, strict=True)
    ]
    return 2 * torch.stack(terms).sum()


def losses_of_discriminator(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator learns from, for waveforms [B, 1, T]; no gradient into the generator."""
    scores, _ = discriminator(torch.cat([real, fake.detach().float()]))  # one pass: each weight is read once
    real_scores, fake_scores = zip(*(part.chunk(2) for part in scores), strict=True)
    return discriminator_loss(real_scores, fake_scores)


def losses_against_discriminator(discriminator: nn.Module, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """Feature matching ("fm") and adversarial loss ("gen") of the generator; no gradient into the discriminator."""
    discriminator.requires_grad_(False)
    with parametrize.cached():  # weight norm once for both
        with torch.no_grad():
            _, real_maps = discriminator(real)
        fake_scores, fake_maps = discriminator(fake)
    discriminator.requires_grad_(True)
    return {"fm": feature_loss(real_maps, fake_maps), "gen": adversarial_loss(fake_scores)}


def kl_loss(z_p: Tensor, logs_q: Tensor, m_p: Tensor, logs_p: Tensor, mask: Tensor) -> Tensor:
    """Divergence of the posterior (through the flow) from the prior, per valid frame.

    Args:
        z_p, logs_q, m_p, logs_p: [B, C, N].
        mask: [B, 1, N]; the sum over channels and frames is divided by the number of frames, not of channels.

    Source: VITS equation 4 (one sample).
    """
    z_p, logs_q, m_p, logs_p, mask = (x.float() for x in (z_p, logs_q, m_p, logs_p, mask))
    divergence = logs_p - logs_q - 0.5 + 0.5 * (z_p - m_p).square() * torch.exp(-2.0 * logs_p)
    return (divergence * mask).sum() / mask.sum()


def mel_loss(real_mel: Tensor, fake_mel: Tensor) -> Tensor:
    """Mean absolute difference of two log mel spectrograms [B, M, N] (weighted 45 in all three families)."""
    return (real_mel.float() - fake_mel.float()).abs().mean()


def lf0_loss(pred_lf0: Tensor, lf0: Tensor) -> Tensor:
    """Mean squared error of the predicted log f0 [B, 1, N], over padded frames too (as the original trains)."""
    return (pred_lf0.float() - lf0.float()).square().mean()


STFT_SIZES = ((512, 128), (1024, 256), (2048, 512))  # window and hop in samples


def stft_loss(
    fake: Tensor,
    real: Tensor,
    *,
    sizes: Sequence[tuple[int, int]] = STFT_SIZES,
    mean_of_all: Callable[[Tensor], Tensor] | None = None,
    band: float = 1.0,
) -> Tensor:
    """Distance of magnitudes at several resolutions: log magnitudes, plus linear ones relative to their mean.

    Args:
        fake, real: waveforms [B, 1, T] of the same length, longer than half the longest window.
        sizes: (window, hop) in samples.
        mean_of_all: where fake and real are a part of a batch, gives the whole batch's mean for this part's mean;
            then the parts' losses, weighted by their clips, add up to the whole batch's loss.
        band: part of the spectrum that counts, from 0 Hz up.

    Source: Yamamoto et al. 2020 (Parallel WaveGAN), with means instead of Frobenius norms.
    """
    terms = []
    with torch.autocast(fake.device.type, enabled=False):
        for n_fft, hop in sizes:
            window = torch.hann_window(n_fft, device=fake.device)
            n_bins = round(band * (n_fft // 2)) + 1
            ours, theirs = (
                torch.stft(x.float().squeeze(1), n_fft, hop, window=window, return_complex=True)[:, :n_bins].abs()
                for x in (fake, real)
            )
            log_term = (ours.clamp_min(1e-5).log() - theirs.clamp_min(1e-5).log()).abs().mean()
            scale = theirs.abs().mean() if mean_of_all is None else mean_of_all(theirs.abs().mean())
            linear_term = (ours - theirs).abs().mean() / scale.clamp_min(1e-5)
            terms.append(log_term + linear_term)
    return torch.stack(terms).mean()
