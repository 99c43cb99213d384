"""Weights files: read safely, loaded strictly, written as so-vits-svc writes them."""

from __future__ import annotations

import builtins
import os
import pickle
import re
import sys
import types
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from svcnb.files.checkpoint import (
    load_weights,
    newest_pair,
    read_checkpoint,
    read_safetensors,
    to_plain_names,
    write_safetensors,
)
from svcnb.files.unpickling import CheckpointError, UnsafePickle
from svcnb.models.sovits.checkpoint import (
    describe_sovits,
    read_sovits_checkpoint,
    save_sovits_checkpoint,
    slim_sovits,
)
from tests.parity_sets import formula
from tests.parity_sets.registry import ReferenceSet
from tests.places import BUNDLED_REFERENCE

OLD_FORMAT = {"_use_new_zipfile_serialization": False}


class RunsWhenRead:
    """Pickles as a call: reading it with plain pickle runs the call."""

    def __init__(self, function, *args) -> None:
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def in_torchs_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weight norm as torch.nn.utils.parametrizations names it."""
    return {
        re.sub(
            r"weight_([gv])$", lambda part: f"parametrizations.weight.original{'gv'.index(part[1])}", name
        ): value
        for name, value in state.items()
    }


class TwoConvs(nn.Module):
    def __init__(self, n_speakers: int = 4) -> None:
        super().__init__()
        self.emb_g = nn.Embedding(n_speakers, 3)
        self.pre = weight_norm(nn.Conv1d(2, 3, 3))
        self.enc_q = nn.Linear(2, 2)


def sovits_shapes() -> dict[str, tuple[int, ...]]:
    return ReferenceSet(BUNDLED_REFERENCE / "svc41_small").keys


# reading


@pytest.mark.parametrize(
    "save_options", [{}, OLD_FORMAT, {"pickle_protocol": 4}], ids=["zip", "old stream", "protocol 4"]
)
@pytest.mark.parametrize(
    "function", [os.system, builtins.eval, builtins.exec, os.remove], ids=lambda f: f.__name__
)
def test_a_file_that_would_run_code_is_refused_by_name_and_does_not_run(
    tmp_path: Path, function, save_options: dict
) -> None:
    path, trace = tmp_path / "G_1.pth", tmp_path / "trace"
    trace.touch()
    code = {
        "eval": f"__import__('os').remove({str(trace)!r})",
        "remove": str(trace),
        "system": f"rm '{trace}'",
    }
    call = RunsWhenRead(function, code.get(function.__name__, code["eval"]))
    torch.save({"model": {"weight": torch.ones(2), "deep": [{"inside": call}]}}, path, **save_options)
    with pytest.raises(UnsafePickle, match=function.__name__):
        read_checkpoint(path)
    assert trace.exists()


def test_a_plain_pickle_under_a_weights_name_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "kmeans.pt"
    path.write_bytes(pickle.dumps({"a": RunsWhenRead(os.system, "true")}))
    with pytest.raises(UnsafePickle, match="system"):
        read_checkpoint(path)


def test_a_torch_function_that_would_load_another_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nested.pt"
    torch.save({"a": RunsWhenRead(torch.storage._load_from_bytes, b"")}, path)
    with pytest.raises(UnsafePickle, match="_load_from_bytes"):
        read_checkpoint(path)


def test_a_class_of_another_program_is_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fairseq.pt"
    _save_with_foreign_classes(path, monkeypatch)
    monkeypatch.setitem(sys.modules, "fairseq", None)  # importing it now would raise
    stored = read_checkpoint(path)
    assert stored["task_state"]["dictionaries"] == [{"symbols": ["<s>", "a"], "count": [1, 2]}]
    assert stored["args"] == {"encoder_attention_heads": 12}
    assert stored["cfg"] == {"model": {"width": 64}}
    assert torch.equal(stored["model"]["weight"], torch.arange(3.0))


def _save_with_foreign_classes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file as fairseq writes it: its Dictionary, an argparse Namespace and an omegaconf tree with parents."""
    made = {}
    for full_name in (
        "fairseq.data.dictionary.Dictionary",
        "omegaconf.dictconfig.DictConfig",
        "omegaconf.nodes.AnyNode",
    ):
        module_name, name = full_name.rsplit(".", 1)
        module = types.ModuleType(module_name)
        made[name] = type(name, (), {"__module__": module_name})
        setattr(module, name, made[name])
        for parent in ("fairseq", "fairseq.data", "omegaconf"):
            monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        monkeypatch.setitem(sys.modules, module_name, module)
    dictionary, tree, branch, leaf = (
        made["Dictionary"](),
        made["DictConfig"](),
        made["DictConfig"](),
        made["AnyNode"](),
    )
    dictionary.__dict__.update(symbols=["<s>", "a"], count=[1, 2])
    leaf.__dict__.update(_val=64, _parent=branch)
    branch.__dict__.update(_content={"width": leaf}, _parent=tree)
    tree.__dict__.update(_content={"model": branch}, _parent=None)
    torch.save(
        {
            "args": Namespace(encoder_attention_heads=12),
            "cfg": tree,
            "model": {"weight": torch.arange(3.0)},
            "task_state": {"dictionaries": [dictionary]},
        },
        path,
    )


@pytest.mark.parametrize("save_options", [{}, OLD_FORMAT], ids=["zip", "old stream"])
def test_centres_stored_as_numpy_arrays_are_read(tmp_path: Path, save_options: dict) -> None:
    path = tmp_path / "kmeans_10000.pt"
    centers = np.arange(6, dtype=np.float32).reshape(2, 3)
    torch.save(
        {"singer": {"n_features_in_": 3, "cluster_centers_": centers, "spread": np.float64(2)}},
        path,
        **save_options,
    )
    stored = read_checkpoint(path)["singer"]
    np.testing.assert_array_equal(stored["cluster_centers_"], centers)
    assert (stored["n_features_in_"], stored["spread"]) == (3, 2.0)


def test_a_version_number_in_place_of_the_zip_mark_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "s2Gv2Pro.pth"
    torch.save({"weight": {"a": torch.ones(1)}}, path)
    path.write_bytes(b"05" + path.read_bytes()[2:])
    assert torch.equal(read_checkpoint(path)["weight"]["a"], torch.ones(1))


@pytest.mark.parametrize("save_options", [{}, OLD_FORMAT], ids=["zip", "old stream"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_truncated_file_is_one_clear_error(tmp_path: Path, share: float, save_options: dict) -> None:
    path = tmp_path / "G_1.pth"
    torch.save({"model": {"weight": torch.ones(1000)}}, path, **save_options)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"G_1\.pth.* is cut short or damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        (b"RIFF....WAVEfmt ", "not a torch file"),
    ],
)
def test_a_file_that_is_something_else_is_told_apart(tmp_path: Path, contents: bytes, expected: str) -> None:
    path = tmp_path / "hubert_base.pt"
    path.write_bytes(contents)
    with pytest.raises(CheckpointError, match=expected):
        read_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"G_7\.pth: no such file"):
        read_checkpoint(tmp_path / "G_7.pth")


# loading


def test_every_difference_is_reported_in_one_error_and_nothing_is_copied() -> None:
    module = TwoConvs()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = to_plain_names(TwoConvs(n_speakers=9).state_dict())
    del state["pre.bias"], state["enc_q.weight"]
    state["extra"] = torch.ones(1)
    with pytest.raises(CheckpointError) as caught:
        load_weights(module, state)
    message = str(caught.value)
    assert "4 differences" in message
    for part in (
        "missing pre.bias (3,)",
        "missing enc_q.weight (2, 2)",
        "unexpected extra (1,)",
        "emb_g.weight is (9, 3), expected (4, 3)",
    ):
        assert part in message
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_declared_differences_pass_and_are_reported() -> None:
    state = {
        n: v
        for n, v in to_plain_names(TwoConvs(n_speakers=9).state_dict()).items()
        if not n.startswith("enc_q.")
    }
    state["mask_emb"] = torch.ones(1)
    report = load_weights(TwoConvs(), state, may_miss=("enc_q.",), may_skip=("emb_g.", "mask_emb"))
    assert report.missing == ("enc_q.weight", "enc_q.bias")
    assert report.unexpected == ("mask_emb",)
    assert report.reshaped == ("emb_g.weight",)
    assert set(report.taken) == {"pre.bias", "pre.weight_g", "pre.weight_v"}
    assert str(report) == "3 tensors taken, 2 missing, 1 unexpected, 1 reshaped"


@pytest.mark.parametrize("rename", [to_plain_names, dict], ids=["old names", "new names"])
def test_both_spellings_of_weight_norm_load(rename) -> None:
    source, module = TwoConvs(), TwoConvs()
    state = {name: value.half() for name, value in source.state_dict().items()}
    report = load_weights(module, rename(state))
    assert (report.missing, report.unexpected) == ((), ())
    torch.testing.assert_close(module.pre.weight, source.pre.weight, atol=2e-3, rtol=0)
    assert module.pre.weight.dtype == torch.float32


def test_renaming_keeps_the_order_and_whatever_is_not_weight_norm() -> None:
    plain = to_plain_names(TwoConvs().state_dict() | {"conv.weight_u": 0})
    assert list(plain) == [
        "emb_g.weight",
        "pre.bias",
        "pre.weight_g",
        "pre.weight_v",
        "enc_q.weight",
        "enc_q.bias",
        "conv.weight_u",
    ]


# so-vits-svc's files


def test_a_generator_file_goes_round_with_equal_names_order_and_values(tmp_path: Path) -> None:
    state = formula.state_dict(sovits_shapes(), 1)
    path = save_sovits_checkpoint(
        tmp_path / "G_800.pth", model_state=in_torchs_names(state), iteration=3, learning_rate=1e-4
    )
    raw = torch.load(path, weights_only=True)
    assert list(raw) == ["model", "iteration", "optimizer", "learning_rate"]
    assert list(raw["model"]) == list(sovits_shapes())
    assert all(torch.equal(raw["model"][name], state[name]) for name in state)
    group = raw["optimizer"]["param_groups"][0]
    assert raw["optimizer"]["state"] == {}
    assert len(group["params"]) == len(state)
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (
        1e-4,
        (0.8, 0.99),
        1e-9,
        0.01,
    )
    read = read_sovits_checkpoint(path)
    assert (read.iteration, read.learning_rate, list(read.model)) == (3, 1e-4, list(state))


def test_a_shared_layer_is_counted_once_by_the_fresh_optimizer(tmp_path: Path) -> None:
    shared = torch.ones(2, 2)
    state = {
        "flow.wn.w": shared,
        "flow.flows.0.enc.w": shared,
        "dec.snakes.0.upsample.filter": torch.ones(1, 1, 12),
    }
    path = save_sovits_checkpoint(tmp_path / "G_1.pth", model_state=state, iteration=1, learning_rate=1e-4)
    assert read_sovits_checkpoint(path).optimizer["param_groups"][0]["params"] == [0]


def test_a_trained_optimizer_comes_back(tmp_path: Path) -> None:
    module = TwoConvs()
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-4)
    sum(p.sum() for p in module.parameters()).backward()
    optimizer.step()
    path = save_sovits_checkpoint(
        tmp_path / "D_1.pth",
        model_state=module.state_dict(),
        iteration=1,
        learning_rate=2e-4,
        optimizer_state=optimizer.state_dict(),
    )
    again = torch.optim.AdamW(module.parameters(), lr=1.0)
    again.load_state_dict(read_sovits_checkpoint(path).optimizer)
    assert again.param_groups[0]["lr"] == 2e-4
    assert torch.equal(
        again.state_dict()["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"]
    )


def test_an_interrupted_save_leaves_the_old_file_and_no_partial_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "G_1.pth"
    save = {"model_state": {"a": torch.ones(1)}, "iteration": 1, "learning_rate": 1e-4}
    save_sovits_checkpoint(path, **save)
    before = path.read_bytes()

    def interrupted(contents, file) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_sovits_checkpoint(path, **save)
    assert [p.name for p in tmp_path.iterdir()] == ["G_1.pth"]
    assert path.read_bytes() == before


def test_a_released_file_without_posterior_loads_with_that_declared(tmp_path: Path) -> None:
    slim = slim_sovits(TwoConvs().state_dict(), half=True)
    assert not any("enc_q" in name for name in slim)
    assert all(value.dtype == torch.float16 for value in slim.values())
    path = save_sovits_checkpoint(tmp_path / "release.pth", model_state=slim, iteration=0, learning_rate=1e-4)
    with pytest.raises(CheckpointError, match="missing enc_q.weight"):
        load_weights(TwoConvs(), read_sovits_checkpoint(path).model)
    report = load_weights(TwoConvs(), read_sovits_checkpoint(path).model, may_miss=("enc_q.",))
    assert report.missing == ("enc_q.weight", "enc_q.bias")


def test_a_file_of_another_kind_is_no_generator_file(tmp_path: Path) -> None:
    torch.save({"weight": {"a": torch.ones(1)}, "config": []}, tmp_path / "rvc.pth")
    with pytest.raises(CheckpointError, match=r"\['config', 'weight'\], expected 'model'"):
        read_sovits_checkpoint(tmp_path / "rvc.pth")


def test_the_newest_pair_is_the_largest_step_that_both_have(tmp_path: Path) -> None:
    assert newest_pair(tmp_path) is None
    for name in ("G_0", "D_0", "G_800", "D_800", "G_10000", "D_900", "G_best", "G_900_release"):
        (tmp_path / f"{name}.pth").touch()
    assert newest_pair(tmp_path) == (tmp_path / "G_800.pth", tmp_path / "D_800.pth")


# recognising


def _empty(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_a_generator_tells_its_config() -> None:
    reference = ReferenceSet(BUNDLED_REFERENCE / "svc41_small")
    told = describe_sovits(in_torchs_names(_empty(reference.keys)))
    section = reference.config["model"]
    assert {key: told[key] for key in told if key in section} == {
        key: section[key] for key in told if key in section
    }
    assert told.keys() >= {
        "ssl_dim",
        "n_layers",
        "filter_channels",
        "upsample_initial_channel",
        "n_flow_layer",
    }
    assert (told["version"], told["has_posterior"]) == ("4.1", True)


@pytest.mark.parametrize(
    ("added", "key", "value"),
    [
        ("emb_vol.weight", "vol_embedding", True),
        ("flow.wn.cond_layer.bias", "flow_share_parameter", True),
        ("enc_q.enc.in_layers.0.depth_conv.bias", "use_depthwise_conv", True),
        ("dec.snakes.0.act.alpha", "vocoder_name", "nsf-snake-hifigan"),
        ("flow.flows.0.enc.cond_pre.weight", "use_transformer_flow", True),
    ],
)
def test_a_variant_is_recognised_by_its_tensors(added: str, key: str, value: object) -> None:
    shapes = sovits_shapes()
    assert describe_sovits(_empty(shapes))[key] != value
    assert describe_sovits(_empty({**shapes, added: (4,)}))[key] == value


def test_a_model_without_f0_decoder_and_posterior_is_recognised() -> None:
    shapes = {n: s for n, s in sovits_shapes().items() if not n.startswith(("f0_decoder.", "enc_q."))}
    told = describe_sovits(_empty(shapes))
    assert (told["use_automatic_f0_prediction"], told["has_posterior"]) == (False, False)


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        ("posterior_encoder.pre.weight", "4.0-v2"),
        ("enc_p.emb_phone.weight", "RVC"),
        ("enc_p.ssl_proj.weight", "GPT-SoVITS"),
        ("discriminators.0.convs.0.bias", "discriminator"),
        ("something.else", "not a so-vits-svc"),
    ],
)
def test_other_families_are_named_when_refused(tensor: str, expected: str) -> None:
    with pytest.raises(CheckpointError, match=expected):
        describe_sovits(_empty({tensor: (1,)}))


# safetensors


def test_safetensors_go_round_with_metadata(tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    path = write_safetensors(
        tmp_path / "new" / "a.safetensors", {"x": shared, "y": shared[:2]}, {"about": "é"}
    )
    tensors, metadata = read_safetensors(path)
    assert metadata == {"about": "é"}
    assert torch.equal(tensors["x"], shared)
    assert torch.equal(tensors["y"], shared[:2])
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="no complete safetensors file"):
        read_safetensors(path)
