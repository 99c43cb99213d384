"""Measurements as a markdown table and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tests.benchmarks.sides import Comparison

HEADINGS = (
    "work", "ours", "plain", "ours / plain", "times real time", "peak memory, ours", "plain", "result",
)  # fmt: skip


def as_table(done: Sequence[Comparison], *, title: str, quick: bool = False) -> str:
    """Markdown: medians; the median ratio, with the smallest and the largest in parentheses."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *(_cells(one, quick=quick) for one in done)]
    return f"{title}\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in rows) + "\n"


def _cells(one: Comparison, *, quick: bool) -> tuple[str, ...]:
    audio_s = one.row.audio_s[quick]
    ratios = one.ratios()
    ratio_range = f" ({min(ratios):.2f}-{max(ratios):.2f})" if len(ratios) > 1 else ""
    return (
        one.row.name,
        _seconds(one.ours.median_s),
        _seconds(one.plain.median_s) if one.plain else "",
        f"{statistics.median(ratios):.2f}{ratio_range}" if ratios else "",
        f"{audio_s / one.ours.median_s:.3g}" if audio_s else "",
        _gigabytes(one.ours.peak_bytes),
        _gigabytes(one.plain.peak_bytes) if one.plain else "",
        _outcome(one),
    )


def _outcome(one: Comparison) -> str:
    """First number of both results, to show that they agree."""
    shown = []
    for name, value in list(one.ours.numbers.items())[:1]:
        other = f" / {one.plain.numbers[name]:.5g}" if one.plain else ""
        shown.append(f"{name.replace('_', ' ')} {value:.5g}{other}")
    return ", ".join(shown)


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def _gigabytes(value: int) -> str:
    return f"{value / 1e9:.2f} GB"


def as_json(done: Sequence[Comparison]) -> list[dict[str, Any]]:
    return [
        {
            "work": one.row.name,
            "ours": asdict(one.ours),
            "plain": asdict(one.plain) if one.plain else None,
            "ratios": one.ratios(),
            "processor_time_ratio": one.cpu_ratio(),
        }
        for one in done
    ]
