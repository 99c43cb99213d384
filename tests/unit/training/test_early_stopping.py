"""When to stop: advice on histories with a known answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from svcnb import SvcError
from svcnb.training.early_stopping import MIN_MEASUREMENTS_TO_STOP, read_advice


def write_history(
    path: Path, held_out: np.ndarray, training: np.ndarray | None = None, **facts: float
) -> Path:
    """A measurement every 100 steps, a loss every 20."""
    n = len(held_out)
    training = (
        np.interp(np.arange(1, 5 * n + 1) / 5, np.arange(1, n + 1), held_out)
        if training is None
        else training
    )
    lines = [{"step": 0, "facts": facts}] if facts else []
    lines += [{"step": 20 * (i + 1), "losses": {"mel": float(value)}} for i, value in enumerate(training)]
    lines += [
        {"step": 100 * (i + 1), "validation": {"mel": float(value)}, "saved": False}
        for i, value in enumerate(held_out)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def noisy(values: np.ndarray, seed: int, part: float = 0.004) -> np.ndarray:
    return values * (1 + part * np.random.default_rng(seed).standard_normal(len(values)))


X = np.arange(1, 31)
SEEDS = range(8)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_falling_curve_needs_more_steps(tmp_path: Path, seed: int) -> None:
    for n in (9, 30):
        advice = read_advice(write_history(tmp_path / "h.jsonl", noisy(1.2 * X[:n] ** -0.2, seed)))
        assert advice.kind == "falling" and not advice.enough and "train longer" in str(advice)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_plateau_is_reported_with_its_first_step(tmp_path: Path, seed: int) -> None:
    advice = read_advice(write_history(tmp_path / "h.jsonl", noisy(0.6 + 0.8 * np.exp(-X / 2.5), seed)))
    assert advice.kind == "plateau" and advice.enough
    assert 500 <= advice.since_step <= 1900 and f"since step {advice.since_step}" in str(advice)


@pytest.mark.parametrize("seed", SEEDS)
def test_rising_while_the_training_loss_falls_is_overfitting(tmp_path: Path, seed: int) -> None:
    curve = 0.6 + 0.8 * np.exp(-X / 2.5) + 0.006 * np.maximum(0, X - 12)
    falling = noisy(1.2 * np.arange(1, 151) ** -0.2, seed + 100, 0.02)
    advice = read_advice(write_history(tmp_path / "h.jsonl", noisy(curve, seed), falling))
    assert advice.kind == "overfitting" and advice.enough and 700 <= advice.best_step <= 1700
    assert "overfits" in str(advice)


def test_rising_together_with_the_training_loss_is_not_overfitting(tmp_path: Path) -> None:
    curve = 0.6 + 0.8 * np.exp(-X / 2.5) + 0.006 * np.maximum(0, X - 12)
    assert read_advice(write_history(tmp_path / "h.jsonl", curve)).kind == "plateau"


def test_few_measurements_are_too_few(tmp_path: Path) -> None:
    advice = read_advice(write_history(tmp_path / "h.jsonl", np.array([1.0, 0.9, 0.9, 0.9, 0.9])))
    assert advice.kind == "too_early" and "5 of at least 6 measurements" in str(advice) and not advice.enough


def test_the_plateau_before_a_network_follows_the_content_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    plateau = [1.23, 1.22, 1.24, 1.27, 1.26, 1.25, 1.24, 1.25, 1.26, 1.24, 1.25, 1.24, 1.26]
    lines = [{"step": 10 * (i + 1), "validation": {"mel": value}} for i, value in enumerate(plateau)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    advice = read_advice(path)
    assert advice.kind == "too_early" and not advice.enough and "plateau is common" in str(advice)


def test_a_history_that_a_real_training_wrote_is_read(tmp_path: Path) -> None:
    """Held-out values of 137 s of one reader, small size, two clips per step, every 50 steps."""
    real = [1.2290, 1.2195, 1.2693, 1.1356, 0.8966, 0.8881]
    path = tmp_path / "h.jsonl"
    path.write_text(
        "".join(
            json.dumps({"step": 50 * (i + 1), "validation": {"mel": v}}) + "\n" for i, v in enumerate(real)
        )
    )
    advice = read_advice(path)
    assert advice.kind == "falling" and advice.best_step == 300


def test_a_short_plateau_does_not_end_a_training(tmp_path: Path) -> None:
    n = MIN_MEASUREMENTS_TO_STOP - 1
    advice = read_advice(write_history(tmp_path / "h.jsonl", np.full(n, 0.7)))
    assert advice.kind == "plateau" and not advice.enough


def test_little_data_is_reported(tmp_path: Path) -> None:
    flat = np.full(20, 0.7)
    assert "only 40 s of recordings" in str(
        read_advice(write_history(tmp_path / "h.jsonl", flat, training_s=40.0))
    )
    assert "only" not in str(read_advice(write_history(tmp_path / "h.jsonl", flat, training_s=400.0)))


def test_no_held_out_clips_and_no_history_are_reported(tmp_path: Path) -> None:
    advice = read_advice(write_history(tmp_path / "h.jsonl", np.array([]), np.ones(10)))
    assert advice.kind == "not_measured" and "listen" in str(advice)
    with pytest.raises(SvcError, match="no history"):
        read_advice(tmp_path / "nowhere.jsonl")


def test_an_incomplete_line_and_a_step_measured_twice_are_handled(tmp_path: Path) -> None:
    path = write_history(tmp_path / "h.jsonl", np.full(6, 0.7))
    with path.open("a") as file:
        file.write(
            json.dumps({"step": 600, "validation": {"mel": 0.7}, "saved": True})
            + "\n"
            + '{"step": 700, "vali'
        )
    assert read_advice(path).n_measurements == 6
