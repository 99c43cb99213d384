"""Losses of the learned encoder, and the heads that only its training needs.

On the low-dimensional content with added noise: phone classification; regression of a speech recogniser's
features of the unperturbed crop (distillation); reconstruction of that crop, given the speaker; consistency
of both views; and an adversarial speaker classifier. An encoder that is fine-tuned from a base encoder is
also regularized towards the base's content of the unperturbed crop, so that models trained on the old content
can use the new.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.encoder_batches import Batch
from pretrain.phones import PHONES
from svcnb.features.content.bundled import ContentNetwork
from svcnb.nn.frame_decoder import FrameBlock

TRAINED = ("phone", "hear", "describe", "agree", "speaker", "keep")


@dataclass(frozen=True)
class LossSettings:
    """Weights of the loss terms (fields of the same names), and regularization.

    hear: distillation of the speech recogniser's features; describe: reconstruction; agree: consistency.
    keep: distance to the base encoder, if there is one.
    noise: standard deviation of noise added to the content (variance 1): limits its information.
    reversal: factor of the reversed gradient of the speaker classifier, reached after `reversal_steps`.
    """

    phone: float = 1.0
    hear: float = 1.0
    describe: float = 1.0
    agree: float = 0.5
    speaker: float = 1.0
    keep: float = 1.0
    noise: float = 0.3
    reversal: float = 0.1
    reversal_steps: int = 400
    label_smoothing: float = 0.05


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(context, x: Tensor, strength: float) -> Tensor:
        context.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, None]:
        return -context.strength * gradient, None


class _OverTime(nn.Module):
    """ConvNeXt block over [B, N, C]: adds temporal context, as the recogniser's frames have another length."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = FrameBlock(width, kernel_size=5, expansion=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x.transpose(1, 2)).transpose(1, 2)


class TrainingHeads(nn.Module):
    """Training heads over content [B, N, D]; attribute names are keys of the stored training state."""

    def __init__(
        self, network: ContentNetwork, n_speakers: int, n_teacher: int, *, width: int = 192, n_voice: int = 32
    ) -> None:
        super().__init__()
        s = network.settings
        self.phone = nn.Linear(s.n_content, len(PHONES))
        self.hear = nn.Sequential(
            nn.Linear(s.n_content, width), _OverTime(width), nn.Linear(width, n_teacher)
        )
        self.voice = nn.Embedding(n_speakers, n_voice)
        self.enter = nn.Linear(s.n_content + n_voice, width)
        self.mix = nn.Sequential(*(_OverTime(width) for _ in range(2)))
        self.describe = nn.Linear(width, 2 * s.n_bands)
        self.speaker = nn.Sequential(nn.Linear(s.n_content, 256), nn.GELU(), nn.Linear(256, n_speakers))

    def described(self, content: Tensor, speakers: Tensor) -> Tensor:
        """Reconstruct normalized bands [B, 2N, M] from content and speaker."""
        voice = self.voice(speakers)[:, None].expand(-1, content.shape[1], -1)
        x = self.mix(self.enter(torch.cat([content, voice], 2)))
        return self.describe(x).reshape(content.shape[0], 2 * content.shape[1], -1)


class EncoderLosses(nn.Module):
    """Loss terms of a batch, by name; `total` is the weighted sum of the trained terms."""

    def __init__(self, network: ContentNetwork, heads: TrainingHeads, settings: LossSettings) -> None:
        super().__init__()
        self.network, self.heads, self.settings = network, heads, settings
        # in a tuple, so that the base is not a submodule and not trained
        self._base: tuple[ContentNetwork, Tensor] | None = None

    def regularize_towards(self, base: ContentNetwork, known: Tensor) -> None:
        """Penalise the distance to a base encoder for the speakers in its training data, bool [S]."""
        self._base = base.requires_grad_(False), known.float()

    def forward(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        s = self.settings
        content = self.network(batch.views)  # [2B, N, D]
        noise = torch.randn(content.shape, generator=generator).to(content.device)
        noisy = content + s.noise * noise
        present, trust, labels, teacher, speakers = (
            x.repeat(2, *[1] * (x.ndim - 1))
            for x in (batch.present, batch.trust, batch.labels, batch.teacher, batch.speakers)
        )
        phone_logits = self.heads.phone(noisy).float()  # [2B, N, K]
        phone = F.cross_entropy(
            phone_logits.transpose(1, 2), labels, reduction="none", label_smoothing=s.label_smoothing
        )
        described = self.heads.described(noisy, speakers).float()
        distance = (described - batch.plain.repeat(2, 1, 1)).abs().mean(2).view(*present.shape, 2).mean(2)
        first, second = content.chunk(2)
        strength = s.reversal * min(1.0, step / s.reversal_steps)
        speaker_logits = self.heads.speaker(_Reverse.apply(noisy, strength)).float()  # [2B, N, S]
        wanted = speakers[:, None].expand(-1, speaker_logits.shape[1])
        speaker_loss = F.cross_entropy(speaker_logits.transpose(1, 2), wanted, reduction="none")
        kept = {"keep": self._kept(content, batch, *self._base)} if self._base else {}
        return kept | {
            "phone": _mean(phone, trust),
            "hear": _mean((self.heads.hear(noisy).float() - teacher).square().mean(2), present),
            "describe": _mean(distance, present),
            "agree": _mean((first - second).square().mean(2), batch.present),
            "speaker": _mean(speaker_loss, present),
            "phone_accuracy": _mean((phone_logits.argmax(2) == labels).float(), trust),
            "speaker_accuracy": _mean((speaker_logits.argmax(2) == wanted).float(), present),
        }

    @staticmethod
    def _kept(content: Tensor, batch: Batch, base: ContentNetwork, known: Tensor) -> Tensor:
        """Distance of both views' content [2B, N, D] to the base encoder's content of the unperturbed crops."""
        with torch.no_grad():
            target = base(batch.plain).repeat(2, 1, 1)
        weights = batch.present * known.to(content.device)[batch.speakers][:, None]
        return _mean((content - target).square().mean(2), weights.repeat(2, 1))

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        return sum(getattr(self.settings, name) * losses[name] for name in TRAINED if name in losses)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp_min(1e-6)
