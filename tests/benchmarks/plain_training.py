"""A training step of so-vits-svc 4.1 in a direct implementation, without any of our optimizations.

The discriminator uses torch's convolutions, one pass per waveform; the generator is ours with torch's
convolutions. Both updates are as in the original: real clips keep their graph, the discriminator accumulates
gradients in the generator's step too, AdamW runs with its defaults.

Source: so-vits-svc 4.1, models.py and train.py: numbers and order of operations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from svcnb.data.batches import Batch
from svcnb.models.sovits.step import StepParts, generator_terms, run_generator
from svcnb.nn.convolutions import Conv1d
from svcnb.training.losses import loss_weight

PERIODS = (2, 3, 5, 7, 11)


class PlainPart(nn.Module):
    """One sub-discriminator: on the waveform (period None), or on every period-th sample."""

    def __init__(self, period: int | None) -> None:
        super().__init__()
        self.period = period
        if period is None:
            # in, out, kernel, stride, groups, padding
            table = [
                (1, 16, 15, 1, 1, 7),
                (16, 64, 41, 4, 4, 20),
                (64, 256, 41, 4, 16, 20),
                (256, 1024, 41, 4, 64, 20),
                (1024, 1024, 41, 4, 256, 20),
                (1024, 1024, 5, 1, 1, 2),
            ]
            convs = [nn.Conv1d(i, o, k, s, padding=p, groups=g) for i, o, k, s, g, p in table]
            conv_post: nn.Module = nn.Conv1d(1024, 1, 3, padding=1)
        else:
            table = [(1, 32, 3), (32, 128, 3), (128, 512, 3), (512, 1024, 3), (1024, 1024, 1)]
            convs = [nn.Conv2d(i, o, (5, 1), (s, 1), padding=(2, 0)) for i, o, s in table]
            conv_post = nn.Conv2d(1024, 1, (3, 1), padding=(1, 0))
        self.convs = nn.ModuleList(weight_norm(conv) for conv in convs)
        self.conv_post = weight_norm(conv_post)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        if self.period is not None:
            n_items, n_channels, length = x.shape
            if length % self.period:
                x = F.pad(x, (0, self.period - length % self.period), "reflect")
            x = x.view(n_items, n_channels, -1, self.period)
        maps = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
            maps.append(x)
        x = self.conv_post(x)
        return torch.flatten(x, 1, -1), [*maps, x]


class PlainDiscriminator(nn.Module):
    """The six sub-discriminators of so-vits-svc, under the names of its checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(PlainPart(period) for period in (None, *PERIODS))

    def forward(self, real: Tensor, fake: Tensor) -> tuple[list[Tensor], list[Tensor], list, list]:
        """Scores of both, then feature maps of both."""
        outputs = [(part(real), part(fake)) for part in self.discriminators]
        real_scores, fake_scores = [r[0] for r, _ in outputs], [f[0] for _, f in outputs]
        return real_scores, fake_scores, [r[1] for r, _ in outputs], [f[1] for _, f in outputs]


def use_torch_convolutions(network: nn.Module) -> nn.Module:
    """Switch all convolutions of a network to torch's; returns the network."""
    for module in network.modules():
        if isinstance(module, Conv1d):
            module.may_differ_from_torch = False
    return network


def plain_optimizer(network: nn.Module, parts: StepParts) -> torch.optim.Optimizer:
    train = parts.config.train
    return torch.optim.AdamW(network.parameters(), lr=train.learning_rate, betas=train.betas, eps=train.eps)


class PlainStep:
    """Networks, optimisers and the step."""

    def __init__(self, generator: nn.Module, discriminator: PlainDiscriminator, parts: StepParts) -> None:
        self.generator, self.discriminator, self.parts = generator, discriminator, parts
        self.optimizer_g, self.optimizer_d = (
            plain_optimizer(net, parts) for net in (generator, discriminator)
        )

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        train = self.parts.config.train
        result = run_generator(self.generator, batch, self.parts)
        real, fake = result.target_audio, result.out.audio

        real_scores, fake_scores, _, _ = self.discriminator(real, fake.detach())
        loss_d = sum(
            torch.mean((1 - r.float()) ** 2) + torch.mean(f.float() ** 2)
            for r, f in zip(real_scores, fake_scores, strict=True)
        )
        self.optimizer_d.zero_grad()
        loss_d.backward()
        self.optimizer_d.step()

        _, fake_scores, real_maps, fake_maps = self.discriminator(real, fake)
        terms = generator_terms(result, train)
        terms["fm"] = 2 * sum(
            torch.mean(torch.abs(r.detach().float() - f.float()))
            for real_list, fake_list in zip(real_maps, fake_maps, strict=True)
            for r, f in zip(real_list, fake_list, strict=True)
        )
        terms["gen"] = sum(torch.mean((1 - score.float()) ** 2) for score in fake_scores)
        total = sum(loss_weight(name, train) * loss for name, loss in terms.items())
        self.optimizer_g.zero_grad()
        total.backward()
        self.optimizer_g.step()
        return {"total": total, **terms, "disc": loss_d}
