"""Plots for every step; each function returns a matplotlib figure."""

from svcnb.plots.audio import (
    plot_clip_lengths,
    plot_comparison,
    plot_cuts,
    plot_f0_over_spectrogram,
    plot_speaker_mix,
)
from svcnb.plots.page import Table
from svcnb.plots.training import plot_losses

__all__ = [
    "Table",
    "plot_clip_lengths",
    "plot_comparison",
    "plot_cuts",
    "plot_f0_over_spectrogram",
    "plot_losses",
    "plot_speaker_mix",
]
