"""The bundled learned content encoder: a small network over levelled mel bands (see models.content_network)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from svcnb.checkpoint import load_weights, read_own, write_own
from svcnb.encoder_input import as_waveform
from svcnb.models.content_network import BandStatistics, ContentNetwork, ContentNetworkSettings

FILE_VERSION = 1
KIND = "svcnb-units"
BLOCK_FRAMES = 3000  # a minute at once: bounds memory on long recordings


class LearnedUnits:
    """Encoder over a `ContentNetwork`; bind it to a voice with `for_recording` for the best units."""

    name = "svcnb-units"

    def __init__(self, network: ContentNetwork, *, statistics: BandStatistics | None = None) -> None:
        self.network = network.eval().requires_grad_(False)
        self.statistics = statistics
        self.width = network.settings.n_content
        self.hop_samples = 2 * network.settings.hop_samples

    @torch.no_grad()
    def for_recording(self, *clips: Tensor | np.ndarray) -> LearnedUnits:
        """The encoder with the statistics of one voice: all its clips, or the whole recording to convert."""
        bands = self.network.bands
        power = torch.cat([bands.power(self._waveform(clip)) for clip in clips], dim=1)
        return LearnedUnits(self.network, statistics=bands.statistics(power))

    @torch.no_grad()
    def encode(self, samples: Tensor | np.ndarray) -> Tensor:
        """float32 [N, D], N = T // 320, at least 1; mean 0 and variance 1 in each frame.

        Unbound, the clip's own statistics are used.
        """
        bands = self.network.bands
        power = bands.power(self._waveform(samples))
        levelled = bands(power, self.statistics or bands.statistics(power))
        return torch.cat([self.network(piece)[0, first:last] for piece, first, last in _overlapping(levelled, self.network.reach)])

    def _waveform(self, samples: Tensor | np.ndarray) -> Tensor:
        return as_waveform(samples, self.network.narrow.weight.device)[None]


def _overlapping(levelled: Tensor, reach: int) -> list[tuple[Tensor, int, int]]:
    """Pieces of levelled bands [1, 2N, M] with `reach` frames around, and which of their frames to keep."""
    n_frames = levelled.shape[1] // 2
    pieces = []
    for start in range(0, n_frames, BLOCK_FRAMES):
        first, end = max(0, start - reach), min(n_frames, start + BLOCK_FRAMES)
        piece = levelled[:, 2 * first : 2 * min(n_frames, end + reach)]
        pieces.append((piece, start - first, end - first))
    return pieces


def save_network(network: ContentNetwork, path: str | Path, *, metadata: dict[str, object]) -> Path:
    """Write the weights in half precision (the front end in single), with the settings."""
    about = {**metadata, "kind": KIND, "version": FILE_VERSION, "settings": asdict(network.settings)}
    halved = {n: v if n.startswith("bands.") else v.half() for n, v in network.state_dict().items()}
    return write_own(path, halved, about)


def load_network(path: str | Path) -> ContentNetwork:
    """The network of such a file, single precision.

    Raises:
        CheckpointError: another kind of file, or another version.
    """
    tensors, about = read_own(path, kind=KIND, version=FILE_VERSION)
    network = ContentNetwork(ContentNetworkSettings(**about["settings"]))
    load_weights(network, {name: value.float() for name, value in tensors.items()})
    return network.eval()
