"""How a network hears a sound: what a voice's training compares beside spectra.

Spectra weigh all of a sound alike. What tells one consonant from another is a small part of it: a burst of a hundredth
of a second, the way the next vowel begins. The bundled content encoder has learnt to listen for that, whoever speaks.

Source: feature matching with a network that does not learn (Johnson et al. 2016).
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
BLOCKS_HEARD = (0, 3, 6, 9)  # after so many blocks the network is asked, beside at its end


class Heard:
    """Segments as a listener heard them, to compare others with."""

    def __init__(self, listener: Listener, levels: Any, maps: list[Tensor]) -> None:
        self.listener, self.levels, self.maps = listener, levels, maps

    def distance(self, audio: Tensor) -> Tensor:
        """Mean absolute difference of the maps, of segments [B, 1, T]: 0 for the same, about 1.1 for unrelated sounds."""
        found = self.listener.maps(self.listener.prepare(audio), self.levels)
        return torch.stack([_distance(ours, theirs) for ours, theirs in zip(found, self.maps, strict=True)]).mean()


class Listener(nn.Module, ABC):
    """A network that listens to a voice at 16 kHz and does not learn.

    Args:
        sample_rate_hz: of the segments it will be given.
    """

    def __init__(self, network: nn.Module, *, sample_rate_hz: int) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.sample_rate_hz = sample_rate_hz

    @torch.no_grad()
    def remember(self, audio: Tensor) -> Heard:
        """What is heard in segments [B, 1, T]; others are levelled as these are."""
        prepared = self.prepare(audio)
        levels = self.levels(prepared)
        return Heard(self, levels, self.maps(prepared, levels))

    def prepare(self, audio: Tensor) -> Tensor:
        """Segments [B, 1, T] as the network is given them; here [B, T'] at 16 kHz."""
        return resampled(audio.float().squeeze(1), self.sample_rate_hz)

    def levels(self, prepared: Tensor) -> Any:
        """What the network has to know of a recording beforehand; here nothing."""
        return None

    @abstractmethod
    def maps(self, prepared: Tensor, levels: Any) -> list[Tensor]:
        """What is heard at several places in the network, [B, N, C] each."""


class Hearing(Listener):
    """The bundled content encoder listens."""

    network: ContentNetwork

    @classmethod
    def bundled(cls, *, sample_rate_hz: int) -> Hearing:
        return cls(load_network(BUNDLED_ENCODER), sample_rate_hz=sample_rate_hz)

    def prepare(self, audio: Tensor) -> Tensor:
        """Band powers [B, 2N, M]."""
        with torch.autocast(audio.device.type, enabled=False):
            return self.network.bands.power(super().prepare(audio))

    def levels(self, prepared: Tensor) -> BandStatistics:
        return self.network.bands.statistics(prepared)

    def maps(self, prepared: Tensor, levels: BandStatistics) -> list[Tensor]:
        with torch.autocast(prepared.device.type, enabled=False):
            return self.network.maps(self.network.bands(prepared, levels), BLOCKS_HEARD)


def _distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Mean absolute difference of maps [B, N, C], each frame of mean 0 and variance 1."""
    ours, theirs = (F.layer_norm(x.float(), x.shape[-1:]) for x in (ours, theirs))
    return (ours - theirs).abs().mean()


def resampled(waveform: Tensor, sample_rate_hz: int) -> Tensor:
    """[B, T] at 16 kHz, by its discrete spectrum: the gradient finds its way back; the ends are joined to a ring."""
    n_samples = waveform.shape[-1]
    n_wanted = round(n_samples * SAMPLE_RATE_HZ / sample_rate_hz)
    with torch.autocast(waveform.device.type, enabled=False):
        spectrum = torch.fft.rfft(waveform)[..., : n_wanted // 2 + 1]
        return torch.fft.irfft(spectrum, n=n_wanted) * (n_wanted / n_samples)
