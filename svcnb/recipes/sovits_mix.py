"""Who sings a piece when several speakers are mixed: their weights frame by frame, by the clock of the whole song."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from svcnb import SvcError
from svcnb.conversion import PieceInput
from svcnb.recipes.sovits_piece import StageVoice
from svcnb.speaker_mix import Timeline, weights_at


def mixed_ids(timeline: Timeline, voice: StageVoice) -> list[int]:
    """Speaker ids of a mix, in its order.

    Raises:
        SvcError: the voice knows one speaker only, or not one that is named, or one is named twice.
    """
    if len(voice.speakers) < 2:
        raise SvcError(f"voice {voice.name} has one speaker, {next(iter(voice.speakers))}: mixing (-usm) needs a voice "
                       "trained on two or more; two voices can be made one with `svcnb mix`")  # fmt: skip
    ids = [voice.speaker_id(name) for name in timeline]
    double = [name for name, number in zip(timeline, ids, strict=True) if ids.count(number) > 1]
    if double:
        raise SvcError(f"the mix names one speaker more than once: {', '.join(double)}")
    return ids


class MixedSpeakers:
    """Weights of a voice's speakers for the frames of any piece of a recording.

    A frame's weights follow from its time in the recording alone, so they are the same wherever the recording was cut.

    Source: so-vits-svc 4.1's dynamic mix, which counts frames piece by piece instead and drifts with every piece.
    """

    def __init__(self, timeline: Timeline, voice: StageVoice, *, duration_s: float) -> None:
        self.timeline, self.ids = timeline, mixed_ids(timeline, voice)
        self.hop_s = voice.hop_samples / voice.sample_rate_hz
        self.duration_s = max(duration_s, self.hop_s)
        self.device = voice.device

    def __call__(self, piece: PieceInput, n_frames: int) -> Tensor:
        """float32 [N, S]: a column for every speaker id up to the highest one of the mix, rows sum to 1."""
        first_s = piece.start_s - piece.n_pad_samples / piece.sample_rate_hz
        positions = (first_s + self.hop_s * np.arange(n_frames)) / self.duration_s
        weights = np.zeros((n_frames, max(self.ids) + 1), np.float32)
        weights[:, self.ids] = weights_at(self.timeline, positions)
        return torch.from_numpy(weights).to(self.device)
