"""The so-vits-svc config.json as typed sections, and the `small` configuration of our own.

Source: so-vits-svc 4.0 and 4.1 configs_template/config_template.json (keys, defaults, meanings).
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from svcnb import SvcError
from svcnb.files.config_file import ConfigFile, Section, unused
from svcnb.files.disk import write_text
from svcnb.training.settings import Precision, Schedule

# Width of the content features per encoder; the prior's feed-forward grows with the wide ones.
CONTENT_FILTER_CHANNELS = {1024: 1024, 1280: 1280}
FRAME_DECODER = "svcnb-frame"
log = logging.getLogger(__name__)


class TrainSection(Section):
    """How to train. The last eight keys are ours; they are written only when they differ from the defaults."""

    log_interval: int = Field(200, ge=1, description="steps between logged losses")
    eval_interval: int = Field(800, ge=1, description="steps between checkpoints")
    seed: int = 1234
    epochs: int = Field(
        10000, ge=1, description="stop after so many, where neither steps nor minutes are limited"
    )
    learning_rate: float = Field(1e-4, gt=0)
    betas: tuple[float, float] = (0.8, 0.99)
    eps: float = 1e-9
    batch_size: int = Field(6, ge=1)
    fp16_run: bool = Field(False, description="train in half_type on a GPU")
    half_type: str = Field("fp16", description="bf16, or else fp16")
    lr_decay: float = Field(0.999875, gt=0, le=1)
    segment_size: int = Field(10240, ge=1, description="samples the decoder sees per clip")
    init_lr_ratio: int | float = Field(1, gt=0, description="factor on the learning rate at the start")
    warmup_epochs: int = Field(
        0, ge=0, description="epochs over which the learning rate rises to its full value"
    )
    c_mel: int | float = 45
    c_kl: int | float = 1.0
    use_sr: bool = unused(True, "so-vits-svc itself only stores it")
    max_speclen: int = unused(512, "so-vits-svc itself only stores it; clips are cropped to max_frames (800)")
    port: str = unused("8001", "the processes of a training choose a free port")
    keep_ckpts: int = Field(3, ge=0, description="checkpoints kept per letter, 0 = all")
    all_in_mem: bool = Field(False, description="keep all clips in memory (always so with the small size)")
    vol_aug: bool = False
    c_stft: float = Field(0.0, description="weight of the multi-resolution STFT loss")
    c_hear: float = Field(0.0, description="weight of what the bundled content encoder hears differently")
    c_prior: float = Field(
        0.0, description="weight of the spectral losses on what the prior alone decodes to"
    )
    c_adversarial: float = Field(
        1.0, description="weight of the discriminator's two losses; 0 trains without one"
    )
    adversarial_after_steps: int = Field(0, ge=0, description="step from which the discriminator takes part")
    max_frames: int = Field(800, ge=20, description="longer clips are cropped to this, at random")
    loss_max_hz: float | None = Field(
        None, gt=0, description="spectral losses look below this: recordings end there"
    )
    base_share: float = Field(
        0.0, ge=0, lt=1, description="part of the base's weights in those that are saved"
    )


class DataSection(Section):
    training_files: str = unused(
        "filelists/train.txt", "the features hold the clips, and split.json which are held out"
    )
    validation_files: str = unused(
        "filelists/val.txt", "the features hold the clips, and split.json which are held out"
    )
    max_wav_value: int | float = unused(32768.0, "audio is stored as 16-bit samples of full scale 32768")
    sampling_rate: int = 44100
    filter_length: int = 2048
    hop_length: int = 512
    win_length: int = 2048
    n_mel_channels: int = 80
    mel_fmin: int | float = 0.0
    mel_fmax: int | float | None = 22050
    unit_interpolate_mode: str = "nearest"


class ModelSection(Section):
    inter_channels: int = 192
    hidden_channels: int = 192
    filter_channels: int = 768
    n_heads: int = 2
    n_layers: int = 6
    kernel_size: int = 3
    p_dropout: float = 0.1
    resblock: str = "1"
    resblock_kernel_sizes: list[int] = [3, 7, 11]
    resblock_dilation_sizes: list[list[int]] = [[1, 3, 5], [1, 3, 5], [1, 3, 5]]
    upsample_rates: list[int] = [8, 8, 2, 2, 2]
    upsample_initial_channel: int = 512
    upsample_kernel_sizes: list[int] = [16, 16, 4, 4, 4]
    n_layers_q: int = unused(3, "the posterior encoder has 16 layers, in so-vits-svc too")
    n_layers_trans_flow: int = 3
    n_flow_layer: int = 4
    use_spectral_norm: bool = False
    gin_channels: int = 768
    ssl_dim: int = 768
    n_speakers: int = 200
    vocoder_name: str = "nsf-hifigan"
    speech_encoder: str | None = "vec768l12"
    speaker_embedding: bool = unused(
        False, "so-vits-svc itself only stores it; every voice has speaker vectors"
    )
    vol_embedding: bool = False
    use_depthwise_conv: bool = False
    flow_share_parameter: bool = False
    use_automatic_f0_prediction: bool = True
    use_transformer_flow: bool = False


OUR_TRAIN_KEYS = (
    "c_stft", "c_hear", "c_prior", "c_adversarial", "adversarial_after_steps", "max_frames", "loss_max_hz", "base_share",
)  # fmt: skip


class Config(ConfigFile):
    """A voice's config.json. `spk` maps speaker names to ids."""

    model_config = ConfigDict(extra="forbid")

    train: TrainSection = Field(default_factory=TrainSection)
    data: DataSection = Field(default_factory=DataSection)
    model: ModelSection = Field(default_factory=ModelSection)
    spk: dict[str, int] = Field(default_factory=dict)

    @classmethod
    def full(cls, version: Literal["4.0", "4.1"] = "4.1") -> Config:
        """The family's own size: 44.1 kHz, hop 512, NSF-HiFi-GAN; meant for a GPU."""
        if version == "4.1":
            return cls()
        config = cls()
        config.model.ssl_dim = config.model.gin_channels = 256
        config.model.speech_encoder = "vec256l9"
        return config

    @classmethod
    def small(cls) -> Config:
        """A voice that two CPU cores train in minutes: 22.05 kHz, hop 256 (the frame grid of 44.1 kHz / 512).

        Same prior, flow and posterior as the full size, narrower; the decoder works at frame rate.
        """
        return cls(
            train=TrainSection(
                learning_rate=1e-3,
                batch_size=6,
                segment_size=64 * 256,
                eval_interval=800,
                log_interval=50,
                c_mel=10,
                c_kl=0.2,
                c_stft=2.5,
                c_hear=6.0,
                c_prior=1.0,
                c_adversarial=0.0,
                lr_decay=0.998,
                max_frames=128,
            ),
            data=DataSection(
                sampling_rate=22050,
                filter_length=1024,
                hop_length=256,
                win_length=1024,
                mel_fmax=11025,
            ),
            model=ModelSection(
                inter_channels=96,
                hidden_channels=96,
                filter_channels=384,
                n_layers=3,
                n_flow_layer=2,
                upsample_rates=[256],
                upsample_kernel_sizes=[512],
                upsample_initial_channel=256,
                gin_channels=96,
                ssl_dim=96,
                n_speakers=1,
                vocoder_name=FRAME_DECODER,
                speech_encoder="svcnb-units",
                flow_share_parameter=True,
                use_depthwise_conv=True,
            ),
        )

    @classmethod
    def load(cls, path: str | os.PathLike, *, strict: bool = True) -> Config:
        """Read a config.json of 4.0, 4.1 or our own.

        Keys a 4.0 file lacks take the 4.1 program's defaults for missing keys, except that the encoder is
        left open (None): it is inferred from `ssl_dim` when the voice is loaded.

        Args:
            strict: False ignores keys this program does not know (files of forks have such).

        Raises:
            SvcError: missing file, not JSON, unknown keys (all named), values out of range.
        """
        path = Path(path)
        try:
            stored = json.loads(path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            raise SvcError(
                f"no config at {path}: expected the voice's config.json; give its path with -c"
            ) from None
        except (ValueError, UnicodeDecodeError) as error:
            raise SvcError(f"{path} is not a JSON config ({error}): give the voice's config.json") from None
        if not isinstance(stored, dict) or not isinstance(stored.get("model"), dict):
            raise SvcError(f"{path} has no 'model' section: expected a so-vits-svc 4.0 or 4.1 config.json")
        if "c_dim" in stored.get("data", {}):
            raise SvcError(
                f"{path} is a so-vits-svc 4.0-v2 (VISinger2) config: only 4.0 and 4.1 are supported"
            )
        _fill_what_older_versions_lack(stored)
        if "key_shift_semitones" in stored["train"]:
            del stored["train"]["key_shift_semitones"]
            log.warning(
                "%s: train.key_shift_semitones is ignored: training on transposed clips was removed because it lowered "
                "the similarity to the speaker",
                path,
            )
        if not strict:
            _drop_unknown(stored)
        try:
            return cls.model_validate(stored)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise SvcError(f"{path} does not fit a so-vits-svc config: {problems}") from None

    def to_dict(self) -> dict[str, Any]:
        """The family's keys; ours only where they differ from their defaults."""
        stored = self.model_dump(mode="json")
        defaults = TrainSection()
        for key in OUR_TRAIN_KEYS:
            if stored["train"][key] == getattr(defaults, key):
                del stored["train"][key]
        return stored

    def save(self, path: str | os.PathLike) -> Path:
        """Write config.json, indent 2, temporary name first."""
        return write_text(path, json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")

    def use_encoder(self, name: str, width: int) -> None:
        """Set what the choice of the content encoder sets (widths), as the family's preprocessing does."""
        self.model.speech_encoder = name
        self.model.ssl_dim = width
        if self.model.vocoder_name != FRAME_DECODER:
            self.model.gin_channels = width
            self.model.filter_channels = CONTENT_FILTER_CHANNELS.get(width, self.model.filter_channels)

    @property
    def schedule(self) -> Schedule:
        """How to train, where the user does not say otherwise."""
        train = self.train
        half: Precision = "bf16" if train.half_type == "bf16" else "fp16"
        return Schedule(
            save_every_steps=train.eval_interval,
            log_every_steps=train.log_interval,
            keep_checkpoints=train.keep_ckpts,
            max_epochs=train.epochs,
            warmup_epochs=train.warmup_epochs,
            precision=half if train.fp16_run else "fp32",
            precision_key="train.fp16_run",
        )

    @property
    def is_small(self) -> bool:
        """Whether the decoder is ours, so that the family's own programs cannot read the weights."""
        return self.model.vocoder_name == FRAME_DECODER

    @property
    def segment_frames(self) -> int:
        return self.train.segment_size // self.data.hop_length


def _fill_what_older_versions_lack(stored: dict[str, Any]) -> None:
    if "unit_interpolate_mode" not in stored.setdefault("data", {}):
        stored["data"]["unit_interpolate_mode"] = "left"
    stored["model"].setdefault("speech_encoder", None)
    stored.setdefault("train", {})
    stored["spk"] = speaker_ids(stored.get("spk"))


def speaker_ids(spk: Any) -> Any:
    """The `spk` of a config as name -> id: some collections hold a list of names, one name, or id -> name."""
    if isinstance(spk, str):
        return {spk: 0}
    if isinstance(spk, list):
        return {str(name): number for number, name in enumerate(spk)}
    if isinstance(spk, dict) and all(isinstance(name, str) and not name.isdigit() for name in spk.values()):
        return {name: number for number, name in spk.items()}
    return {} if spk is None else spk


def _drop_unknown(stored: dict[str, Any]) -> None:
    sections: dict[str, type[Section]] = {"train": TrainSection, "data": DataSection, "model": ModelSection}
    for key in list(stored):
        if key not in Config.model_fields:
            del stored[key]
    for name, section in sections.items():
        stored[name] = {key: value for key, value in stored[name].items() if key in section.model_fields}
