"""RVC's config: the family's sizes, its files, and the list in its small models."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from svcnb import SvcError
from svcnb.models.rvc.config import SIZES, Config, rate_of


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("rate_hz", [32000, 40000, 48000])
def test_every_choice_has_a_hundred_frames_a_second(version: str, rate_hz: int) -> None:
    config = Config.full(version, rate_hz)
    assert math.prod(config.model.upsample_rates) == config.data.hop_length == rate_hz // 100
    assert config.train.segment_size % config.data.hop_length == 0


def test_v2_at_40_khz_has_the_sizes_of_v1() -> None:
    assert Config.full("v2", 40000).model == Config.full("v1", 40000).model
    assert ("v2", 40000) not in SIZES


def test_an_unknown_rate_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SvcError, match="32000, 40000, 48000"):
        Config.full("v2", 44100)


def test_a_file_comes_back_as_it_was_with_the_keys_of_a_run(tmp_path: Path) -> None:
    config = Config.full("v1", 48000, f0=False)
    stored = json.loads(config.save(tmp_path / "config.json").read_text())
    stored["train"]["total_epoch"] = 20  # RVC adds such keys when it runs
    (tmp_path / "config.json").write_text(json.dumps(stored))
    again = Config.load(tmp_path / "config.json")
    assert (
        again.model == config.model
        and again.data == config.data
        and (again.version, again.f0) == ("v1", False)
    )
    assert again.train.total_epoch == 20


def test_version_and_f0_which_rvc_has_on_its_command_line_can_be_given(tmp_path: Path) -> None:
    stored = json.loads(Config.full("v1").save(tmp_path / "config.json").read_text())
    del stored["version"], stored["f0"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    config = Config.load(tmp_path / "config.json", version="v1", f0=False)
    assert (config.version, config.f0, config.settings().content_width) == ("v1", False, 256)


@pytest.mark.parametrize(("version", "rate_hz"), [("v1", 40000), ("v2", 48000), ("v2", 32000)])
def test_the_list_of_a_small_model_defines_the_whole_network(version: str, rate_hz: int) -> None:
    config = Config.full(version, rate_hz)
    listed = config.to_list()
    assert len(listed) == 18 and listed[1] == 32 and listed[-3:] == [109, 256, rate_hz]
    again = Config.from_list([*listed[:-1], f"{rate_hz // 1000}k"], version=version, f0=True)
    assert again.to_list() == listed and again.model == config.model


def test_a_list_of_another_length_is_refused() -> None:
    with pytest.raises(SvcError, match="17 entries, expected 18"):
        Config.from_list(Config.full().to_list()[1:], version="v2", f0=True)


def test_rates_are_read_in_every_spelling() -> None:
    assert [rate_of(value) for value in (40000, "40k", "48000", "32K")] == [40000, 40000, 48000, 32000]
    with pytest.raises(SvcError, match="'fast'"):
        rate_of("fast")


def test_errors_about_broken_files_name_the_problem(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    wrong = {"{": "not a JSON", "{}": "no 'model' section", '{"model": {"n_layers": "x"}}': "model.n_layers"}
    for content, message in wrong.items():
        path.write_text(content)
        with pytest.raises(SvcError, match=message):
            Config.load(path)
    with pytest.raises(SvcError, match="no config at"):
        Config.load(tmp_path / "none.json")


def test_rvcs_own_sizes_are_written_without_our_keys(tmp_path: Path) -> None:
    stored = json.loads(Config.full("v2", 48000).save(tmp_path / "config.json").read_text())
    assert set(stored["train"]) == {
        "log_interval",
        "seed",
        "epochs",
        "learning_rate",
        "betas",
        "eps",
        "batch_size",
        "fp16_run",
        "lr_decay",
        "segment_size",
        "init_lr_ratio",
        "warmup_epochs",
        "c_mel",
        "c_kl",
    }
    assert not {"content_width", "speech_encoder", "vocoder_name"} & set(stored["model"])


def test_the_small_size_is_recognised_in_its_file(tmp_path: Path) -> None:
    config = Config.load(Config.small().save(tmp_path / "config.json"))
    assert config == Config.small() and config.is_small and not Config.full().is_small
    assert (config.encoder, config.content_width, config.settings().content_width) == ("svcnb-units", 96, 96)


def test_another_encoder_is_kept_and_the_versions_own_is_not_named() -> None:
    config = Config.full("v1")
    config.use_encoder("svcnb-units", 96)
    assert (config.encoder, config.settings().content_width) == ("svcnb-units", 96)
    config.use_encoder("vec256l9", 256)
    assert (config.model.speech_encoder, config.encoder, config.content_width) == (None, "vec256l9", 256)
