"""TensorBoard logs of a training: losses, audio and mel spectrograms under so-vits-svc's tag names.

Optional: history.jsonl, the samples and the plots of the notebooks show the same without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from svcnb import MissingExtra
from svcnb.audio.audio import Audio

BOARD_FOLDER = "tensorboard"
# The only loss of the discriminator; all others are the generator's and keep their names as tags.
DISCRIMINATOR_LOSS = "disc"
MEL_RANGE = (-11.5, 2.0)  # log of the mel spectrum's floor (1e-5) and of a loud harmonic


class TensorBoardLog:
    """Writes event files. The writer is created at the first event: a process without events makes no file.

    Args:
        folder: for the event files.
        first_step: of this run; events of an earlier run from this step on are hidden, as that part was lost.

    Raises:
        MissingExtra: tensorboard is not installed.
    """

    def __init__(self, folder: Path, *, first_step: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtra('TensorBoard is not installed: pip install "svcnb[tensorboard]"') from error
        self._make_writer = lambda: SummaryWriter(str(folder), purge_step=first_step or None)
        self._writer: Any = None

    @property
    def writer(self) -> Any:
        if self._writer is None:
            self._writer = self._make_writer()
        return self._writer

    def add_line(self, line: dict[str, Any]) -> None:
        """One line of the history as scalars: loss/g/..., loss/d/total, learning_rate, held_out/..."""
        for name, value in line.get("losses", {}).items():
            tag = "loss/d/total" if name == DISCRIMINATOR_LOSS else f"loss/g/{name}"
            self.writer.add_scalar(tag, value, line["step"])
        for name, value in line.get("validation", {}).items():
            self.writer.add_scalar(f"held_out/{name}", value, line["step"])
        if line.get("losses"):
            self.writer.add_scalar("learning_rate", line["lr"], line["step"])
        self.writer.flush()

    def add_sample(
        self, step: int, clip: int, sounds: tuple[Audio, Audio], mels: tuple[Tensor, Tensor]
    ) -> None:
        """A recording and the network's output for it, as audio and as log mel spectrograms [M, N]."""
        for kind, sound, mel in zip(("gt", "gen"), sounds, mels, strict=True):
            self.writer.add_audio(
                f"{kind}/audio_{clip}", sound.samples[None], step, sample_rate=sound.sample_rate_hz
            )
            self.writer.add_image(f"{kind}/mel_{clip}", mel_image(mel), step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def mel_image(mel: Tensor) -> np.ndarray:
    """Log mel [M, N] as an RGB image, uint8 [2 M, N, 3], low bands at the bottom, two rows per band."""
    from matplotlib import colormaps

    low, high = MEL_RANGE
    values = (mel.detach().float().cpu().numpy()[::-1] - low) / (high - low)
    colours = colormaps["magma"](np.clip(values, 0, 1))[..., :3]
    return (255 * np.repeat(colours, 2, axis=0)).astype(np.uint8)
