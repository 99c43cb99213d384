"""Conversion of recordings with a function of a chunk instead of a voice: chunking without networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from svcnb.audio.audio import Audio
from svcnb.audio.recording import Recording
from svcnb.conversion.long_audio import Chunk, split_recording
from svcnb.conversion.settings import ConversionSettings


def same(chunk: Chunk) -> np.ndarray:
    """A conversion that changes nothing."""
    return chunk.samples


def converted_blocks(
    audio: Recording,
    convert: Callable[[Chunk], np.ndarray],
    settings: ConversionSettings,
    *,
    output_hz: int,
    hop_samples: int,
) -> Iterator[np.ndarray]:
    splitter = split_recording(audio, settings, sample_rate_hz=output_hz, hop_samples=hop_samples)
    for chunk in splitter.chunks():
        yield from splitter.join(chunk, convert(chunk))
    yield from splitter.finish()


def convert_by(
    audio: Recording,
    convert: Callable[[Chunk], np.ndarray],
    settings: ConversionSettings,
    *,
    output_hz: int,
    hop_samples: int,
) -> Audio:
    """Convert the whole recording, every chunk with `convert`."""
    blocks = converted_blocks(audio, convert, settings, output_hz=output_hz, hop_samples=hop_samples)
    return Audio(np.concatenate([np.zeros(0, np.float32), *blocks]), output_hz)
