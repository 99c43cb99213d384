"""Perceptual loss: L1 distance of a frozen content encoder's feature maps on generated and target audio.

Spectral losses weigh every part of a sound equally. What distinguishes two consonants is a small part of it:
a burst of 10 ms, the onset of the next vowel. The bundled content encoder has learned to represent this part
for any speaker.

Source: perceptual losses with a frozen network (Johnson et al. 2016).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svcnb.features.content.bundled import BandStatistics, ContentNetwork, load_network
from svcnb.features.content.waveform import SAMPLE_RATE_HZ
from svcnb.files.pretrained_table import BUNDLED_FOLDER

BUNDLED_ENCODER = BUNDLED_FOLDER / "svcnb_units.safetensors"
COMPARED_BLOCKS = (0, 3, 6, 9)  # feature maps after this many blocks are compared, and the final ones


class TargetFeatures:
    """Feature maps of target segments, and the normalization statistics that generated segments share."""

    def __init__(self, loss_network: PerceptualNetwork, statistics: Any, maps: list[Tensor]) -> None:
        self.loss_network, self.statistics, self.maps = loss_network, statistics, maps

    def distance(self, audio: Tensor) -> Tensor:
        """L1 distance of the maps of segments [B, 1, T]: 0 for equal sounds, about 1.1 for unrelated ones."""
        found = self.loss_network.maps(self.loss_network.prepare(audio), self.statistics)
        return torch.stack(
            [_distance(ours, theirs) for ours, theirs in zip(found, self.maps, strict=True)]
        ).mean()


class PerceptualNetwork(nn.Module, ABC):
    """A frozen network at 16 kHz whose feature maps are compared.

    Args:
        sample_rate_hz: sample rate of its input segments.
    """

    def __init__(self, network: nn.Module, *, sample_rate_hz: int) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.sample_rate_hz = sample_rate_hz

    @torch.no_grad()
    def encode_target(self, audio: Tensor) -> TargetFeatures:
        """Feature maps of target segments [B, 1, T]; generated ones share their normalization statistics."""
        prepared = self.prepare(audio)
        statistics = self.statistics(prepared)
        return TargetFeatures(self, statistics, self.maps(prepared, statistics))

    def prepare(self, audio: Tensor) -> Tensor:
        """The network's input for segments [B, 1, T]; here [B, T'] at 16 kHz."""
        return resampled(audio.float().squeeze(1), self.sample_rate_hz)

    def statistics(self, prepared: Tensor) -> Any:
        """Normalization statistics that the network needs of its input; here none."""
        return None

    @abstractmethod
    def maps(self, prepared: Tensor, statistics: Any) -> list[Tensor]:
        """Feature maps at several depths of the network, [B, N, C] each."""


class EncoderFeatures(PerceptualNetwork):
    """Feature maps of the bundled content encoder."""

    network: ContentNetwork

    @classmethod
    def bundled(cls, *, sample_rate_hz: int) -> EncoderFeatures:
        return cls(load_network(BUNDLED_ENCODER), sample_rate_hz=sample_rate_hz)

    def prepare(self, audio: Tensor) -> Tensor:
        """Band powers [B, 2N, M]."""
        with torch.autocast(audio.device.type, enabled=False):
            return self.network.bands.power(super().prepare(audio))

    def statistics(self, prepared: Tensor) -> BandStatistics:
        return self.network.bands.statistics(prepared)

    def maps(self, prepared: Tensor, statistics: BandStatistics) -> list[Tensor]:
        with torch.autocast(prepared.device.type, enabled=False):
            return self.network.maps(self.network.bands(prepared, statistics), COMPARED_BLOCKS)


def _distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Mean absolute difference of maps [B, N, C], each frame normalized to mean 0 and variance 1."""
    ours, theirs = (F.layer_norm(x.float(), x.shape[-1:]) for x in (ours, theirs))
    return (ours - theirs).abs().mean()


def resampled(waveform: Tensor, sample_rate_hz: int) -> Tensor:
    """Waveform [B, T] resampled to 16 kHz by FFT: differentiable; the signal counts as periodic."""
    n_samples = waveform.shape[-1]
    n_wanted = round(n_samples * SAMPLE_RATE_HZ / sample_rate_hz)
    with torch.autocast(waveform.device.type, enabled=False):
        spectrum = torch.fft.rfft(waveform)[..., : n_wanted // 2 + 1]
        return torch.fft.irfft(spectrum, n=n_wanted) * (n_wanted / n_samples)
