"""Few rows of choices in which every pair of values of any two choices occurs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]


def covering_rows(
    choices: Mapping[str, Sequence[Any]],
    *,
    allowed: Callable[[Row], bool] = lambda row: True,
    n_tries: int = 40,
) -> Iterator[Row]:
    """Rows that together hold every pair which some allowed row can hold; greedy, the same every time.

    A pair for which none of many tries is allowed counts as impossible.
    """
    missing, rng = all_pairs(choices), np.random.default_rng(0)

    def drawn(fixed: Row) -> Row:
        return {name: values[rng.integers(len(values))] for name, values in choices.items()} | fixed

    while missing:
        wanted = min(missing, key=repr)
        tries = [row for _ in range(n_tries) if allowed(row := drawn(dict(wanted)))]
        tries = tries or [row for _ in range(50 * n_tries) if allowed(row := drawn(dict(wanted)))]
        if not tries:
            missing.discard(wanted)
            continue
        best = max(tries, key=lambda row: len(missing & pairs_of(row)))
        missing -= pairs_of(best)
        yield best


def all_pairs(choices: Mapping[str, Sequence[Any]]) -> set:
    """Every pair of values of two choices, as ((name, value), (name, value))."""
    return {
        ((a, x), (b, y))
        for a, b in itertools.combinations(choices, 2)
        for x in choices[a]
        for y in choices[b]
    }


def pairs_of(row: Row) -> set:
    """The pairs that one row holds."""
    return set(itertools.combinations(row.items(), 2))
