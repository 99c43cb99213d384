"""RVC's checkpoint files are read in all known variants, and written so that RVC reads them."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from svcnb import SvcError
from svcnb.files.checkpoint import load_weights, to_plain_names
from svcnb.files.unpickling import CheckpointError
from svcnb.models.rvc.checkpoint import (
    RvcCheckpoint,
    SmallModel,
    extract_small_model,
    merge_small_models,
    read_rvc_checkpoint,
    read_small_model,
    set_info,
    write_rvc_checkpoint,
    write_small_model,
)
from svcnb.models.rvc.config import Config
from svcnb.models.rvc.network import RvcSynthesizer


def tiny_config(version: str = "v2", *, f0: bool = True, n_speakers: int = 3) -> Config:
    config = Config.full(version, 40000, f0=f0)
    sizes = {
        "inter_channels": 4,
        "hidden_channels": 4,
        "filter_channels": 8,
        "n_layers": 1,
        "gin_channels": 4,
    }
    config.model = config.model.model_copy(
        update=sizes | {"upsample_initial_channel": 32, "spk_embed_dim": n_speakers}
    )
    return config


def tiny_model(version: str = "v2", *, f0: bool = True, n_speakers: int = 3, seed: int = 0) -> SmallModel:
    torch.manual_seed(seed)
    config = tiny_config(version, f0=f0, n_speakers=n_speakers)
    return SmallModel.of(RvcSynthesizer(config.settings()).state_dict(), config, info="20epoch")


def stored_model(**changes: object) -> OrderedDict:
    model = tiny_model("v1")
    weight = {name: value.half() for name, value in model.weights.items()}
    contents = OrderedDict(
        weight=weight, config=model.config.to_list(), info="20epoch", sr="40k", f0=1, version="v1"
    )
    contents.update(changes)
    return contents


@pytest.mark.parametrize(("version", "f0"), [("v1", True), ("v2", True), ("v2", False)])
def test_a_small_model_has_exactly_rvcs_keys_types_and_shapes(tmp_path: Path, version: str, f0: bool) -> None:
    model = tiny_model(version, f0=f0)
    stored = torch.load(write_small_model(tmp_path / "me.pth", model), weights_only=True)
    assert list(stored) == ["weight", "config", "info", "sr", "f0", "version"]
    assert (stored["info"], stored["sr"], stored["f0"], stored["version"]) == (
        "20epoch",
        "40k",
        int(f0),
        version,
    )
    assert type(stored["f0"]) is int and type(stored["config"]) is list and len(stored["config"]) == 18
    assert all(value.dtype == torch.float16 for value in stored["weight"].values())
    whole = to_plain_names(RvcSynthesizer(model.config.settings()).state_dict())
    expected = {name: tuple(value.shape) for name, value in whole.items() if "enc_q" not in name}
    assert {name: tuple(value.shape) for name, value in stored["weight"].items()} == expected
    assert ("enc_p.emb_pitch.weight" in expected) == f0


def test_a_small_model_round_trips_and_loads_into_a_network(tmp_path: Path) -> None:
    model = tiny_model("v2")
    again = read_small_model(write_small_model(tmp_path / "me.pth", model))
    assert again.config.to_list() == model.config.to_list() and str(again) == str(model)
    network = RvcSynthesizer(again.config.settings())
    report = load_weights(network, again.weights, may_miss=("enc_q.",))
    assert all(name.startswith("enc_q.") for name in report.missing)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": None},
        {"sr": 40000},
        {"sr": "40000"},
        {"f0": True},
        {"f0": "1"},
        {"author": "somebody", "epoch": 20},
    ],
)
def test_every_known_variant_is_read(tmp_path: Path, changes: dict) -> None:
    stored = stored_model(**changes)
    if stored["version"] is None:
        del stored["version"]  # older files
    torch.save(stored, tmp_path / "odd.pth")
    model = read_small_model(tmp_path / "odd.pth")
    assert (model.config.version, model.config.data.sampling_rate, model.config.f0) == ("v1", 40000, True)
    assert set(model.extra) == {"author", "epoch"} & set(changes)


def test_the_number_of_speakers_comes_from_the_weights(tmp_path: Path) -> None:
    stored = stored_model()
    stored["config"][-3] = 109  # as trained; the file has fewer
    torch.save(stored, tmp_path / "few.pth")
    assert read_small_model(tmp_path / "few.pth").config.model.spk_embed_dim == 3


def test_extra_keys_survive_a_change_of_the_info(tmp_path: Path) -> None:
    torch.save(stored_model(author="somebody"), tmp_path / "me.pth")
    set_info(tmp_path / "me.pth", "better now")
    model = read_small_model(tmp_path / "me.pth")
    assert (model.info, model.extra) == ("better now", {"author": "somebody"})


def test_other_files_are_not_taken_for_small_models(tmp_path: Path) -> None:
    torch.save({"model": {}, "iteration": 1}, tmp_path / "G_1.pth")
    with pytest.raises(SvcError, match="extract a small model"):
        read_small_model(tmp_path / "G_1.pth")
    torch.save(stored_model(), tmp_path / "small.pth")
    with pytest.raises(SvcError, match="cannot be trained on"):
        read_rvc_checkpoint(tmp_path / "small.pth")
    torch.save(stored_model(sr="48k"), tmp_path / "two.pth")
    with pytest.raises(SvcError, match="two sample rates"):
        read_small_model(tmp_path / "two.pth")
    torch.save(stored_model(f0="perhaps"), tmp_path / "f0.pth")
    with pytest.raises(SvcError, match="expected 0 or 1"):
        read_small_model(tmp_path / "f0.pth")


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (print, ("run",))

    for number, content in enumerate(({"weight": Evil()}, {"model": Evil()})):
        path = tmp_path / f"{number}.pth"
        torch.save(content, path, pickle_module=pickle)
        for read in (read_small_model, read_rvc_checkpoint):
            with pytest.raises(CheckpointError):
                read(path)


def test_checkpoints_have_rvcs_four_keys(tmp_path: Path) -> None:
    network = RvcSynthesizer(tiny_config().settings())
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    written = RvcCheckpoint(network.state_dict(), 7, optimizer.state_dict(), 1e-4)
    stored = torch.load(write_rvc_checkpoint(tmp_path / "G_70.pth", written), weights_only=True)
    assert list(stored) == ["model", "iteration", "optimizer", "learning_rate"]
    assert stored["iteration"] == 7 and any(name.endswith(".weight_g") for name in stored["model"])
    assert not any("parametrizations" in name for name in stored["model"])
    assert all(value.dtype == torch.float32 for value in stored["model"].values())
    again = read_rvc_checkpoint(tmp_path / "G_70.pth")
    load_weights(network, again.model)
    optimizer.load_state_dict(again.optimizer)


def test_parameters_are_counted_as_rvc_counts_them() -> None:
    first = {
        v: next(iter(RvcSynthesizer(tiny_config(v).settings()).named_parameters()))[0] for v in ("v1", "v2")
    }
    assert first["v1"].startswith("enc_p.") and first["v2"].startswith("dec.")


def test_a_small_model_is_extracted_with_the_version_it_was_trained_as(tmp_path: Path) -> None:
    config = tiny_config("v1")
    network = RvcSynthesizer(config.settings())
    write_rvc_checkpoint(tmp_path / "G_10.pth", RvcCheckpoint(network.state_dict(), 1, None, 1e-4))
    extract_small_model(tmp_path / "G_10.pth", config, tmp_path / "me.pth")
    assert read_small_model(tmp_path / "me.pth").info == "Extracted model."
    with pytest.raises(SvcError, match="takes 256 content values"):
        extract_small_model(tmp_path / "G_10.pth", tiny_config("v2"), tmp_path / "no.pth")
    assert not (tmp_path / "no.pth").exists()


def test_merging_averages_every_tensor_and_keeps_the_speakers_that_both_have() -> None:
    one, other = tiny_model(n_speakers=3, seed=1), tiny_model(n_speakers=2, seed=2)
    merged = merge_small_models(one, other, 0.25)
    name = "enc_p.proj.weight"
    torch.testing.assert_close(merged.weights[name], 0.25 * one.weights[name] + 0.75 * other.weights[name])
    assert merged.weights["emb_g.weight"].shape[0] == merged.config.model.spk_embed_dim == 2


def test_models_of_other_kinds_are_not_merged() -> None:
    with pytest.raises(SvcError, match="version: v2 and v1"):
        merge_small_models(tiny_model("v2"), tiny_model("v1"), 0.5)
    with pytest.raises(SvcError, match="pitch guidance"):
        merge_small_models(tiny_model(), tiny_model(f0=False), 0.5)
    with pytest.raises(SvcError, match="expected 0"):
        merge_small_models(tiny_model(), tiny_model(), 1.5)
