"""The common style of all plots: size, colors; creating, saving and displaying figures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from svcnb.files.disk import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_INCHES = 9.0
DPI = 110
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
GREY, LIGHT = "#555555", "#D9D9D9"


def save(figure: Figure, path: Path | str, *, dpi: int = 150) -> Path:
    """Write a figure as png, svg or pdf (by suffix), under a temporary name first."""
    path = Path(path)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip(".") or "png", dpi=dpi)
    return path


def png_bytes(figure: Figure, *, dpi: int = DPI) -> bytes:
    """A figure as PNG in memory, for web pages."""
    memory = io.BytesIO()
    figure.savefig(memory, format="png", dpi=dpi)
    return memory.getvalue()


def new_figure(height_inches: float, n_rows: int = 1, **grid: Any) -> tuple[Figure, list[Axes]]:
    """A figure of notebook width with stacked axes, in the common style."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        """A figure that notebooks display without pyplot."""

        def _repr_png_(self) -> bytes:
            return png_bytes(self)

    figure = NotebookFigure(figsize=(WIDTH_INCHES, height_inches), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(np.atleast_1d(figure.subplots(n_rows, 1, **grid)))
    for ax in axes:
        style_axes(ax)
    return figure, axes


def style_axes(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.tick_params(colors=GREY, labelsize=9)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set(color=GREY, size=10)
    ax.title.set(size=11)
    ax.set_title("", loc="left", fontsize=11)
