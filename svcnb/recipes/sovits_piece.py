"""What the stages after the generator hear of a piece, and what they may use of the voice.

Apart from sovits_stages, which puts the stages in order, so that a stage's own module can import this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from svcnb.audio import Audio
from svcnb.recipes.sovits_config import Config
from svcnb.recipes.sovits_diffusion_files import DiffusionFiles


@dataclass(frozen=True)
class PieceSound:
    """One padded piece as the generator heard it; N frames, T samples, tensors on the voice's device.

    Attributes:
        samples: float32 [T], the input at the voice's rate, context included.
        content: [1, D, N] at the voice's frame rate, after pulling.
        f0_hz: [1, N] as sung: what the generator returned, gaps interpolated.
        voiced: [1, N], 1 = voiced.
        volume: [1, N] of the input; None where the voice does not know it.
        speaker_id: the target; where speakers are mixed, the one heard most in this piece.
        seed: of all randomness.
        speaker_weights: [N, S] where speakers are mixed, rows sum to 1; else None.
    """

    samples: np.ndarray
    content: Tensor
    f0_hz: Tensor
    voiced: Tensor
    volume: Tensor | None
    speaker_id: int
    seed: int
    speaker_weights: Tensor | None = None


# float32 [T] -> float32 [T] at the same rate, one piece after the other
Stage = Callable[[np.ndarray, PieceSound], np.ndarray]


class StageVoice(Protocol):
    """The part of a voice that stages use.

    Attributes:
        folder: where the checkpoint lies; None for a voice without files.
        vocoder_path: of the vocoder to use; None finds one, see vocoder.find_vocoder.
        diffusion_files: of the diffusion model to use, as far as they are named.
        loaded: networks of stages by a name of the stage's choice, kept from one conversion to the next.
    """

    config: Config
    name: str
    folder: Path | None
    vocoder_path: Path | None
    diffusion_files: DiffusionFiles
    pretrain_folder: Path
    speakers: dict[str, int]
    sample_rate_hz: int
    hop_samples: int
    device: torch.device
    loaded: dict[Any, Any]

    def speaker_id(self, speaker: str | int | None) -> int:
        """Id of a speaker by name or number."""
        ...

    def encode(self, audio: Audio) -> Tensor:
        """Content of a recording: float32 [N50, D], 50 frames per second."""
        ...
