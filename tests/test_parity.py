"""Agreement with the original programs, one test per reference set, and that the runner finds disagreement."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import parity, places
from tests.parity_sets import registry
from tests.parity_sets.gradients import gradient_norms, gradient_rows
from tests.parity_sets.registry import ReferenceSet, Row

parity.load_checks()

# Families that have reference arrays but are not part of the package yet.
LATER_KINDS = ("gpt-sovits-s2",)
SETS = places.reference_sets()


@pytest.fixture(scope="module")
def reports() -> dict[Path, str]:
    """The runner's report on each set; in its own process, as torch's arithmetic is set before it loads."""
    folders = [folder for folder in SETS if not is_later(folder)]
    command = [sys.executable, str(places.PROJECT / "tests" / "parity.py"), "--quiet", *map(str, folders)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=900)
    printed = re.split(r"\n(?! )", ran.stdout)
    assert len(printed) > len(folders), ran.stdout + ran.stderr
    return dict(zip(folders, printed, strict=False))


def is_later(folder: Path) -> bool:
    kind = ReferenceSet(folder).kind
    return kind in LATER_KINDS and kind not in registry.CHECKS


@pytest.mark.parametrize("folder", SETS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_agrees_with_the_original(reports: dict[Path, str], folder: Path) -> None:
    if is_later(folder):
        pytest.skip(f"no {ReferenceSet(folder).kind} in the package yet")
    assert reports[folder].startswith(f"{folder.name} ({ReferenceSet(folder).kind}): ok, "), (
        "\n" + reports[folder]
    )


def test_there_are_sets_to_compare_with() -> None:
    """At least the bundled ones; the full reference is optional, and a missing one is reported."""
    assert places.reference_sets()
    if places.reference_folder() is None:
        pytest.skip("only the bundled sets ran: set SVCNB_REFERENCE to the folder with all of them")


@pytest.fixture
def toy_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of a kind that only exists in this test: `double` must be twice `in/x`."""
    folder = tmp_path / "toy"
    folder.mkdir()
    x = np.arange(4.0)
    np.savez(folder / "vectors.npz", **{"in/x": x, "double": 2 * x, "extra/pipeline_y": x})
    (folder / "set.json").write_text(
        json.dumps(
            {"kind": "toy", "tolerance": {"abs": 1e-6}, "deliberate_deviations": {"pipeline outputs": "why"}}
        )
    )

    def check_toy(reference: ReferenceSet):
        yield reference.compare("double", reference.arrays["in/x"] * 2, reference.tolerance("abs"))

    monkeypatch.setitem(registry.CHECKS, "toy", check_toy)
    return folder


def rewrite(folder: Path, **changes) -> None:
    arrays = dict(np.load(folder / "vectors.npz"))
    np.savez(folder / "vectors.npz", **{**arrays, **changes})


def test_runner_accepts_an_agreeing_set_and_names_deliberate_deviations(toy_set: Path, capsys) -> None:
    assert parity.main([str(toy_set)]) == 0
    printed = capsys.readouterr().out
    assert "double" in printed and "1 of 1 sets agree" in printed
    assert "extra/pipeline_y  not compared" in printed


def test_runner_searches_parent_folders(toy_set: Path, capsys) -> None:
    shutil.copytree(toy_set, toy_set.parent / "second")
    assert parity.main(["-q", str(toy_set.parent)]) == 0
    assert "2 of 2 sets agree" in capsys.readouterr().out


def test_runner_fails_on_a_deviation_over_the_tolerance(toy_set: Path, capsys) -> None:
    rewrite(toy_set, double=np.array([0, 2, 4, 6.001]))
    assert parity.main(["-q", str(toy_set)]) == 1
    assert "1.00e-03" in capsys.readouterr().out


def test_runner_fails_on_not_a_number_and_on_another_shape(toy_set: Path) -> None:
    rewrite(toy_set, double=np.array([0, 2, 4, np.nan]))
    assert parity.main([str(toy_set)]) == 1
    rewrite(toy_set, double=np.array([0.0, 2, 4]))
    assert parity.main([str(toy_set)]) == 1


def test_runner_fails_on_arrays_that_nobody_compares(toy_set: Path, capsys) -> None:
    rewrite(toy_set, surprise=np.zeros(3))
    assert parity.main([str(toy_set)]) == 1
    assert "surprise: compared by no check" in capsys.readouterr().out


def test_runner_reports_unknown_kinds_and_empty_folders(toy_set: Path, tmp_path: Path, capsys) -> None:
    (toy_set / "set.json").write_text(json.dumps({"kind": "unheard-of"}))
    assert parity.main([str(toy_set)]) == 1
    assert "unknown kind 'unheard-of'" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert parity.main([str(tmp_path / "empty")]) == 1
    assert "no set.json" in capsys.readouterr().out


def test_runner_reports_why_a_check_could_not_run(toy_set: Path, monkeypatch, capsys) -> None:
    def check_broken(reference: ReferenceSet):
        yield Row("first", 0.0, 1.0)
        raise ImportError("no module named parselmouth")

    monkeypatch.setitem(registry.CHECKS, "toy", check_broken)
    assert parity.main([str(toy_set)]) == 1
    assert "ImportError: no module named parselmouth" in capsys.readouterr().out


def test_deliberate_deviations_match_by_pattern_or_word() -> None:
    named = {"retrieval/fused_*": "", "pndm, dpm-solver, unipc outputs": ""}
    assert parity.is_deliberate("retrieval/fused_0", named)
    assert parity.is_deliberate("sampler/pndm_out", named)
    assert parity.is_deliberate("out/dpm-solver", named)
    assert not parity.is_deliberate("retrieval/index", named)
    assert not parity.is_deliberate("denoiser/outputs", named)


@pytest.fixture
def kinked(tmp_path: Path) -> tuple[ReferenceSet, torch.nn.Module, torch.Tensor]:
    """A leaky ReLU whose input is 0 up to rounding, recorded on the other side of its kink."""
    layer = torch.nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.fill_(-1.0)
    x = torch.ones(1, 1)
    with torch.no_grad():
        layer.bias.mul_(1 - 2.0**-23)  # now just above the kink
    beyond = {"bias": 0.1, "weight": 0.1}
    np.savez(
        tmp_path / "vectors.npz",
        **{"train0/grad_names": list(beyond), "train0/grad_norms": list(beyond.values())},
    )
    (tmp_path / "set.json").write_text(json.dumps({"kind": "toy", "tolerance": {"grad_norm_rtol": 1e-3}}))
    return ReferenceSet(tmp_path), layer, x


def slope(layer: torch.nn.Module, x: torch.Tensor, times: float = 1.0) -> torch.Tensor:
    return times * torch.nn.functional.leaky_relu(layer(x), 0.1).sum()


def test_gradients_may_be_on_the_other_side_of_a_kink(kinked) -> None:
    reference, layer, x = kinked
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    assert gradient_norms(layer, slope(layer, x))["bias"] == 1.0
    rows = list(gradient_rows(layer, slope(layer, x), lambda: slope(layer, x), reference))
    assert all(row.passed for row in rows) and len(rows) == 2
    for name, p in layer.named_parameters():
        assert torch.equal(p, before[name]) and p.grad.norm() == 1.0


def test_gradients_that_agree_on_no_side_of_a_kink_fail(kinked) -> None:
    reference, layer, x = kinked
    assert not all(
        row.passed
        for row in gradient_rows(layer, slope(layer, x, 1.01), lambda: slope(layer, x, 1.01), reference)
    )
