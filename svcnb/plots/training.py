"""Plots of a training: losses over the steps, on training and on held-out clips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from svcnb.plots.style import BLUE, GREEN, GREY, LIGHT, ORANGE, new_figure, style_axes
from svcnb.training.history import read_held_out, read_history

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# --------------------------------------------------------------------------------------------- training


def plot_losses(history_path: Path | str, *, smooth_steps: int = 15) -> Figure:
    """The losses of a training over its steps: thin as logged, thick smoothed, one small plot per loss.

    With held-out clips, a plot across the top shows the validation loss, which alone distinguishes progress
    from overfitting, with the best checkpoint marked.

    Args:
        history_path: history.jsonl of a training; lines without losses are ignored.
        smooth_steps: number of logged values that the thick line averages.
    """
    steps, values = read_history(history_path)
    names = sorted(values, key=lambda name: (name != "total", name))
    held_out = read_held_out(history_path)
    n_columns = min(3, len(names))
    n_rows = -(-len(names) // n_columns)
    figure, (placeholder,) = new_figure(0.5 + 1.9 * n_rows + (2.4 if held_out else 0))
    placeholder.remove()
    grid = figure.add_gridspec(
        n_rows + bool(held_out), n_columns, height_ratios=[1.3] * bool(held_out) + [1] * n_rows
    )
    if held_out:
        ax = figure.add_subplot(grid[0, :])
        style_axes(ax)
        name = "prior_mel" if "prior_mel" in steps else "mel"  # prior_mel is decoded like the held-out clips
        training = steps.get(name, []), values.get(name, [])
        _draw_held_out(ax, held_out, training=training, smooth_steps=smooth_steps)
    for i, name in enumerate(names):
        ax = figure.add_subplot(grid[i // n_columns + bool(held_out), i % n_columns])
        style_axes(ax)
        _draw_loss(ax, np.asarray(steps[name]), np.asarray(values[name]), smooth_steps)
        ax.set_title(name, loc="left")
        if i >= len(names) - n_columns:
            ax.set_xlabel("step")
    return figure


def _draw_loss(ax: Axes, x: np.ndarray, y: np.ndarray, smooth_steps: int) -> None:
    if len(y) > 2:
        ax.plot(x, y, color=LIGHT, linewidth=1)
        ax.plot(x, _smooth(y, smooth_steps), color=BLUE, linewidth=1.8)
    else:
        ax.plot(x, y, color=BLUE, linewidth=1, marker="o")
    ax.margins(x=0.02)
    ax.xaxis.get_major_locator().set_params(nbins=4, integer=True)


def _draw_held_out(
    ax: Axes,
    held_out: list[tuple[int, float, bool]],
    *,
    training: tuple[list[int], list[float]],
    smooth_steps: int,
) -> None:
    """The validation loss with the best checkpoint, and the corresponding training loss."""
    x, y = (
        np.asarray(column) for column in zip(*((step, value) for step, value, _ in held_out), strict=True)
    )
    if len(training[1]) > 2:
        smoothed = _smooth(np.asarray(training[1]), smooth_steps)
        ax.plot(training[0], smoothed, color=BLUE, linewidth=1.8, label="training clips")
    ax.plot(x, y, "--", marker="o", markersize=4, color=ORANGE, linewidth=1.6, label="held-out clips")
    saved = [(value, step) for step, value, is_saved in held_out if is_saved]
    if saved:
        value, step = min(saved)
        ax.plot(
            step,
            value,
            marker="*",
            markersize=15,
            color=GREEN,
            linestyle="none",
            label=f"best checkpoint: step {step}",
        )
    ends = [y[-1], *training[1][-1:]]
    top = max(float(np.quantile(y, 0.9)), *ends)  # the first values are much higher than all others
    ax.set_ylim(min(y.min(), *ends) * 0.95, top * 1.15)
    ax.set_title("distance of mel spectra", loc="left")
    ax.set_xlabel("step")
    ax.legend(fontsize=9, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, labelcolor=GREY)
    ax.margins(x=0.02)
    ax.xaxis.get_major_locator().set_params(integer=True)


def _smooth(values: np.ndarray, n: int) -> np.ndarray:
    """Moving average of the same length; its window is shorter at the ends."""
    n = max(1, min(n, len(values) // 2 * 2 - 1))
    weights = np.ones(n)
    return np.convolve(values, weights, "same") / np.convolve(np.ones(len(values)), weights, "same")
