"""Loudness augmentation of training clips, for voices that are conditioned on the loudness.

A function of an item and a random generator, as `VoiceDataset.augment` wants it; the generator is drawn from (seed, epoch,
clip), so that a resumed training gets what an unbroken one would have got.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from svcnb.data.dataset import Item

CHANCE = 0.5  # fraction of the clips that are changed
QUIETEST_EXPONENT = -1.0  # 10^-1 of the amplitude: -20 dB


def vary_loudness(item: Item, rng: np.random.Generator) -> Item:
    """Half of the items with `change_loudness`; items without a volume stay as they are."""
    return change_loudness(item, rng) if item.volume is not None and rng.random() < CHANCE else item


def change_loudness(item: Item, rng: np.random.Generator) -> Item:
    """Audio and volume times 10^s, s drawn evenly from -1 up to where the peak reaches full scale (at most 1).

    Source: so-vits-svc 4.1, train.vol_aug.
    """
    peak = float(item.audio.abs().max()) + 1e-5
    loudest = min(1.0, -np.log10(peak))
    factor = float(10.0 ** rng.uniform(QUIETEST_EXPONENT, loudest))
    return replace(
        item, audio=item.audio * factor, volume=None if item.volume is None else item.volume * factor
    )
