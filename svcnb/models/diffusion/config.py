"""The diffusion.yaml of so-vits-svc 4.1 (config.yaml beside its model_*.pt) as typed sections.

Source: so-vits-svc 4.1 configs_template/diffusion_template.yaml (keys, defaults, meanings).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from svcnb import MissingExtra, SvcError
from svcnb.files.config_file import ConfigFile, Section, unused
from svcnb.files.disk import write_text
from svcnb.models.diffusion.network import DenoiserSizes, Unit2Mel
from svcnb.models.diffusion.sampler import Method
from svcnb.models.vocoder.network import FRAME_VOCODER, VocoderSettings
from svcnb.training.settings import Precision, Schedule

LOG10_RATIO = 0.434294  # as the original writes it; vocoders of the log10 kind read such logarithms


class DiffusionData(Section):
    """What goes in. `sampling_rate` and `block_size` (samples per frame) are those of the vocoder."""

    sampling_rate: int = Field(44100, ge=1)
    block_size: int = Field(512, ge=1)
    duration: int | float = Field(2, gt=0, description="seconds of a clip that a step sees")
    encoder: str = "vec768l12"
    cnhubertsoft_gate: int | float = unused(10, "so-vits-svc itself only stores it")
    encoder_sample_rate: int = unused(16000, "the encoder knows its own rate")
    encoder_hop_size: int = unused(320, "the encoder knows its own hop")
    encoder_out_channels: int = Field(768, ge=1)
    training_files: str = unused(
        "filelists/train.txt", "the features hold the clips, and split.json which are held out"
    )
    validation_files: str = unused(
        "filelists/val.txt", "the features hold the clips, and split.json which are held out"
    )
    extensions: list[str] = unused(["wav"], "the features hold the clips")
    unit_interpolate_mode: str = "nearest"


class DiffusionModel(Section):
    type: Literal["Diffusion"] = "Diffusion"
    n_layers: int = Field(20, ge=1)
    n_chans: int = Field(512, ge=4, multiple_of=2)
    n_hidden: int = Field(256, ge=1)
    use_pitch_aug: bool = True
    timesteps: int = Field(1000, ge=2)
    k_step_max: int = Field(0, ge=0, description="noise steps to learn; 0 = all, which -od needs")
    n_spk: int = Field(1, ge=1)


class DiffusionVocoder(Section):
    type: Literal["nsf-hifigan", "nsf-hifigan-log10"] = "nsf-hifigan"
    ckpt: str = unused(
        "pretrain/nsf_hifigan/model", "name the vocoder with --vocoder, or put it beside the voice"
    )


class DiffusionInfer(Section):
    speedup: int = Field(10, ge=1, description="noise steps per evaluation; 1 takes every step")
    method: Method = "dpm-solver++"


class DiffusionEnvironment(Section):
    expdir: str = unused("logs/44k/diffusion", "the model is written into the folder diffusion of the voice")
    gpu_id: int = unused(0, "CUDA_VISIBLE_DEVICES chooses the GPU")


class DiffusionTrain(Section):
    num_workers: int = Field(4, ge=0, description="processes that read clips; 0 with cache_all_data")
    amp_dtype: Precision = Field("fp32", description="on a GPU")
    batch_size: int = Field(48, ge=1)
    cache_all_data: bool = True
    cache_device: str = unused("cpu", "clips are kept in the main memory")
    cache_fp16: bool = unused(True, "clips are kept as they are stored: content in float16, audio in 16 bits")
    epochs: int = Field(
        100000, ge=1, description="stop after so many, where neither steps nor minutes are limited"
    )
    interval_log: int = Field(10, ge=1, description="steps between logged losses")
    interval_val: int = Field(2000, ge=1, description="steps between checkpoints")
    interval_force_save: int = Field(5000, ge=1, description="checkpoints at multiples of this are kept")
    lr: float = Field(1e-4, gt=0)
    decay_step: int = Field(100000, ge=1, description="steps between two reductions of the learning rate")
    gamma: float = Field(0.5, gt=0, le=1)
    weight_decay: float = Field(0, ge=0)
    save_opt: bool = False


@dataclass(frozen=True)
class VoiceContent:
    """What a diffusion model takes over from its voice.

    Attributes:
        encoder: name of the content encoder.
        width: values per frame of its content.
        unit_interpolate_mode: how content is stretched to the voice's frames, "left" or "nearest".
        speakers: name -> id.
        is_small: whether the voice is of the small size, with our own decoder.
    """

    encoder: str
    width: int
    unit_interpolate_mode: str
    speakers: dict[str, int]
    is_small: bool

    @classmethod
    def read(cls, path: Path) -> VoiceContent:
        """From the config.json that `prepare` wrote beside the features.

        Raises:
            SvcError: there is none, or it lacks one of these keys.
        """
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            data, model = stored["data"], stored["model"]
            return cls(
                model["speech_encoder"],
                model["ssl_dim"],
                data["unit_interpolate_mode"],
                stored["spk"],
                model["vocoder_name"] == FRAME_VOCODER,
            )
        except FileNotFoundError:
            raise SvcError(f"no config at {path}: expected the folder that `svcnb features` made") from None
        except (ValueError, KeyError, TypeError) as error:
            raise SvcError(
                f"{path} is not a voice's config ({error!r}): extract the features again"
            ) from None


class Config(ConfigFile):
    """A diffusion model's config. `spk` maps speaker names to ids."""

    model_config = ConfigDict(extra="forbid")

    data: DiffusionData = Field(default_factory=DiffusionData)
    model: DiffusionModel = Field(default_factory=DiffusionModel)
    device: str = unused("cuda", "choose it with --device")
    vocoder: DiffusionVocoder = Field(default_factory=DiffusionVocoder)
    infer: DiffusionInfer = Field(default_factory=DiffusionInfer)
    env: DiffusionEnvironment = Field(default_factory=DiffusionEnvironment)
    train: DiffusionTrain = Field(default_factory=DiffusionTrain)
    spk: dict[str, int] = Field(default_factory=dict)

    @classmethod
    def full(cls) -> Config:
        """The family's own size, 55 million parameters, for a GPU; its checkpoints can be resumed."""
        return cls(train=DiffusionTrain(save_opt=True))

    @classmethod
    def small(cls) -> Config:
        """A shallow model for two CPU cores.

        Few layers and many channels: what goes through fewer than twice the mel bands forgets part of the noise
        (after 200 steps the loss is 0.84 with 4 layers of 256, 0.94 with 6 of 128).
        """
        return cls(
            model=DiffusionModel(n_layers=4, n_chans=256, n_hidden=96, k_step_max=200),
            train=DiffusionTrain(
                lr=1e-3,
                batch_size=8,
                decay_step=2000,
                num_workers=0,
                interval_val=800,
                interval_log=50,
                interval_force_save=100000,
                save_opt=True,
            ),
        )

    @classmethod
    def load(cls, path: str | os.PathLike, *, strict: bool = True) -> Config:
        """Read a diffusion.yaml of 4.1, or ours.

        Args:
            strict: False ignores keys this program does not know (files of forks have such).

        Raises:
            SvcError: missing file, not YAML, unknown keys (all named), values out of range.
        """
        path = Path(path)
        yaml = _import_yaml()
        try:
            stored = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SvcError(
                f"no diffusion config at {path}: expected the config.yaml beside the model_*.pt; "
                "give its path with -dc"
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SvcError(
                f"{path} is not a YAML config ({' '.join(str(error).split())}): "
                "give the model's config.yaml with -dc"
            ) from None
        if not isinstance(stored, dict) or not isinstance(stored.get("model"), dict):
            raise SvcError(f"{path} has no 'model' section: expected a so-vits-svc 4.1 diffusion.yaml (-dc)")
        if isinstance(stored.get("data"), dict):
            stored["data"].setdefault("unit_interpolate_mode", "left")  # as all 4.1 programs before that key
        if stored.get("spk") is None:
            stored.pop("spk", None)
        if not strict:
            _drop_unknown(stored)
        try:
            return cls.model_validate(stored)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise SvcError(f"{path} does not fit a so-vits-svc diffusion config: {problems}") from None

    def save(self, path: str | os.PathLike) -> Path:
        """Write the family's keys as YAML; the file appears whole or not at all."""
        text = _import_yaml().safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        return write_text(path, text)

    def for_voice(self, voice: VoiceContent, vocoder: VocoderSettings) -> Config:
        """This size of model for the content, the speakers and the vocoder of a voice."""
        config = self.model_copy(deep=True)
        config.data.sampling_rate, config.data.block_size = vocoder.sampling_rate, vocoder.hop_size
        config.data.encoder = voice.encoder
        config.data.encoder_out_channels = voice.width
        config.data.unit_interpolate_mode = voice.unit_interpolate_mode
        config.spk = dict(voice.speakers)
        config.model.n_spk = max(1, len(voice.speakers))
        return config

    def build(self, n_mels: int) -> Unit2Mel:
        """The network, without weights."""
        model = self.model
        return Unit2Mel(
            self.data.encoder_out_channels,
            model.n_spk,
            DenoiserSizes(n_mels, model.n_layers, model.n_chans, model.n_hidden),
            use_pitch_aug=model.use_pitch_aug,
            timesteps=model.timesteps,
            k_step_max=model.k_step_max,
        )

    @property
    def schedule(self) -> Schedule:
        """How to train, where the user does not say otherwise. As in the original few checkpoints are kept."""
        train = self.train
        return Schedule(
            save_every_steps=train.interval_val,
            log_every_steps=train.interval_log,
            keep_checkpoints=2,
            keep_every_steps=train.interval_force_save,
            max_epochs=train.epochs,
            n_loader_workers=train.num_workers,
            precision=train.amp_dtype,
            precision_key="train.amp_dtype",
        )

    @property
    def mel_ratio(self) -> float:
        """What the vocoder wants the natural logarithms multiplied by."""
        return LOG10_RATIO if self.vocoder.type == "nsf-hifigan-log10" else 1.0


def _import_yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtra('diffusion configs need PyYAML: pip install "svcnb[diffusion]"') from error
    return yaml


def _drop_unknown(stored: dict[str, Any]) -> None:
    for name in list(stored):
        field = Config.model_fields.get(name)
        if field is None:
            del stored[name]
        elif isinstance(stored[name], dict) and isinstance(field.annotation, type):
            stored[name] = {
                key: value for key, value in stored[name].items() if key in field.annotation.model_fields
            }
