"""What the learned encoder is trained for, and the layers that only its training needs.

On the narrow, noisy content: name the phone; tell how a speech recogniser hears the unbent crop; describe that crop,
given who speaks; be equal for both views; and do not let a classifier find the speaker. An encoder that goes on from
an earlier one is also held to what that one gave for the unbent crop, so that voices trained on the earlier content
understand the new.
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
    """Weights of the terms, and what happens to the content before they see it.

    keep: counts where there is an earlier encoder.
    noise: added to every value of the content (which has variance 1): limits what it can carry.
    reversal: of the speaker classifier's gradient, reached after `reversal_steps`.
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
    """A block over [B, N, C] that looks at the frames around: a recogniser's frames are of another length."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = FrameBlock(width, kernel_size=5, expansion=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x.transpose(1, 2)).transpose(1, 2)


class TrainingHeads(nn.Module):
    """Small networks over content [B, N, D]."""

    def __init__(self, network: ContentNetwork, n_speakers: int, n_heard: int, *, width: int = 192, n_voice: int = 32) -> None:
        super().__init__()
        s = network.settings
        self.phone = nn.Linear(s.n_content, len(PHONES))
        self.hear = nn.Sequential(nn.Linear(s.n_content, width), _OverTime(width), nn.Linear(width, n_heard))
        self.voice = nn.Embedding(n_speakers, n_voice)
        self.enter = nn.Linear(s.n_content + n_voice, width)
        self.mix = nn.Sequential(*(_OverTime(width) for _ in range(2)))
        self.describe = nn.Linear(width, 2 * s.n_bands)
        self.speaker = nn.Sequential(nn.Linear(s.n_content, 256), nn.GELU(), nn.Linear(256, n_speakers))

    def described(self, content: Tensor, speakers: Tensor) -> Tensor:
        """Levelled bands [B, 2N, M] of that voice saying this content."""
        voice = self.voice(speakers)[:, None].expand(-1, content.shape[1], -1)
        x = self.mix(self.enter(torch.cat([content, voice], 2)))
        return self.describe(x).reshape(content.shape[0], 2 * content.shape[1], -1)


class EncoderLosses(nn.Module):
    """Loss terms of a batch, by name; `total` weighs and adds those that train."""

    def __init__(self, network: ContentNetwork, heads: TrainingHeads, settings: LossSettings) -> None:
        super().__init__()
        self.network, self.heads, self.settings = network, heads, settings
        self._former: tuple[ContentNetwork, Tensor] | None = None  # in a tuple it is no part of this module: it does not learn

    def hold_to(self, former: ContentNetwork, known: Tensor) -> None:
        """Keep near an earlier encoder for the speakers it knows, bool [S]: only with them it is right."""
        self._former = former.requires_grad_(False), known.float()

    def forward(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        s = self.settings
        content = self.network(batch.views)  # [2B, N, D]
        noise = torch.randn(content.shape, generator=generator).to(content.device)
        noisy = content + s.noise * noise
        present, trust, labels, heard, speakers = (x.repeat(2, *[1] * (x.ndim - 1)) for x in (
            batch.present, batch.trust, batch.labels, batch.heard, batch.speakers))  # fmt: skip
        named = self.heads.phone(noisy).float()  # [2B, N, K]
        phone = F.cross_entropy(named.transpose(1, 2), labels, reduction="none", label_smoothing=s.label_smoothing)
        described = self.heads.described(noisy, speakers).float()
        distance = (described - batch.plain.repeat(2, 1, 1)).abs().mean(2).view(*present.shape, 2).mean(2)
        first, second = content.chunk(2)
        strength = s.reversal * min(1.0, step / s.reversal_steps)
        guessed = self.heads.speaker(_Reverse.apply(noisy, strength)).float()  # [2B, N, S]
        wanted = speakers[:, None].expand(-1, guessed.shape[1])
        guess = F.cross_entropy(guessed.transpose(1, 2), wanted, reduction="none")
        kept = {"keep": self._kept(content, batch, *self._former)} if self._former else {}
        return kept | {
            "phone": _mean(phone, trust),
            "hear": _mean((self.heads.hear(noisy).float() - heard).square().mean(2), present),
            "describe": _mean(distance, present),
            "agree": _mean((first - second).square().mean(2), batch.present),
            "speaker": _mean(guess, present),
            "phone_accuracy": _mean((named.argmax(2) == labels).float(), trust),
            "speaker_accuracy": _mean((guessed.argmax(2) == wanted).float(), present),
        }

    @staticmethod
    def _kept(content: Tensor, batch: Batch, former: ContentNetwork, known: Tensor) -> Tensor:
        """Distance of both views' content [2B, N, D] to the earlier content of the unbent crops."""
        with torch.no_grad():
            wanted = former(batch.plain).repeat(2, 1, 1)
        weights = batch.present * known.to(content.device)[batch.speakers][:, None]
        return _mean((content - wanted).square().mean(2), weights.repeat(2, 1))

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        return sum(getattr(self.settings, name) * losses[name] for name in TRAINED if name in losses)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp_min(1e-6)
