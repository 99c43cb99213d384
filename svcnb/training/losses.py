"""Loss terms of the adversarial training, computed in float32 whatever the precision of their inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from svcnb.audio.spectral import MelSpectrogram, Stft
from svcnb.nn.layers import slice_segments
from svcnb.training.distributed import Share
from svcnb.training.perceptual import EncoderFeatures


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
    """Loss of the discriminator for waveforms [B, 1, T]; no gradient into the generator."""
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
    """KL divergence of the posterior (through the flow) from the prior, per valid frame.

    Args:
        z_p, logs_q, m_p, logs_p: [B, C, N].
        mask: [B, 1, N]; the sum over channels and frames is divided by the number of frames, not of channels.

    Source: VITS equation 4 (one sample).
    """
    z_p, logs_q, m_p, logs_p, mask = (x.float() for x in (z_p, logs_q, m_p, logs_p, mask))
    divergence = logs_p - logs_q - 0.5 + 0.5 * (z_p - m_p).square() * torch.exp(-2.0 * logs_p)
    return (divergence * mask).sum() / mask.sum()


def mel_loss(real_mel: Tensor, fake_mel: Tensor) -> Tensor:
    """L1 distance of two log mel spectrograms [B, M, N] (weighted 45 in all three families)."""
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
    """Multi-resolution STFT loss: L1 of log magnitudes, plus L1 of magnitudes relative to the target's mean.

    Args:
        fake, real: waveforms [B, 1, T] of the same length, longer than half the longest window.
        sizes: (window, hop) in samples.
        mean_of_all: for part of a batch: gives the whole batch's mean for this part's mean; then the parts'
            losses, weighted by their number of clips, add up to the whole batch's loss.
        band: part of the spectrum that is compared, from 0 Hz up, 0..1.

    Source: Yamamoto et al. 2020 (Parallel WaveGAN), with means instead of Frobenius norms.
    """
    terms = []
    with torch.autocast(fake.device.type, enabled=False):
        for n_fft, hop in sizes:
            window = torch.hann_window(n_fft, device=fake.device)
            n_bins = round(band * (n_fft // 2)) + 1
            ours, theirs = (
                torch.stft(x.float().squeeze(1), n_fft, hop, window=window, return_complex=True)[
                    :, :n_bins
                ].abs()
                for x in (fake, real)
            )
            log_term = (ours.clamp_min(1e-5).log() - theirs.clamp_min(1e-5).log()).abs().mean()
            scale = theirs.abs().mean() if mean_of_all is None else mean_of_all(theirs.abs().mean())
            linear_term = (ours - theirs).abs().mean() / scale.clamp_min(1e-5)
            terms.append(log_term + linear_term)
    return torch.stack(terms).mean()


class LossWeights(Protocol):
    """The weights in a config's train section; c_stft, c_hear and c_prior are 0 in the families' own."""

    c_mel: float
    c_kl: float
    c_stft: float
    c_hear: float
    c_prior: float
    c_adversarial: float


class PerceptualTarget(Protocol):
    """Target segments of a perceptual loss, encoded."""

    def distance(self, audio: Tensor) -> Tensor:
        """Perceptual distance of generated segments [B, 1, T] to the target, a scalar."""
        ...


class PerceptualLoss(Protocol):
    """Perceptual loss on segments [B, 1, T], such as a perceptual.PerceptualNetwork."""

    def encode_target(self, audio: Tensor) -> PerceptualTarget: ...


class Rates(Protocol):
    """AdamW's hyperparameters in a config's train section."""

    learning_rate: float
    init_lr_ratio: float
    betas: tuple[float, float]
    eps: float


def optimizer_maker(train: Rates) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    """Fused AdamW with the config's learning rate, betas and epsilon.

    init_lr_ratio is a factor on the learning rate at the start. The families' programs store the key without reading it.
    """
    rate = train.learning_rate * train.init_lr_ratio
    return partial(torch.optim.AdamW, lr=rate, betas=train.betas, eps=train.eps, fused=True)


class Transforms(nn.Module):
    """Linear and mel spectrograms on the frame grid of a config's data section; optionally a perceptual loss.

    Args:
        data: sampling_rate, filter_length, hop_length, win_length, n_mel_channels, mel_fmin, mel_fmax.
        max_hz: spectral losses compare frequencies below this; None = all.
        with_perceptual_loss: use a perceptual loss as well.
        perceptual_loss: which one; None = feature maps of the bundled content encoder.
    """

    def __init__(
        self,
        data: Any,
        *,
        max_hz: float | None = None,
        with_perceptual_loss: bool = False,
        perceptual_loss: PerceptualLoss | None = None,
    ) -> None:
        super().__init__()
        self.perceptual_loss = None
        if with_perceptual_loss:
            self.perceptual_loss = perceptual_loss or EncoderFeatures.bundled(
                sample_rate_hz=data.sampling_rate
            )
        self.band = min(1.0, 2 * (max_hz or data.sampling_rate) / data.sampling_rate)
        self.stft = Stft(n_fft=data.filter_length, hop_samples=data.hop_length, win_samples=data.win_length)
        self.mel = MelSpectrogram(
            sample_rate_hz=data.sampling_rate,
            n_fft=data.filter_length,
            hop_samples=data.hop_length,
            win_samples=data.win_length,
            n_mels=data.n_mel_channels,
            fmin_hz=data.mel_fmin,
            fmax_hz=max_hz or data.mel_fmax,
        )


@dataclass
class GeneratorPass:
    """One forward pass of the generator, and the target segments that it is compared with.

    `out` has audio, slice_start, mask, z_p, m_p, logs_p, logs_q, and what its family needs besides.
    """

    out: Any
    target_audio: Tensor  # [B, 1, segment samples]
    target_mel: Tensor  # [B, M, segment frames]
    fake_mel: Tensor
    band: float = 1.0  # part of the spectrum that the losses compare
    perceptual_target: PerceptualTarget | None = None  # the encoded target segments, with a perceptual loss


def compared(
    out: Any, audio: Tensor, spec: Tensor, transforms: Transforms, segment_frames: int
) -> GeneratorPass:
    """The generator's output with the same segment of the target, as audio and as mel (cut from the clip's).

    Args:
        audio, spec: of the whole clips, [B, 1, N * hop] and [B, F, N].
    """
    hop, perceptual_loss = transforms.stft.hop_samples, transforms.perceptual_loss
    target = slice_segments(audio, out.slice_start * hop, segment_frames * hop)
    return GeneratorPass(
        out=out,
        target_audio=target,
        target_mel=slice_segments(transforms.mel.project(spec), out.slice_start, segment_frames),
        fake_mel=transforms.mel(out.audio.float()),
        band=transforms.band,
        perceptual_target=perceptual_loss.encode_target(target) if perceptual_loss else None,
    )


def spectral_terms(
    audio: Tensor, mel: Tensor, target: GeneratorPass, train: LossWeights, share: Share | None = None
) -> dict[str, Tensor]:
    """Spectral and perceptual losses of a segment (audio and mel) to the target, for this process's clips."""
    terms = {"mel": mel_loss(target.target_mel, mel)}
    if train.c_stft:
        mean_of_all = share.mean_of_all if share else None
        terms["stft"] = stft_loss(audio, target.target_audio, mean_of_all=mean_of_all, band=target.band)
    if target.perceptual_target is not None:
        terms["hear"] = target.perceptual_target.distance(audio)
    return terms


def variational_terms(
    result: GeneratorPass, train: LossWeights, share: Share | None = None
) -> dict[str, Tensor]:
    """Spectral terms of the audio decoded from the posterior, and the KL divergence from the prior."""
    out = result.out
    terms = spectral_terms(out.audio, result.fake_mel, result, train, share)
    return terms | {"kl": kl_loss(out.z_p, out.logs_q, out.m_p, out.logs_p, out.mask)}


def prior_terms(
    audio: Tensor,
    result: GeneratorPass,
    transforms: Transforms,
    train: LossWeights,
    share: Share | None = None,
) -> dict[str, Tensor]:
    """Spectral terms of audio [B, 1, segment samples] decoded from the prior alone, as in conversion."""
    terms = spectral_terms(audio, transforms.mel(audio.float()), result, train, share)
    return {f"prior_{name}": loss for name, loss in terms.items()}


def discriminator_term(discriminator: nn.Module, result: GeneratorPass) -> Tensor:
    """Loss of the discriminator; no gradient into the generator."""
    return losses_of_discriminator(discriminator, result.target_audio, result.out.audio)


def adversarial_terms(discriminator: nn.Module, result: GeneratorPass) -> dict[str, Tensor]:
    """Feature matching and adversarial loss of the generator; no gradient into the discriminator."""
    return losses_against_discriminator(discriminator, result.target_audio, result.out.audio)


def loss_weight(name: str, train: LossWeights) -> float:
    """Weight of a loss term in the generator's total."""
    spectral = {"mel": train.c_mel, "stft": train.c_stft, "hear": train.c_hear}
    if name.startswith("prior_"):
        return train.c_prior * spectral[name.removeprefix("prior_")]
    weights = {"kl": train.c_kl, "lf0": 1.0, "gen": train.c_adversarial, "fm": train.c_adversarial}
    return (spectral | weights)[name]


def shared_total(
    terms: dict[str, Tensor], train: LossWeights, share: Share
) -> tuple[Tensor, dict[str, Tensor]]:
    """The generator's total loss, and its unweighted terms, as this process's share of the batch's."""
    terms = {name: loss * (share.frames if name == "kl" else share.clips) for name, loss in terms.items()}
    return torch.stack([loss_weight(name, train) * loss for name, loss in terms.items()]).sum(), terms
