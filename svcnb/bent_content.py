"""Content as another voice would give it: the recording is heard faster or slower, and its frames stay in place.

A voice knows the clips it was trained on by heart: what it makes of them is better than what it makes of anything new.
With bent content it is about as wrong there as elsewhere, so that what mends it there mends it elsewhere too.

Voices themselves do not gain from training on bent content: after 1076 steps, means of three draws of the noise, 52 % of
the words of an unknown synthetic voice came out wrong with it, 49 % without.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from svcnb.encoder_input import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from svcnb.content import ContentEncoder

LARGEST_RATIO = 1.25  # a child's throat from a woman's, or a man's from it; further off, words are lost


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
