"""A vocoder's config.json: the keys of the families' NSF-HiFiGAN, and a few of ours for the small one.

Source: the config.json of openvpi's NSF-HiFiGAN releases (keys, values).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from svcnb import SvcError
from svcnb.files.config_file import ConfigFile, unused
from svcnb.files.disk import write_json
from svcnb.models.vocoder.network import CONFIG_NAME, FRAME_VOCODER, NSF_HIFIGAN, VocoderSettings
from svcnb.training.settings import Schedule

OUR_KEYS = ("vocoder_name", "frame_channels", "frame_blocks", "c_mel", "c_stft", "c_adversarial")


class Config(ConfigFile):
    """Sizes of a vocoder and how it is trained. The last six keys are ours, written only where they differ.

    Keys of other programs are kept as they are.
    """

    model_config = ConfigDict(extra="allow")

    resblock: str = "1"
    num_gpus: int = unused(1, "a vocoder is trained by one process")
    batch_size: int = Field(10, ge=1)
    learning_rate: float = Field(2e-4, gt=0)
    adam_b1: float = 0.8
    adam_b2: float = 0.99
    lr_decay: float = Field(0.999, gt=0, le=1)
    seed: int = 1234
    upsample_rates: list[int] = [8, 8, 2, 2, 2]
    upsample_kernel_sizes: list[int] = [16, 16, 4, 4, 4]
    upsample_initial_channel: int = 512
    resblock_kernel_sizes: list[int] = [3, 7, 11]
    resblock_dilation_sizes: list[list[int]] = [[1, 3, 5], [1, 3, 5], [1, 3, 5]]
    discriminator_periods: list[int] = [3, 5, 7, 11, 17, 23, 37]
    segment_size: int = Field(16384, ge=1, description="samples of a training segment")
    num_mels: int = 128
    num_freq: int = unused(1025, "it is n_fft / 2 + 1")
    n_fft: int = 2048
    hop_size: int = Field(512, ge=1)
    win_size: int = 2048
    sampling_rate: int = Field(44100, ge=1)
    fmin: int | float = 40
    fmax: int | float = 16000
    fmax_for_loss: int | float | None = Field(
        None, description="highest frequency the mel loss hears; null = all"
    )
    num_workers: int = unused(16, "segments are cut while the step runs")
    vocoder_name: str = NSF_HIFIGAN
    frame_channels: int = Field(256, ge=1, description="width of the svcnb-frame network")
    frame_blocks: int = Field(6, ge=1, description="blocks of the svcnb-frame network")
    c_mel: float = Field(45.0, ge=0, description="weight of the mel loss")
    c_stft: float = Field(0.0, ge=0, description="weight of the multi-resolution STFT loss")
    c_adversarial: float = Field(
        1.0, ge=0, description="weight of the discriminator's two losses; 0 trains without one"
    )

    @classmethod
    def full(cls) -> Config:
        """The families' own size: 44.1 kHz, hop 512; meant for a GPU."""
        return cls()

    @classmethod
    def small(cls) -> Config:
        """A vocoder that two CPU cores train in minutes, on the grid of the small voices (22.05 kHz, hop 256).

        Its network works at frame rate, and learns from spectra at several resolutions without a discriminator.
        """
        return cls(
            vocoder_name=FRAME_VOCODER,
            sampling_rate=22050,
            hop_size=256,
            n_fft=1024,
            win_size=1024,
            num_freq=513,
            fmax=11025,
            segment_size=64 * 256,
            batch_size=8,
            learning_rate=1e-3,
            lr_decay=0.995,
            c_mel=10.0,
            c_stft=2.5,
            c_adversarial=0.0,
        )

    @classmethod
    def load(cls, path: Path | str) -> Config:
        """Read a config.json of a release or of ours.

        Raises:
            SvcError: no such file, not JSON, values of the wrong kind or out of range (all named).
        """
        path = Path(path)
        if path.is_dir():
            path = path / CONFIG_NAME
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise SvcError(f"{path}: no such config; give small, full, or a vocoder's config.json") from None
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()
            )
            raise SvcError(f"{path} does not fit a vocoder's config: {problems}") from None
        except ValueError as error:
            raise SvcError(f"{path} is not a JSON config ({error}): give a vocoder's config.json") from None

    def to_dict(self) -> dict[str, Any]:
        """The families' keys; ours only where they differ from their defaults. Ours always say how large they are."""
        stored, defaults = self.model_dump(mode="json"), Config()
        shown = ("frame_channels", "frame_blocks") if self.is_small else ()
        for key in OUR_KEYS:
            if stored[key] == getattr(defaults, key) and key not in shown:
                del stored[key]
        return stored

    def save(self, folder: Path) -> Path:
        return write_json(folder / CONFIG_NAME, self.to_dict())

    def unused_keys(self) -> dict[str, str]:
        follows = self.num_freq == self.n_fft // 2 + 1
        return {
            key: reason
            for key, reason in super().unused_keys().items()
            if not (follows and key == "num_freq")
        }

    @property
    def schedule(self) -> Schedule:
        """How to train, where the user does not say otherwise: the family's files have no keys for it."""
        return Schedule(keep_checkpoints=2)

    @property
    def is_small(self) -> bool:
        """Whether the network is ours, so that other programs cannot read the weights."""
        return self.vocoder_name == FRAME_VOCODER

    @property
    def segment_frames(self) -> int:
        return self.segment_size // self.hop_size

    def sizes(self) -> VocoderSettings:
        """What builds the network (refuses what does not fit together)."""
        return VocoderSettings.from_config(self.to_dict())
