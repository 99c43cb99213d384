"""RVC's config.json as typed sections, the choice of version, rate and pitch guidance, and the list in small models.

Source: RVC 20240604, configs/v1 and configs/v2 (keys, defaults).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from svcnb import SvcError
from svcnb.files.config_file import ConfigFile, unused
from svcnb.files.disk import write_text
from svcnb.models.rvc.network import CONTENT_WIDTHS, NetworkSettings
from svcnb.training.settings import Schedule

Version = Literal["v1", "v2"]
FRAMES_PER_SECOND = 100  # at every rate: the hop is rate / 100
# (version of the file, rate) -> filter_length, n_mel_channels, segment_size, upsample_rates, upsample_kernel_sizes
SIZES = {
    ("v1", 32000): (1024, 80, 12800, [10, 4, 2, 2, 2], [16, 16, 4, 4, 4]),
    ("v1", 40000): (2048, 125, 12800, [10, 10, 2, 2], [16, 16, 4, 4]),
    ("v1", 48000): (2048, 128, 11520, [10, 6, 2, 2, 2], [16, 16, 4, 4, 4]),
    ("v2", 32000): (1024, 80, 12800, [10, 8, 2, 2], [20, 16, 4, 4]),
    ("v2", 48000): (2048, 128, 17280, [12, 10, 2, 2], [24, 20, 4, 4]),
}
FRAME_DECODER = "svcnb-frame"
ENCODERS = {"v1": "vec256l9", "v2": "vec768l12"}
RATE_NAMES = {"32k": 32000, "40k": 40000, "48k": 48000}
N_LISTED = 18  # numbers and lists in the `config` of a small model


class Section(BaseModel):
    model_config = ConfigDict(extra="allow", validate_assignment=True)  # the program adds keys at run time


class TrainSection(Section):
    log_interval: int = Field(200, ge=1, description="steps between logged losses")
    seed: int = 1234
    epochs: int = Field(20000, ge=1, description="stop after so many, where nothing else limits the training")
    learning_rate: float = Field(1e-4, gt=0)
    betas: tuple[float, float] = (0.8, 0.99)
    eps: float = 1e-9
    batch_size: int = Field(4, ge=1)
    fp16_run: bool = Field(True, description="train in fp16 on a GPU")
    lr_decay: float = Field(0.999875, gt=0, le=1, description="of the learning rate, per epoch")
    segment_size: int = Field(12800, ge=1, description="samples the decoder sees per clip")
    init_lr_ratio: int | float = Field(1, gt=0, description="factor on the learning rate at the start")
    warmup_epochs: int = Field(
        0, ge=0, description="epochs over which the learning rate rises to its full value"
    )
    c_mel: int | float = 45
    c_kl: int | float = 1.0
    c_stft: float = Field(0.0, description="weight of the multi-resolution STFT loss")
    c_hear: float = Field(0.0, description="weight of what the bundled content encoder hears differently")
    c_prior: float = Field(
        0.0, description="weight of the spectral losses on what the prior alone decodes to"
    )
    c_adversarial: float = Field(
        1.0, description="weight of the discriminator's two losses; 0 trains without one"
    )
    max_frames: int = Field(900, ge=20, description="longer clips are cropped to this, at random")


class DataSection(Section):
    max_wav_value: int | float = unused(32768.0, "audio is stored as 16-bit samples of full scale 32768")
    sampling_rate: int = 40000
    filter_length: int = 2048
    hop_length: int = 400
    win_length: int = 2048
    n_mel_channels: int = 125
    mel_fmin: int | float = 0.0
    mel_fmax: int | float | None = None


class ModelSection(Section):
    inter_channels: int = 192
    hidden_channels: int = 192
    filter_channels: int = 768
    n_heads: int = 2
    n_layers: int = 6
    kernel_size: int = 3
    p_dropout: int | float = 0
    resblock: str = "1"
    resblock_kernel_sizes: list[int] = [3, 7, 11]
    resblock_dilation_sizes: list[list[int]] = [[1, 3, 5], [1, 3, 5], [1, 3, 5]]
    upsample_rates: list[int] = [10, 10, 2, 2]
    upsample_initial_channel: int = 512
    upsample_kernel_sizes: list[int] = [16, 16, 4, 4]
    use_spectral_norm: bool = False
    gin_channels: int = 256
    spk_embed_dim: int = 109
    content_width: int | None = Field(None, description="of the encoder, where it is not the version's own")
    speech_encoder: str | None = Field(None, description="where it is not the version's own")
    vocoder_name: str = "nsf-hifigan"
    use_depthwise_conv: bool = False


# What RVC's own files lack: written only where it differs from these defaults.
OUR_KEYS = {
    "train": ("c_stft", "c_hear", "c_prior", "c_adversarial", "max_frames"),
    "model": ("content_width", "speech_encoder", "vocoder_name", "use_depthwise_conv"),
}


class Config(ConfigFile):
    """An experiment's config.json. `version` and `f0` are told to RVC on its command line; here they are kept beside.

    Attributes:
        version: v1 hears 256 values of content, v2 768.
        f0: whether the model is guided by pitch; without, it is not for singing.
        spk: name of the voice -> its row in the speaker table; ours.
    """

    model_config = ConfigDict(extra="allow")

    train: TrainSection = Field(default_factory=TrainSection)
    data: DataSection = Field(default_factory=DataSection)
    model: ModelSection = Field(default_factory=ModelSection)
    version: Version = "v2"
    f0: bool = True
    spk: dict[str, int] = Field(default_factory=dict)

    @classmethod
    def full(cls, version: Version = "v2", sample_rate_hz: int = 40000, *, f0: bool = True) -> Config:
        """The family's own sizes. v2 at 40 kHz has v1's, as in the original.

        Raises:
            SvcError: a rate that the family does not have.
        """
        table = "v1" if sample_rate_hz == 40000 else version
        if (table, sample_rate_hz) not in SIZES:
            known = ", ".join(str(rate) for rate in RATE_NAMES.values())
            raise SvcError(f"RVC {version} at {sample_rate_hz} Hz: versions are v1 and v2, rates {known}")
        filter_length, n_mels, segment_size, rates, kernels = SIZES[table, sample_rate_hz]
        return cls(
            train=TrainSection(segment_size=segment_size),
            data=DataSection(
                sampling_rate=sample_rate_hz,
                filter_length=filter_length,
                win_length=filter_length,
                hop_length=sample_rate_hz // FRAMES_PER_SECOND,
                n_mel_channels=n_mels,
            ),
            model=ModelSection(upsample_rates=rates, upsample_kernel_sizes=kernels),
            version=version,
            f0=f0,
        )

    @classmethod
    def small(cls) -> Config:
        """A voice that two CPU cores train in minutes: 32 kHz, bundled encoder, and a decoder at frame rate.

        Same text encoder, flow and posterior as the full size, narrower. Always with pitch guidance, which the
        decoder lives on. RVC itself cannot read such weights.
        """
        return cls(
            train=TrainSection(
                learning_rate=1e-3,
                batch_size=6,
                segment_size=64 * 320,
                fp16_run=False,
                log_interval=50,
                c_mel=10,
                c_kl=0.2,
                c_stft=2.5,
                c_prior=1.0,
                c_adversarial=0.0,
                lr_decay=0.998,
                max_frames=144,
            ),
            data=DataSection(
                sampling_rate=32000,
                filter_length=1024,
                win_length=1024,
                hop_length=320,
                n_mel_channels=80,
            ),
            model=ModelSection(
                inter_channels=96,
                hidden_channels=96,
                filter_channels=384,
                n_layers=3,
                upsample_rates=[320],
                upsample_kernel_sizes=[640],
                upsample_initial_channel=256,
                gin_channels=96,
                spk_embed_dim=1,
                content_width=96,
                speech_encoder="svcnb-units",
                vocoder_name=FRAME_DECODER,
                use_depthwise_conv=True,
            ),
            version="v2",
            f0=True,
        )

    @classmethod
    def load(
        cls, path: str | os.PathLike, *, version: Version | None = None, f0: bool | None = None
    ) -> Config:
        """Read a config.json, of RVC or ours.

        Args:
            version, f0: what the file does not tell, where it is RVC's own; None keeps the file's (else v2, with f0).

        Raises:
            SvcError: missing file, not JSON, no model section, values out of range.
        """
        path = Path(path)
        try:
            stored = json.loads(path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            raise SvcError(f"no config at {path}: expected the experiment's config.json") from None
        except (ValueError, UnicodeDecodeError) as error:
            raise SvcError(
                f"{path} is not a JSON config ({error}): give the experiment's config.json"
            ) from None
        if not isinstance(stored, dict) or not isinstance(stored.get("model"), dict):
            raise SvcError(f"{path} has no 'model' section: expected an RVC config.json")
        told = {
            "version": version,
            "f0": f0,
            "train": stored.get("train", {}),
            "data": stored.get("data", {}),
        }
        try:
            return cls.model_validate(
                stored | {name: value for name, value in told.items() if value is not None}
            )
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise SvcError(f"{path} does not fit an RVC config: {problems}") from None

    def save(self, path: str | os.PathLike) -> Path:
        """Write config.json: sorted keys, indent 4, as the original does."""
        return write_text(path, json.dumps(self.to_dict(), indent=4, sort_keys=True) + "\n")

    def to_dict(self) -> dict[str, Any]:
        """RVC's keys; ours only where they differ from their defaults."""
        stored = self.model_dump(mode="json")
        for section, keys in OUR_KEYS.items():
            fields = type(getattr(self, section)).model_fields
            for key in keys:
                if stored[section][key] == fields[key].default:
                    del stored[section][key]
        if not self.spk:
            del stored["spk"]
        return stored

    @property
    def schedule(self) -> Schedule:
        """How to train, where the user does not say otherwise."""
        train = self.train
        return Schedule(
            log_every_steps=train.log_interval,
            max_epochs=train.epochs,
            warmup_epochs=train.warmup_epochs,
            precision="fp16" if train.fp16_run else "fp32",
            precision_key="train.fp16_run",
        )

    @property
    def is_small(self) -> bool:
        """Whether the decoder is ours, so that RVC cannot read the weights."""
        return self.model.vocoder_name == FRAME_DECODER

    @property
    def encoder(self) -> str:
        """Name of the content encoder."""
        return self.model.speech_encoder or ENCODERS[self.version]

    @property
    def content_width(self) -> int:
        """Values per frame of the content."""
        return self.model.content_width or CONTENT_WIDTHS[self.version]

    def use_encoder(self, name: str, width: int) -> None:
        """Take another content encoder than the version's own; RVC itself then cannot use the voice."""
        own = (name, width) == (ENCODERS[self.version], CONTENT_WIDTHS[self.version])
        self.model.speech_encoder, self.model.content_width = (None, None) if own else (name, width)

    @property
    def segment_frames(self) -> int:
        return self.train.segment_size // self.data.hop_length

    @property
    def rate_name(self) -> str:
        """32k, 40k or 48k, as small models tell their rate."""
        return f"{self.data.sampling_rate // 1000}k"

    def settings(self) -> NetworkSettings:
        """Sizes of the networks."""
        known = NetworkSettings.__dataclass_fields__
        return NetworkSettings(
            spec_channels=self.data.filter_length // 2 + 1,
            segment_frames=self.segment_frames,
            sampling_rate=self.data.sampling_rate,
            with_f0=self.f0,
            **{name: value for name, value in self.model.model_dump().items() if name in known}
            | {"content_width": self.content_width},
        )

    def to_list(self) -> list:
        """The `config` of a small model: sizes in the order that the original's networks take them.

        The second, unused at inference, is 32 in all of the family's files.
        """
        m = self.model
        return [
            self.data.filter_length // 2 + 1,
            32,
            m.inter_channels,
            m.hidden_channels,
            m.filter_channels,
            m.n_heads,
            m.n_layers,
            m.kernel_size,
            m.p_dropout,
            m.resblock,
            m.resblock_kernel_sizes,
            m.resblock_dilation_sizes,
            m.upsample_rates,
            m.upsample_initial_channel,
            m.upsample_kernel_sizes,
            m.spk_embed_dim,
            m.gin_channels,
            self.data.sampling_rate,
        ]

    @classmethod
    def from_list(cls, listed: Sequence, *, version: Version, f0: bool) -> Config:
        """The config that a small model's list tells; losses and training settings are the family's.

        Raises:
            SvcError: not 18 entries, or one that cannot be.
        """
        if len(listed) != N_LISTED:
            raise SvcError(f"the small model's config has {len(listed)} entries, expected {N_LISTED}")
        names = (
            "inter_channels hidden_channels filter_channels n_heads n_layers kernel_size p_dropout resblock "
            "resblock_kernel_sizes resblock_dilation_sizes upsample_rates upsample_initial_channel upsample_kernel_sizes "
            "spk_embed_dim gin_channels"
        ).split()
        rate_hz = rate_of(listed[-1])
        filter_length = 2 * (listed[0] - 1)
        hop_length = rate_hz // FRAMES_PER_SECOND
        try:
            return cls(
                train=TrainSection(segment_size=listed[1] * hop_length),
                data=DataSection(
                    sampling_rate=rate_hz,
                    filter_length=filter_length,
                    win_length=filter_length,
                    hop_length=hop_length,
                ),
                model=ModelSection(**dict(zip(names, listed[2:-1], strict=True))),
                version=version,
                f0=f0,
            )
        except ValidationError as error:
            raise SvcError(
                f"the small model's config list does not fit: {error.errors()[0]['msg']}"
            ) from None


def rate_of(told: int | str) -> int:
    """Hz of a rate that files tell as 40000, "40000" or "40k"."""
    text = str(told).strip().lower()
    if text in RATE_NAMES:
        return RATE_NAMES[text]
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise SvcError(f"sample rate {told!r}: expected {', '.join(RATE_NAMES)} or a number of Hz")
