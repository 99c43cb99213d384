"""What training decides by itself: the best checkpoint, when to stop, how large a batch may be."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb import SvcError
from svcnb.training.checkpoints import read_progress
from svcnb.training.loop import FitHooks, fit
from svcnb.training.state import TrainState
from tests.unit.training.test_loop import (
    SETTINGS,
    ToyLoader,
    assert_equal_states,
    lines_of,
    parts_of,
    resumed,
    save_toy,
    toy_state,
    toy_step,
)

MEASURING = SETTINGS.model_copy(
    update={"max_steps": 40, "save_every_steps": 5, "validate_every_steps": 5, "keep_checkpoints": 2}
)


def measured_as(values: dict[int, float], **hooks: object) -> FitHooks:
    """Hooks with a given validation metric: by step, else 1."""
    return FitHooks(save=save_toy, validate=lambda state: {"mel": values.get(state.step, 1.0)}, **hooks)


# --- best checkpoint ----------------------------------------------------------------------------------------------


def test_the_best_checkpoint_is_kept_however_many_follow(tmp_path: Path) -> None:
    report = fit(
        toy_state(), ToyLoader(), toy_step, MEASURING, folder=tmp_path, hooks=measured_as({10: 0.5, 30: 0.7})
    )
    assert {path.name for path in tmp_path.glob("G_*.pth")} == {"G_10.pth", "G_35.pth", "G_40.pth"}
    best = read_progress(tmp_path).best
    assert (best.step, best.measure, best.value) == (10, "mel", 0.5) and report.best == best


def test_a_resumed_run_remembers_the_best_and_a_better_one_replaces_it(tmp_path: Path) -> None:
    hooks = measured_as({10: 0.5, 30: 0.4})
    half = MEASURING.model_copy(update={"max_steps": 25})
    fit(toy_state(), ToyLoader(), toy_step, half, folder=tmp_path, hooks=hooks)
    state = resumed(tmp_path)
    assert state.record.best.step == 10
    fit(state, ToyLoader(), toy_step, MEASURING, folder=tmp_path, hooks=hooks)
    assert read_progress(tmp_path).best.step == 30
    assert {path.name for path in tmp_path.glob("G_*.pth")} == {"G_30.pth", "G_35.pth", "G_40.pth"}


def test_only_what_was_saved_can_be_the_best(tmp_path: Path) -> None:
    settings = MEASURING.model_copy(update={"save_every_steps": 20})
    fit(toy_state(), ToyLoader(), toy_step, settings, folder=tmp_path, hooks=measured_as({10: 0.1, 20: 0.6}))
    assert read_progress(tmp_path).best.step == 20
    saved = {line["step"]: line["saved"] for line in lines_of(tmp_path) if "validation" in line}
    assert saved == {step: step in (20, 40) for step in range(5, 45, 5)}


def test_a_state_written_by_an_earlier_version_is_continued(tmp_path: Path) -> None:
    fit(toy_state(), ToyLoader(), toy_step, SETTINGS, folder=tmp_path, hooks=FitHooks(save=save_toy))
    stored = json.loads((tmp_path / "state.json").read_text())
    del stored["best"], stored["batch_size"]
    (tmp_path / "state.json").write_text(json.dumps(stored))
    assert read_progress(tmp_path).best is None
    settings = SETTINGS.model_copy(update={"max_steps": 15})
    assert (
        fit(
            resumed(tmp_path), ToyLoader(), toy_step, settings, folder=tmp_path, hooks=measured_as({})
        ).best.step
        == 15
    )


def test_a_deleted_best_checkpoint_is_reported_and_replaced(tmp_path: Path, caplog) -> None:
    half = MEASURING.model_copy(update={"max_steps": 25})
    fit(toy_state(), ToyLoader(), toy_step, half, folder=tmp_path, hooks=measured_as({5: 0.1}))
    (tmp_path / "G_5.pth").unlink()
    report = fit(
        resumed(tmp_path), ToyLoader(), toy_step, MEASURING, folder=tmp_path, hooks=measured_as({35: 0.9})
    )
    assert "step 5) is gone" in caplog.text and report.best.step == 35


def test_measuring_often_leaves_the_training_as_it_was_and_samples_early(tmp_path: Path) -> None:
    sampled: list[int] = []
    hooks = replace(measured_as({}), sample=lambda state, folder: sampled.append(state.step))
    often = SETTINGS.model_copy(update={"validate_every_steps": 2})
    measured, plain = toy_state(), toy_state()
    fit(measured, ToyLoader(), toy_step, often, folder=tmp_path / "a", hooks=hooks)
    fit(plain, ToyLoader(), toy_step, SETTINGS, folder=tmp_path / "b", hooks=FitHooks(save=save_toy))
    assert_equal_states(measured, plain)
    assert sampled == [2, 5, 10, 12]
    assert sorted({line["step"] for line in lines_of(tmp_path / "a") if "validation" in line}) == [
        2,
        4,
        5,
        6,
        8,
        10,
        12,
    ]


def test_a_callback_gets_every_line_of_the_history_which_starts_with_the_facts(tmp_path: Path) -> None:
    received: list[dict] = []
    hooks = measured_as({}, facts={"training_s": 12.5}, listen=received.append)
    fit(toy_state(), ToyLoader(), toy_step, SETTINGS, folder=tmp_path, hooks=hooks)
    assert received == lines_of(tmp_path) and received[0]["facts"] == {"training_s": 12.5}


# --- when to stop -------------------------------------------------------------------------------------------------


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the least number of steps for the toys."""
    monkeypatch.setattr("svcnb.training.early_stopping.MIN_STEPS", 1)


def test_a_training_at_a_plateau_stops_if_asked_and_reports_it(tmp_path: Path, early: None) -> None:
    settings = MEASURING.model_copy(update={"max_steps": 200, "save_every_steps": 50})
    hooks = measured_as({5: 2.0, 10: 1.5})
    assert (
        fit(toy_state(), ToyLoader(), toy_step, settings, folder=tmp_path / "on", hooks=hooks).stopped_by
        == "max_steps"
    )
    wished = settings.model_copy(update={"stop_at_plateau": True})
    report = fit(toy_state(), ToyLoader(), toy_step, wished, folder=tmp_path / "off", hooks=hooks)
    assert report.stopped_by == "plateau" and report.step == 60
    assert read_progress(tmp_path / "off").step == 60, "the last state is saved"


def test_a_training_stopped_at_a_plateau_continues_only_if_asked(tmp_path: Path, early: None, caplog) -> None:
    settings = MEASURING.model_copy(update={"max_steps": 200, "stop_at_plateau": True})
    fit(toy_state(), ToyLoader(), toy_step, settings, folder=tmp_path, hooks=measured_as({}))
    again = fit(resumed(tmp_path), ToyLoader(), toy_step, settings, folder=tmp_path, hooks=measured_as({}))
    assert again.steps == 0 and again.stopped_by == "plateau" and "switch stop_at_plateau off" in caplog.text
    more = settings.model_copy(update={"stop_at_plateau": False, "max_steps": 70})
    assert (
        fit(resumed(tmp_path), ToyLoader(), toy_step, more, folder=tmp_path, hooks=measured_as({})).steps
        == 10
    )


# --- memory -------------------------------------------------------------------------------------------------------


@dataclass
class SizedLoader(ToyLoader):
    """Twelve numbers per epoch, in an order drawn from the epoch, in batches of `batch_size`."""

    batch_size: int = 8

    def set_batch_size(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-12 // self.batch_size)

    def __iter__(self):
        numbers = 0.1 * np.random.default_rng(self.epoch).permutation(12)
        batches = [numbers[start : start + self.batch_size] for start in range(0, 12, self.batch_size)]
        return (
            torch.tensor(batch, dtype=torch.float32)[:, None].repeat(1, 2) for batch in batches[self.batch :]
        )


def limited_step(state: TrainState, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    """A step with memory for two items only."""
    if len(batch) > 2:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    return toy_step(state, batch)


def test_when_memory_runs_out_the_batch_is_halved_and_the_epoch_restarts(tmp_path: Path, caplog) -> None:
    sizes: list[int] = []
    halved, small = toy_state(), toy_state()
    hooks = FitHooks(save=save_toy, batch_size_changed=sizes.append)
    report = fit(halved, SizedLoader(), limited_step, SETTINGS, folder=tmp_path / "a", hooks=hooks)
    fit(small, SizedLoader(batch_size=2), toy_step, SETTINGS, folder=tmp_path / "b", hooks=hooks)
    assert_equal_states(halved, small)
    assert sizes == [4, 2] and report.batch_size == 2 and read_progress(tmp_path / "a").batch_size == 2
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    expected = "memory ran out at step 1 with batch_size {}: continuing with {}"
    assert warnings == [expected.format(n, n // 2) for n in (8, 4)]


def test_halved_batches_stay_halved_and_exact_on_resume(tmp_path: Path) -> None:
    unbroken = toy_state()
    fit(unbroken, SizedLoader(), limited_step, SETTINGS, folder=tmp_path / "a", hooks=FitHooks(save=save_toy))
    part = SETTINGS.model_copy(update={"max_steps": 8})
    fit(toy_state(), SizedLoader(), limited_step, part, folder=tmp_path / "b", hooks=FitHooks(save=save_toy))
    state = resumed(tmp_path / "b")
    loader = SizedLoader(batch_size=state.record.batch_size)
    fit(state, loader, limited_step, SETTINGS, folder=tmp_path / "b", hooks=FitHooks(save=save_toy))
    assert_equal_states(state, unbroken)


def test_memory_that_runs_out_in_a_later_epoch_leaves_no_gradients_and_restarts_it(tmp_path: Path) -> None:
    positions, grads = [], []

    class Watched(SizedLoader):
        def set_position(self, epoch: int, batch: int) -> None:
            positions.append((epoch, batch, self.batch_size))
            grads.append(
                [
                    p.grad
                    for _, network, _ in parts_of(state)
                    for p in network.parameters()
                    if p.grad is not None
                ]
            )
            super().set_position(epoch, batch)

    def step(state: TrainState, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        losses = toy_step(state, batch)
        if state.step == 4 and len(batch) > 2:  # the second batch of the second epoch
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
        return losses

    state = toy_state()
    fit(state, Watched(batch_size=4), step, SETTINGS, folder=tmp_path, hooks=FitHooks(save=save_toy))
    assert positions == [(1, 0, 4), (2, 0, 4), (2, 0, 2), (3, 0, 2)]
    assert not grads[2] and state.step == 12


def test_a_batch_of_one_that_does_not_fit_ends_the_training_as_before(tmp_path: Path) -> None:
    def step(state, batch):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(
        SvcError, match=r"memory ran out at step 1: halve batch_size \(now 1\), or max_frames"
    ):
        fit(toy_state(), SizedLoader(), step, SETTINGS, folder=tmp_path, hooks=FitHooks(save=save_toy))


def test_another_batch_size_on_resume_restarts_the_epoch(tmp_path: Path) -> None:
    part = SETTINGS.model_copy(update={"max_steps": 8})
    fit(
        toy_state(), SizedLoader(batch_size=2), toy_step, part, folder=tmp_path, hooks=FitHooks(save=save_toy)
    )
    state = resumed(tmp_path)
    assert (state.epoch, state.batch) == (2, 2)
    fit(state, SizedLoader(batch_size=4), toy_step, SETTINGS, folder=tmp_path, hooks=FitHooks(save=save_toy))
    assert (state.epoch, state.batch) == (3, 1), "three batches of the second epoch, one of the third"
