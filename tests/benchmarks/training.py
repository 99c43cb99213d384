"""The training step and inference of so-vits-svc's full size, ours and plain.

Both sides start from the same weights with the same batch; the tests check that losses and gradients agree.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from svcnb.data.batches import Batch
from svcnb.device import freed_memory_kept
from svcnb.models.sovits.config import Config
from svcnb.models.sovits.step import Networks, StepParts, build, train_step
from svcnb.nn import attention
from svcnb.nn.layers import Noise
from svcnb.training.losses import optimizer_maker
from svcnb.training.settings import TrainSettings
from svcnb.training.state import TrainState, assemble, make_accelerator
from tests.benchmarks.plain_training import PlainDiscriminator, PlainStep, use_torch_convolutions
from tests.benchmarks.sides import Size, Work

CLIP_S, INFERENCE_S = 5.0, 10.0
BATCH_SIZE = 2


def config_of(size: Size) -> Config:
    """so-vits-svc's default, or (quick) one with the same code paths and fewer channels."""
    config = Config.full()
    if size.quick:
        config.train.segment_size = 8 * config.data.hop_length
        sizes = {
            "inter_channels": 128,
            "hidden_channels": 128,
            "filter_channels": 128,
            "n_layers": 1,
            "ssl_dim": 128,
            "p_dropout": 0.0,
            "n_flow_layer": 1,
            "gin_channels": 128,
            "n_speakers": 1,
            "upsample_initial_channel": 32,
        }
        config.model = config.model.model_copy(update=sizes)
    return config


def make_networks(config: Config) -> Networks:
    torch.manual_seed(1)
    networks = build(config)
    # The untrained flow is the identity, and most of its gradients are zero, unlike in training.
    with torch.no_grad():
        for flow in networks.generator.flow.flows[::2]:
            flow.post.weight.normal_(0, 0.01)
    return networks


def make_batch(config: Config, clip_s: float) -> Batch:
    """Two clips of a gliding tone with some noise, and random content."""
    hop, rate_hz = config.data.hop_length, config.data.sampling_rate
    n_frames = int(clip_s * rate_hz) // hop
    generator = torch.Generator().manual_seed(2)
    f0_hz = torch.stack([torch.linspace(*ends, n_frames) for ends in ((110.0, 220.0), (330.0, 250.0))])
    phase = (f0_hz.double() / rate_hz).repeat_interleave(hop, dim=1).cumsum(1)
    tone = sum(torch.sin(2 * math.pi * n * phase) / n for n in range(1, 20)).float() * 0.1
    audio = tone + 0.01 * torch.randn(tone.shape, generator=generator)
    return Batch(
        content=torch.randn(BATCH_SIZE, config.model.ssl_dim, n_frames, generator=generator),
        f0_hz=f0_hz,
        voiced=(torch.rand(BATCH_SIZE, n_frames, generator=generator) < 0.8).float(),
        audio=audio.unsqueeze(1),
        speaker=torch.zeros(BATCH_SIZE, 1, dtype=torch.long),
        lengths=torch.full((BATCH_SIZE,), n_frames),
    )


@dataclass
class Setup:
    """A batch, and the networks and parts for a training step on it."""

    config: Config
    networks: Networks
    parts: StepParts
    batch: Batch

    @classmethod
    def of(cls, config: Config, clip_s: float) -> Setup:
        return cls(config, make_networks(config), StepParts(config), make_batch(config, clip_s))

    def double(self) -> Setup:
        """The setup in float64, in which rounding hardly matters."""
        batch, nets = self.batch, self.networks
        doubled = {name: getattr(batch, name).double() for name in ("content", "f0_hz", "voiced", "audio")}
        spec = self.parts.stft(batch.audio).double()
        networks = Networks(nets.generator.double(), nets.discriminator.double())
        return replace(
            self, batch=replace(batch, **doubled, spec=spec), networks=networks, parts=self.parts.double()
        )

    def our_state(self) -> TrainState:
        train = self.config.train
        state = assemble(
            self.networks.generator,
            self.networks.discriminator,
            make_optimizer=optimizer_maker(train),
            lr_decay=train.lr_decay,
            accelerator=make_accelerator(TrainSettings(device="cpu")),
            extras={"parts": self.parts},
        )
        for network in state.networks():
            network.train()
        return state

    def plain_step(self) -> PlainStep:
        discriminator = PlainDiscriminator().to(self.batch.audio.dtype)
        discriminator.load_state_dict(self.networks.discriminator.state_dict())
        return PlainStep(use_torch_convolutions(self.networks.generator).train(), discriminator, self.parts)


def _clip_s(size: Size) -> float:
    return 0.3 if size.quick else CLIP_S


def our_training(size: Size) -> Work:
    setup = Setup.of(config_of(size), _clip_s(size))
    state = setup.our_state()
    kept = ExitStack()
    kept.enter_context(freed_memory_kept())

    def work(_kept: ExitStack = kept) -> dict[str, float]:  # stays active from step to step, as in `fit`
        return _numbers(train_step(state, setup.batch))

    return work


def plain_training(size: Size) -> Work:
    attention.drop_out = F.dropout  # only in the plain side's own process
    setup = Setup.of(config_of(size), _clip_s(size))
    step = setup.plain_step()
    return lambda: _numbers(step(setup.batch))


def _numbers(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(loss.detach()) for name, loss in losses.items()}


# ---------------------------------------------------------------- inference


def our_inference(size: Size) -> Work:
    network, batch = _generator_and_batch(size)

    def work() -> dict[str, float]:
        with freed_memory_kept():  # per chunk, as in `Voice`
            return _resynthesize(network, batch, torch.inference_mode())

    return work


def plain_inference(size: Size) -> Work:
    network, batch = _generator_and_batch(size)
    network = use_torch_convolutions(network)
    return lambda: _resynthesize(network, batch, torch.no_grad())


def _generator_and_batch(size: Size) -> tuple[torch.nn.Module, Batch]:
    config = config_of(size)
    return make_networks(config).generator.eval(), make_batch(
        config, _clip_s(size) if size.quick else INFERENCE_S
    )


def _resynthesize(
    network: torch.nn.Module, batch: Batch, mode: torch.no_grad | torch.inference_mode
) -> dict[str, float]:
    with mode:
        audio = network.infer(
            batch.content[:1],
            batch.f0_hz[:1],
            batch.voiced[:1],
            batch.speaker[:1],
            noise=Noise(torch.Generator().manual_seed(3)),
        ).audio
    return {"mean_square": float(audio.square().mean())}
