"""Every key of every family's config either changes something that can be seen, or is named in one line when it is set.

The table of the keys that change nothing is in the configs themselves (`unused`); that of the others is ACTS: another value
for a key, and where the difference is seen. A key in neither fails the first test.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from pydantic import BaseModel, ValidationError

from svcnb import SvcError
from svcnb.files.config_file import UNUSED
from svcnb.models import rvc, sovits
from svcnb.training.settings import TrainSettings
from svcnb.training.state import settle
from tests.toys import key_effects as see

CONFIGS: dict[str, Callable[[], BaseModel]] = {
    "sovits": see.sovits_config, "rvc": see.rvc_config, "diffusion": see.diffusion_config, "vocoder": see.vocoder_config,
}  # fmt: skip

# family -> where the difference is seen -> key -> another value
ACTS: dict[str, dict[Callable[[Any, Path], object], dict[str, object]]] = {
    "sovits": {
        see.sovits_training: {
            "train.log_interval": 1, "train.eval_interval": 1, "train.seed": 7, "train.epochs": 1, "train.batch_size": 2,
            "train.warmup_epochs": 2, "train.keep_ckpts": 1, "train.vol_aug": True, "train.max_frames": 36,
            "data.sampling_rate": 16000, "data.hop_length": 32, "data.unit_interpolate_mode": "linear",
            "model.speech_encoder": "vec768l12", "spk": {"ada": 1, "bob": 0},
        },
        see.rates: {
            "train.learning_rate": 2e-3, "train.betas": (0.5, 0.6), "train.eps": 1e-2, "train.lr_decay": 0.5, "train.init_lr_ratio": 0.5,
        },
        see.losses: {
            "train.segment_size": 20 * 64, "train.c_mel": 1, "train.c_kl": 3, "train.c_stft": 1.0, "train.c_hear": 1.0,
            "train.c_prior": 1.0, "train.c_adversarial": 1.0,
        },
        see.spectra: {
            "data.filter_length": 512, "data.win_length": 128, "data.n_mel_channels": 10, "data.mel_fmin": 100,
            "data.mel_fmax": 3000, "train.loss_max_hz": 2000,
        },
        see.precision: {"train.fp16_run": True},
        see.half_precision: {"train.half_type": "bf16"},
        see.sovits_memory: {"train.all_in_mem": True},
        see.sovits_start: {"train.base_share": 0.2},
        see.sovits_discriminator: {"train.adversarial_after_steps": 1},
        see.sovits_network: {
            "model.inter_channels": 8, "model.hidden_channels": 8, "model.filter_channels": 16, "model.n_heads": 4,
            "model.n_layers": 2, "model.kernel_size": 5, "model.p_dropout": 0.5, "model.resblock": "2",
            "model.resblock_kernel_sizes": [5], "model.resblock_dilation_sizes": [[1, 5]], "model.upsample_rates": [4, 16],
            "model.upsample_initial_channel": 8, "model.upsample_kernel_sizes": [18, 16], "model.n_flow_layer": 2,
            "model.use_spectral_norm": True, "model.gin_channels": 4, "model.ssl_dim": 6, "model.n_speakers": 5,
            "model.vocoder_name": "nsf-snake-hifigan", "model.vol_embedding": False, "model.use_depthwise_conv": False,
            "model.flow_share_parameter": False, "model.use_automatic_f0_prediction": False, "model.use_transformer_flow": True,
        },
        see.sovits_transformer_flow: {"model.n_layers_trans_flow": 1},
    },
    "rvc": {
        see.rvc_training: {
            "train.log_interval": 1, "train.seed": 7, "train.epochs": 1, "train.batch_size": 2, "train.warmup_epochs": 2,
            "train.max_frames": 36, "data.sampling_rate": 16000, "data.hop_length": 32, "spk": {"ada": 2},
        },
        see.rates: {
            "train.learning_rate": 2e-3, "train.betas": (0.5, 0.6), "train.eps": 1e-2, "train.lr_decay": 0.5, "train.init_lr_ratio": 0.5,
        },
        see.losses: {
            "train.segment_size": 20 * 64, "train.c_mel": 1, "train.c_kl": 3, "train.c_stft": 1.0, "train.c_hear": 1.0,
            "train.c_prior": 1.0, "train.c_adversarial": 1.0,
        },
        see.spectra: {
            "data.filter_length": 512, "data.win_length": 128, "data.n_mel_channels": 10, "data.mel_fmin": 100,
            "data.mel_fmax": 3000,
        },
        see.precision: {"train.fp16_run": True},
        see.rvc_content: {"version": "v1", "model.content_width": 5, "model.speech_encoder": "vec256l9"},
        see.rvc_network: {
            "f0": False, "model.inter_channels": 8, "model.hidden_channels": 8, "model.filter_channels": 16, "model.n_heads": 4,
            "model.n_layers": 2, "model.kernel_size": 5, "model.p_dropout": 0.5, "model.resblock": "2",
            "model.resblock_kernel_sizes": [5], "model.resblock_dilation_sizes": [[1, 5]], "model.upsample_rates": [4, 16],
            "model.upsample_initial_channel": 8, "model.upsample_kernel_sizes": [18, 16], "model.use_spectral_norm": True,
            "model.gin_channels": 2, "model.spk_embed_dim": 5, "model.vocoder_name": "svcnb-frame", "model.use_depthwise_conv": True,
        },
    },
    "diffusion": {
        see.diffusion_training: {
            "train.interval_log": 1, "train.interval_val": 2, "train.interval_force_save": 2, "train.epochs": 1, "train.lr": 2e-3,
            "train.batch_size": 2, "train.decay_step": 1, "train.gamma": 0.1, "train.weight_decay": 0.9, "train.save_opt": False,
            "data.duration": 0.2, "model.use_pitch_aug": False,
        },
        see.precision: {"train.amp_dtype": "bf16"},
        see.diffusion_memory: {"train.cache_all_data": False},
        see.diffusion_workers: {"train.num_workers": 2},
        see.diffusion_resumed: {
            "data.sampling_rate": 16000, "data.block_size": 32, "data.encoder": "vec256l9", "data.encoder_out_channels": 6,
            "model.n_spk": 3, "spk": {"ada": 1, "bob": 0},
        },
        see.diffusion_crops: {"data.unit_interpolate_mode": "linear"},
        see.diffusion_network: {"model.n_layers": 3, "model.n_chans": 6, "model.n_hidden": 4, "model.timesteps": 30, "model.k_step_max": 9},
        see.diffusion_conversion: {"infer.speedup": 5, "infer.method": "ddim", "vocoder.type": "nsf-hifigan-log10"},
    },
    "vocoder": {
        see.vocoder_training: {
            "batch_size": 2, "seed": 7, "segment_size": 20 * 64, "num_mels": 12, "hop_size": 32, "sampling_rate": 16000,
            "fmin": 100, "fmax": 3000, "fmax_for_loss": 2000, "vocoder_name": "nsf-hifigan", "frame_channels": 12,
            "frame_blocks": 1, "c_mel": 1.0, "c_stft": 1.0,
        },
        see.vocoder_rates: {"learning_rate": 2e-3, "adam_b1": 0.5, "adam_b2": 0.5, "lr_decay": 0.5},
        see.vocoder_discriminator: {"c_adversarial": 1.0},
        see.vocoder_mel: {"n_fft": 512, "win_size": 128},
        see.vocoder_network: {
            "resblock": "2", "upsample_rates": [4, 16], "upsample_kernel_sizes": [18, 16], "upsample_initial_channel": 8,
            "resblock_kernel_sizes": [5], "resblock_dilation_sizes": [[1, 5]], "discriminator_periods": [2, 3],
        },
    },
}  # fmt: skip


REFUSED: dict[str, set[str]] = {
    "sovits": set(),
    "rvc": set(),
    "diffusion": {"model.type"},
    "vocoder": set(),
}  # has one value


def keys_of(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, bool, object]]:
    """(key, whether it is unused, its value) of a config, sections gone into."""
    for name, field in type(section).model_fields.items():
        value, extra = getattr(section, name), field.json_schema_extra
        if isinstance(value, BaseModel):
            yield from keys_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", isinstance(extra, dict) and UNUSED in extra, value


def changed(config: BaseModel, key: str, value: object) -> BaseModel:
    """A copy with another value."""
    copy = config.model_copy(deep=True)
    *sections, name = key.split(".")
    owner = copy
    for section in sections:
        owner = getattr(owner, section)
    setattr(owner, name, value)
    return copy


PROBES = [
    (family, look, key, value)
    for family, looks in ACTS.items()
    for look, keys in looks.items()
    for key, value in keys.items()
]
SILENT = [
    (family, key) for family, make in CONFIGS.items() for key, is_unused, _ in keys_of(make()) if is_unused
]


@pytest.mark.parametrize("family", CONFIGS)
def test_every_key_either_acts_or_is_named_when_it_is_set(family: str) -> None:
    acting = {key for keys in ACTS[family].values() for key in keys}
    silent = {key for key, is_unused, _ in keys_of(CONFIGS[family]()) if is_unused}
    assert not acting & silent
    assert acting | silent | REFUSED[family] == {key for key, _, _ in keys_of(CONFIGS[family]())}


def test_another_kind_of_diffusion_model_is_refused() -> None:
    with pytest.raises(ValidationError, match="type"):
        see.diffusion_config().model.type = "Transformer"


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable], object]:
    """What is seen with the unchanged config; twice the same, or a difference would mean nothing."""
    seen: dict[tuple[str, Callable], object] = {}

    def look_once(family: str, look: Callable[[BaseModel, Path], object]) -> object:
        if (family, look) not in seen:
            first, second = (look(CONFIGS[family](), tmp_path_factory.mktemp(family)) for _ in range(2))
            assert first == second
            seen[family, look] = first
        return seen[family, look]

    return look_once


@pytest.mark.parametrize(
    "family, look, key, value", PROBES, ids=[f"{probe[0]}-{probe[2]}" for probe in PROBES]
)
def test_a_key_that_acts_changes_what_is_seen(
    family: str, look: Callable[[BaseModel, Path], object], key: str, value: object, before, tmp_path: Path
) -> None:
    config = CONFIGS[family]()
    other = changed(config, key, value)
    assert other != config, f"{value!r} is the value that {key} has"
    assert look(other, tmp_path) != before(family, look)


@pytest.mark.parametrize("family, key", SILENT, ids=[f"{family}-{key}" for family, key in SILENT])
def test_a_key_that_changes_nothing_is_named_in_one_line_with_its_file_when_it_is_set(
    family: str, key: str, caplog
) -> None:
    config = CONFIGS[family]()
    value = dict((name, value) for name, _, value in keys_of(config))[key]
    other = {bool: lambda v: not v, str: lambda v: v + "x", list: lambda v: [*v, "x"]}.get(
        type(value), lambda v: v + 1
    )(value)
    config.warn_of_unused("my.json")
    assert not caplog.messages
    changed(config, key, other).warn_of_unused("my.json")
    (line,) = caplog.messages
    assert line.startswith(f"my.json: {key} is not used: ") and "\n" not in line


@pytest.mark.parametrize(
    "config",
    [
        sovits.Config.small(),
        sovits.Config.full(),
        sovits.Config.full("4.0"),
        rvc.Config.small(),
        rvc.Config.full(),
        type(see.diffusion_config()).small(),
        type(see.diffusion_config()).full(),
        type(see.vocoder_config()).small(),
        type(see.vocoder_config()).full(),
    ],
)
def test_the_sizes_that_we_offer_set_no_key_that_changes_nothing(config, caplog) -> None:
    config.warn_of_unused("config.json")
    assert not caplog.messages


def test_unknown_keys_of_an_rvc_config_are_named_together(tmp_path: Path, caplog) -> None:
    stored = see.rvc_config().to_dict() | {"pretrainG": "f0G40k.pth", "if_latest": 1}
    stored["data"]["training_files"] = "filelist.txt"
    (tmp_path / "config.json").write_text(json.dumps(stored))
    rvc.Config.load(tmp_path / "config.json").warn_of_unused("config.json")
    (line,) = caplog.messages
    assert all(name in line for name in ("data.training_files", "pretrainG", "if_latest"))


@pytest.mark.parametrize(
    "train", [see.sovits_training, see.rvc_training, see.diffusion_training, see.vocoder_training]
)
def test_every_training_names_the_keys_that_change_nothing(train: Callable, tmp_path: Path, caplog) -> None:
    family = train.__name__.split("_")[0]
    key = {
        "sovits": "train.port",
        "rvc": "data.max_wav_value",
        "diffusion": "env.gpu_id",
        "vocoder": "num_gpus",
    }[family]
    with caplog.at_level(logging.WARNING, logger="svcnb.files.config_file"):
        train(changed(CONFIGS[family](), key, "8002" if family == "sovits" else 5), tmp_path)
    lines = [message for message in caplog.messages if "is not used" in message]
    assert len(lines) == 1 and key in lines[0] and "config." in lines[0]


# --- precision, and what the user gives ---------------------------------------------------------------------------


def test_on_the_cpu_a_half_precision_of_the_config_is_not_used_and_one_line_says_so(caplog) -> None:
    config = changed(see.sovits_config(), "train.fp16_run", True)
    settings = settle(TrainSettings(device="cpu"), config.schedule, "me/config.json")
    assert settings.precision == "fp32"
    (line,) = caplog.messages
    assert line.startswith("me/config.json: train.fp16_run is for GPUs")


def test_a_value_that_the_user_gives_wins_over_the_config() -> None:
    config = see.sovits_config()
    config.train.fp16_run, config.train.epochs, config.train.eval_interval = True, 3, 7
    given = TrainSettings(
        precision="fp32", save_every_steps=5, keep_checkpoints=0, max_steps=9, warmup_epochs=0
    )
    with patch("svcnb.training.state.uses_gpu", return_value=True):
        settings = settle(given, config.schedule, "config.json")
    assert (settings.precision, settings.save_every_steps, settings.keep_checkpoints) == ("fp32", 5, 0)
    assert settings.max_epochs is None and settings.log_every_steps == config.train.log_interval
    assert settle(TrainSettings(max_epochs=2), config.schedule, "config.json").max_epochs == 2
    assert settle(TrainSettings(), config.schedule, "config.json").max_epochs == 3


def test_the_small_sizes_save_and_log_as_often_as_before() -> None:
    for config in (
        sovits.Config.small(),
        rvc.Config.small(),
        type(see.diffusion_config()).small(),
        type(see.vocoder_config()).small(),
    ):
        settings = TrainSettings(max_steps=1).filled(config.schedule)
        assert (settings.save_every_steps, settings.log_every_steps, settings.precision) == (800, 50, "fp32")
        assert settings.max_epochs is None and settings.warmup_epochs == 0
    assert (
        sovits.Config.small().schedule.keep_checkpoints == rvc.Config.small().schedule.keep_checkpoints == 3
    )


def test_rvcs_total_epochs_win_over_the_configs(tmp_path: Path) -> None:
    from svcnb.models.settings import EpochChoices

    config = changed(see.rvc_config(), "train.epochs", 1)
    assert see.train_rvc(config, tmp_path, EpochChoices(total_epochs=2)).stopped_by == "max_steps"


def test_a_config_with_the_removed_key_shift_loads_with_one_warning_that_says_why(
    tmp_path: Path, caplog
) -> None:
    stored = sovits.Config.small().to_dict()
    stored["train"]["key_shift_semitones"] = 3.0
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with caplog.at_level(logging.WARNING):
        assert sovits.Config.load(tmp_path / "config.json") == sovits.Config.small()
    (line,) = caplog.messages
    assert (
        str(tmp_path / "config.json") in line
        and "key_shift_semitones" in line
        and "lowered the similarity" in line
    )


def test_warmup_below_zero_is_refused(tmp_path: Path) -> None:
    stored = sovits.Config.small().to_dict()
    stored["train"]["warmup_epochs"] = -1
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(SvcError, match="train.warmup_epochs"):
        sovits.Config.load(tmp_path / "config.json")
