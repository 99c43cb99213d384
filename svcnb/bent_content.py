"""Content as another voice would give it: the recording is heard faster or slower, and its frames stay in place.

A network that learns from clips knows their content by heart: what it makes of them is better than what it makes of
a stranger's sentence. Bent content is wrong as a stranger's is wrong, so what is learned with it holds for strangers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from svcnb.audio import resample_samples
from svcnb.encoder_input import SAMPLE_RATE_HZ
from svcnb.feature_store import INT16_SCALE, Arrays

if TYPE_CHECKING:
    from svcnb.content import ContentEncoder

QUICK_ENCODER = "svcnb-units"  # hears a minute in 0.03 s: eight times as much to hear is still little
LARGEST_RATIO = 1.25  # a child's throat from a woman's, or a man's from it; further off, words are lost
N_BENDS = 8
RATIOS = tuple(float(ratio) for ratio in np.geomspace(1 / LARGEST_RATIO, LARGEST_RATIO, N_BENDS))


class BentEncoder:
    """An encoder that hears voices in which pitch and formants are higher by `ratio` (above 1) or lower.

    The recording is resampled, which changes its tempo as well; the content is brought back to the recording's frames.
    """

    def __init__(self, encoder: ContentEncoder, ratio: float) -> None:
        self.encoder, self.ratio = encoder, ratio
        self.name, self.width, self.hop_samples, self.network = encoder.name, encoder.width, encoder.hop_samples, encoder.network

    def for_recording(self, *clips: Tensor | np.ndarray) -> BentEncoder:
        return BentEncoder(self.encoder.for_recording(*map(self._bent, clips)), self.ratio)

    def encode(self, samples: Tensor | np.ndarray) -> Tensor:
        """float32 [N, D] of samples [T], N = T // hop_samples, at least 1."""
        content = self.encoder.encode(self._bent(samples))
        n_frames = max(1, len(samples) // self.hop_samples)
        nearest = ((np.arange(n_frames) + 0.5) * len(content) / n_frames).astype(int)
        return content[torch.from_numpy(nearest).to(content.device)]

    def _bent(self, samples: Tensor | np.ndarray) -> np.ndarray:
        import soxr

        samples = samples.cpu().numpy() if isinstance(samples, Tensor) else samples
        return soxr.resample(samples, SAMPLE_RATE_HZ * self.ratio, SAMPLE_RATE_HZ)


class HearingVoice(Protocol):
    """Any loaded voice."""

    encoder: ContentEncoder


@contextmanager
def bent_hearing(voice: HearingVoice, ratio: float) -> Iterator[None]:
    """Inside the block the voice hears recordings bent; 1 leaves its hearing as it is."""
    encoder = voice.encoder
    try:
        if ratio != 1:
            voice.encoder = BentEncoder(encoder, ratio)
        yield
    finally:
        voice.encoder = encoder


def draw_ratio(rng: np.random.Generator) -> float:
    """Between 1 / LARGEST_RATIO and LARGEST_RATIO, evenly on a log scale."""
    return float(np.exp(rng.uniform(-1, 1) * np.log(LARGEST_RATIO)))


@dataclass(frozen=True)
class Mishearing:
    """Content of a clip for training, as `VoiceDataset.hear` wants it: `chance` of the times as another voice would give it.

    There are N_BENDS such voices. What they give is kept in half precision: 280 MB for an hour, and no work after a few
    epochs.

    Attributes:
        sample_rate_hz: of the clips' audio.
    """

    encoder: ContentEncoder
    sample_rate_hz: int
    chance: float
    _kept: dict[tuple[str, int], np.ndarray] = field(default_factory=dict, repr=False)

    def __call__(self, name: str, arrays: Arrays, rng: np.random.Generator) -> np.ndarray:
        """[N50, D] of a clip's arrays."""
        if rng.random() >= self.chance:
            return arrays["content"]
        key = name, int(rng.integers(N_BENDS))
        if key not in self._kept:
            samples = resample_samples(arrays["audio"].astype(np.float32) / INT16_SCALE, self.sample_rate_hz, SAMPLE_RATE_HZ)
            bent = BentEncoder(self.encoder, RATIOS[key[1]]).for_recording(samples)
            self._kept[key] = bent.encode(samples).cpu().numpy().astype(np.float16)
        return self._kept[key]


def mishearing(encoder: str | None, *, width: int, sample_rate_hz: int, chance: float) -> Mishearing | None:
    """As a config asks for it; None where it does not, or where the encoder is too slow to hear every clip so often."""
    if not chance or encoder != QUICK_ENCODER:
        return None
    from svcnb.content import load_encoder

    return Mishearing(load_encoder(QUICK_ENCODER, width=width), sample_rate_hz, chance)
