"""The training loop, with a GAN of a few weights."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from svcnb import SvcError
from svcnb.training.checkpoints import read_progress
from svcnb.training.loop import FitHooks, fit
from svcnb.training.settings import TrainSettings
from svcnb.training.state import TrainState, assemble, make_accelerator, restore

SETTINGS = TrainSettings(max_steps=12, save_every_steps=5, log_every_steps=2, device="cpu", seed=5)


@dataclass
class ToyLoader:
    """Five batches per epoch, in an order drawn from the epoch."""

    n_batches: int = 5
    batch_size: int = 3

    def set_position(self, epoch: int, batch: int) -> None:
        self.epoch, self.batch = epoch, batch

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self):
        torch.rand(1)  # as torch's DataLoader does
        order = np.random.default_rng(self.epoch).permutation(self.n_batches)[self.batch :]
        return (torch.full((3, 2), 0.1 * int(number)) for number in order)


def toy_state(
    *, learning_rate: float = 0.01, discriminator: bool = True, settings: TrainSettings = SETTINGS
) -> TrainState:
    torch.manual_seed(0)
    return assemble(
        nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)),
        nn.Linear(2, 1) if discriminator else None,
        make_optimizer=partial(torch.optim.AdamW, lr=learning_rate, betas=(0.8, 0.99)),
        lr_decay=0.9,
        accelerator=make_accelerator(settings),
    )


def toy_step(state: TrainState, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    fake = state.generator(batch) + 0.01 * torch.randn_like(batch) * random.random() * float(np.random.rand())
    losses = {}
    if state.discriminator is not None:
        losses["disc"] = (
            state.discriminator(fake.detach()) ** 2 + (1 - state.discriminator(batch)) ** 2
        ).mean()
        state.optimizer_d.zero_grad()
        state.accelerator.backward(losses["disc"])
        state.optimizer_d.step()
        losses["gen"] = ((1 - state.discriminator(fake)) ** 2).mean()
    losses["mel"] = (fake - batch).abs().mean()
    state.optimizer_g.zero_grad()
    state.accelerator.backward(losses["mel"] + losses.get("gen", 0))
    state.optimizer_g.step()
    return losses


def save_toy(state: TrainState, folder: Path) -> None:
    torch.rand(3)  # a recipe may draw numbers while saving
    for letter, network, optimizer in parts_of(state):
        torch.save(
            {"model": network.state_dict(), "optimizer": optimizer.state_dict()},
            folder / f"{letter}_{state.step}.pth",
        )


def parts_of(state: TrainState):
    parts = [("G", state.generator, state.optimizer_g), ("D", state.discriminator, state.optimizer_d)]
    return [part for part in parts if part[1] is not None]


HOOKS = FitHooks(save=save_toy)


def resumed(folder: Path, **options) -> TrainState:
    state, record = toy_state(**options), read_progress(folder)
    for letter, network, optimizer in parts_of(state):
        stored = torch.load(folder / f"{letter}_{record.step}.pth", weights_only=True)
        network.load_state_dict(stored["model"])
        optimizer.load_state_dict(stored["optimizer"])
    restore(state, record)
    return state


def assert_equal_states(one: TrainState, two: TrainState) -> None:
    assert (one.step, one.epoch, one.batch) == (two.step, two.epoch, two.batch)
    for (_, net_a, opt_a), (_, net_b, opt_b) in zip(parts_of(one), parts_of(two), strict=True):
        assert all(
            torch.equal(a, b)
            for a, b in zip(net_a.state_dict().values(), net_b.state_dict().values(), strict=True)
        )
        for a, b in zip(opt_a.param_groups, opt_b.param_groups, strict=True):
            assert (a["lr"], a["initial_lr"]) == (b["lr"], b["initial_lr"])
        for a, b in zip(opt_a.state.values(), opt_b.state.values(), strict=True):
            assert all(torch.equal(a[key], b[key]) for key in a)


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_run_reports_its_steps_and_writes_checkpoints_and_history(tmp_path):
    report = fit(toy_state(), ToyLoader(), toy_step, SETTINGS, folder=tmp_path, hooks=HOOKS)
    assert (report.steps, report.step, report.interrupted) == (12, 12, False)
    assert (
        report.steps_per_second > 0
        and report.peak_memory_bytes > 1e6
        and set(report.last_losses) == {"disc", "gen", "mel"}
    )
    history = lines_of(tmp_path)
    assert [line["step"] for line in history] == [2, 4, 6, 8, 10, 12] and history[2]["epoch"] == 2
    assert set(history[0]) == {"step", "epoch", "seconds", "lr", "losses"} and report.history_path.exists()
    assert names_in(tmp_path) == {f"{x}_{n}.pth" for x in "GD" for n in (5, 10, 12)} | {
        "state.json",
        "history.jsonl",
    }


@pytest.mark.parametrize("stops", [(3,), (5,), (10,), (4, 7), (1, 2, 11)])
def test_a_run_resumed_at_any_step_equals_the_unbroken_run(tmp_path, stops):
    unbroken = toy_state()
    fit(unbroken, ToyLoader(), toy_step, SETTINGS, folder=tmp_path / "unbroken", hooks=HOOKS)
    state = toy_state()
    for stop in (*stops, 12):
        settings = SETTINGS.model_copy(update={"max_steps": stop})
        fit(state, ToyLoader(), toy_step, settings, folder=tmp_path / "broken", hooks=HOOKS)
        broken = state
        torch.rand(7), random.random(), np.random.rand()
        state = resumed(tmp_path / "broken")
    assert_equal_states(broken, unbroken)


def test_resuming_gives_equal_runs_without_a_discriminator_and_with_warm_up(tmp_path):
    settings = SETTINGS.model_copy(update={"warmup_epochs": 2})
    unbroken = toy_state(discriminator=False)
    fit(unbroken, ToyLoader(), toy_step, settings, folder=tmp_path / "a", hooks=HOOKS)
    assert lines_of(tmp_path / "a")[0]["lr"] == 0.005 and lines_of(tmp_path / "a")[-1]["lr"] == pytest.approx(
        0.009
    )
    half = settings.model_copy(update={"max_steps": 6})
    fit(toy_state(discriminator=False), ToyLoader(), toy_step, half, folder=tmp_path / "b", hooks=HOOKS)
    state = resumed(tmp_path / "b", discriminator=False)
    fit(state, ToyLoader(), toy_step, settings, folder=tmp_path / "b", hooks=HOOKS)
    assert_equal_states(state, unbroken)


def test_an_edited_learning_rate_counts_on_resume(tmp_path):
    fit(toy_state(), ToyLoader(), toy_step, SETTINGS, folder=tmp_path, hooks=HOOKS)
    state = resumed(tmp_path, learning_rate=0.02)
    assert state.optimizer_g.param_groups[0]["lr"] == pytest.approx(0.02 * 0.9**2)


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    (tmp_path / "G_0.pth").write_text("base model")
    fit(toy_state(), ToyLoader(), toy_step, SETTINGS, folder=tmp_path, hooks=HOOKS)
    with pytest.raises(SvcError, match="holds a training at step 12: resume it"):
        fit(toy_state(), ToyLoader(), toy_step, SETTINGS, folder=tmp_path, hooks=HOOKS)
    assert (tmp_path / "G_0.pth").read_text() == "base model"


def test_a_newer_half_written_pair_is_ignored_on_resume(tmp_path):
    def killed(state: TrainState, folder: Path) -> None:
        save_toy(state, folder)
        if state.step == 10:
            (folder / "D_10.pth").unlink()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(toy_state(), ToyLoader(), toy_step, SETTINGS, folder=tmp_path, hooks=FitHooks(save=killed))
    assert read_progress(tmp_path).step == 5 and not (tmp_path / "G_10.pth").exists()
    state = resumed(tmp_path)
    fit(state, ToyLoader(), toy_step, SETTINGS, folder=tmp_path, hooks=HOOKS)
    unbroken = toy_state()
    fit(unbroken, ToyLoader(), toy_step, SETTINGS, folder=tmp_path / "unbroken", hooks=HOOKS)
    assert_equal_states(state, unbroken)
    assert [line["step"] for line in lines_of(tmp_path)] == [2, 4, 6, 8, 10, 12]
    assert not (tmp_path / ".saving").exists()


def test_a_missing_checkpoint_is_named(tmp_path):
    fit(toy_state(), ToyLoader(), toy_step, SETTINGS, folder=tmp_path, hooks=HOOKS)
    (tmp_path / "D_12.pth").unlink()
    with pytest.raises(SvcError, match="names step 12, but D_12.pth is gone"):
        read_progress(tmp_path)


@pytest.mark.parametrize(("keep", "kept"), [(1, {12}), (2, {10, 12}), (0, {5, 10, 12})])
def test_only_the_newest_checkpoints_are_kept_and_base_models_always(tmp_path, keep, kept):
    (tmp_path / "G_0.pth").write_text("base model")
    settings = SETTINGS.model_copy(update={"keep_checkpoints": keep})
    fit(toy_state(), ToyLoader(), toy_step, settings, folder=tmp_path, hooks=HOOKS)
    assert {path.name for path in tmp_path.glob("G_*.pth")} == {f"G_{step}.pth" for step in kept | {0}}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_its_name_and_step_and_keeps_the_last_checkpoint(
    tmp_path, value
):
    def step(state, batch):
        losses = toy_step(state, batch)
        return losses | {"kl": torch.tensor(value if state.step == 6 else 1.0)}

    settings = SETTINGS.model_copy(update={"log_every_steps": 100})
    with pytest.raises(SvcError, match="step 7: kl is not finite .*the checkpoint of step 5 is kept"):
        fit(toy_state(), ToyLoader(), step, settings, folder=tmp_path, hooks=HOOKS)
    assert read_progress(tmp_path).step == 5 and {p.name for p in tmp_path.glob("*.pth")} == {
        "G_5.pth",
        "D_5.pth",
    }


def test_losses_may_join_later_and_means_are_logged(tmp_path):
    def step(state, batch):
        toy_step(state, batch)
        losses = {"mel": torch.tensor(float(state.step))}
        return losses | ({"gen": 2.0} if state.step >= 3 else {})

    fit(toy_state(), ToyLoader(), step, SETTINGS, folder=tmp_path, hooks=HOOKS)
    assert [line["losses"] for line in lines_of(tmp_path)[:2]] == [{"mel": 0.5}, {"mel": 2.5, "gen": 2.0}]


def test_out_of_memory_names_the_setting_to_halve(tmp_path):
    def step(state, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(SvcError, match=r"memory ran out at step 1: halve batch_size \(now 3\)"):
        fit(toy_state(), ToyLoader(), step, SETTINGS, folder=tmp_path, hooks=HOOKS)
    with pytest.raises(RuntimeError, match="shapes"):
        fit(toy_state(), ToyLoader(), fail, SETTINGS, folder=tmp_path, hooks=HOOKS)


def fail(state, batch):
    raise RuntimeError("shapes do not fit")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_finish_the_step_save_and_return(tmp_path, number):
    def step(state, batch):
        if state.step == 7:
            os.kill(os.getpid(), number)
        return toy_step(state, batch)

    before = signal.getsignal(number)
    state = toy_state()
    report = fit(state, ToyLoader(), step, SETTINGS, folder=tmp_path, hooks=HOOKS)
    assert report.interrupted and report.steps == 8 and read_progress(tmp_path).step == 8
    assert signal.getsignal(number) is before
    continued = resumed(tmp_path)
    report = fit(continued, ToyLoader(), toy_step, SETTINGS, folder=tmp_path, hooks=HOOKS)
    assert (report.steps, report.step, report.interrupted) == (4, 12, False)


def test_fit_runs_outside_the_main_thread_too(tmp_path):
    reports = []
    thread = threading.Thread(
        target=lambda: reports.append(
            fit(toy_state(), ToyLoader(), toy_step, SETTINGS, folder=tmp_path, hooks=HOOKS)
        )
    )
    thread.start()
    thread.join()
    assert reports[0].step == 12


def test_max_minutes_counts_the_time_of_earlier_runs(tmp_path):
    settings = SETTINGS.model_copy(update={"max_steps": None, "max_minutes": 0.3 / 60})
    report = fit(toy_state(), ToyLoader(), toy_step, settings, folder=tmp_path, hooks=HOOKS)
    assert 0.3 <= report.seconds < 5 and report.steps > 1
    assert read_progress(tmp_path).seconds >= 0.3
    again = fit(resumed(tmp_path), ToyLoader(), toy_step, settings, folder=tmp_path, hooks=HOOKS)
    assert again.steps == 0 and names_in(tmp_path) >= {f"G_{report.step}.pth"}


def test_the_clock_saves_too(tmp_path):
    settings = SETTINGS.model_copy(
        update={"save_every_steps": 1000, "save_every_minutes": 1e-9, "keep_checkpoints": 0}
    )
    fit(toy_state(), ToyLoader(), toy_step, settings, folder=tmp_path, hooks=HOOKS)
    assert len(list(tmp_path.glob("G_*.pth"))) == 12


def test_validation_goes_into_history_and_leaves_training_as_it_was(tmp_path):
    def validate(state: TrainState) -> dict[str, float]:
        state.generator.eval()
        return {"mel": float(torch.rand(()))}

    measured, plain = toy_state(), toy_state()
    hooks = FitHooks(save=save_toy, validate=validate, sample=lambda state, folder: (folder / "clip").touch())
    report = fit(measured, ToyLoader(), toy_step, SETTINGS, folder=tmp_path / "a", hooks=hooks)
    fit(plain, ToyLoader(), toy_step, SETTINGS, folder=tmp_path / "b", hooks=HOOKS)
    assert_equal_states(measured, plain)
    validated = [line for line in lines_of(tmp_path / "a") if "validation" in line]
    assert [line["step"] for line in validated] == [5, 10, 12] and report.last_validation == validated[-1][
        "validation"
    ]
    assert (tmp_path / "a/clip").exists()


def test_a_model_that_no_step_has_changed_is_not_saved(tmp_path):
    settings = SETTINGS.model_copy(update={"max_steps": None, "max_minutes": 1e-12})
    assert fit(toy_state(), ToyLoader(), toy_step, settings, folder=tmp_path, hooks=HOOKS).steps == 0
    assert not list(tmp_path.glob("*.pth")) and read_progress(tmp_path) is None


def test_an_empty_loader_is_refused(tmp_path):
    with pytest.raises(SvcError, match="no batch to train on"):
        fit(toy_state(), ToyLoader(n_batches=0), toy_step, SETTINGS, folder=tmp_path, hooks=HOOKS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_a_missing_device_or_precision_is_an_error_with_a_choice():
    with pytest.raises(SvcError, match="choose device=cpu"):
        make_accelerator(TrainSettings(device="cuda"))
    with pytest.raises(SvcError, match="fp16 needs a GPU: choose fp32"):
        make_accelerator(TrainSettings(precision="fp16"))


def test_precision_can_be_changed_within_one_process_and_bf16_trains_on_the_cpu(tmp_path):
    assert make_accelerator(SETTINGS).mixed_precision == "no"
    settings = SETTINGS.model_copy(update={"precision": "bf16"})
    state = toy_state(settings=settings)
    assert state.accelerator.mixed_precision == "bf16"
    assert fit(state, ToyLoader(), toy_step, settings, folder=tmp_path, hooks=HOOKS).step == 12


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_gpu_trains_and_resumes_in_every_precision(tmp_path, precision):
    settings = SETTINGS.model_copy(update={"precision": precision, "device": "cuda", "max_steps": 7})
    fit(toy_state(settings=settings), ToyLoader(), toy_step, settings, folder=tmp_path, hooks=HOOKS)
    assert (read_progress(tmp_path).scaler is not None) == (precision == "fp16")
    state = resumed(tmp_path, settings=settings)
    fit(
        state,
        ToyLoader(),
        toy_step,
        settings.model_copy(update={"max_steps": 12}),
        folder=tmp_path,
        hooks=HOOKS,
    )
    assert state.step == 12 and next(state.generator.parameters()).is_cuda


def test_a_training_ends_after_its_epochs_and_resumes_with_more(tmp_path):
    limits = SETTINGS.model_copy(update={"max_steps": None, "max_epochs": 2})
    report = fit(toy_state(), ToyLoader(), toy_step, limits, folder=tmp_path, hooks=HOOKS)
    assert (report.stopped_by, report.step) == ("max_epochs", 10)
    more = limits.model_copy(update={"max_epochs": 3})
    again = fit(resumed(tmp_path), ToyLoader(), toy_step, more, folder=tmp_path, hooks=HOOKS)
    assert (again.stopped_by, again.step) == ("max_epochs", 15)


def test_checkpoints_at_multiples_are_kept_besides_the_newest(tmp_path):
    settings = SETTINGS.model_copy(
        update={"save_every_steps": 2, "keep_checkpoints": 1, "keep_every_steps": 4}
    )
    fit(toy_state(), ToyLoader(), toy_step, settings, folder=tmp_path, hooks=HOOKS)
    assert {path.name for path in tmp_path.glob("G_*.pth")} == {"G_4.pth", "G_8.pth", "G_12.pth"}
