"""Compare this package with arrays recorded from the original programs.

    python tests/parity.py DIR...

A DIR is a reference set (it has a set.json) or a folder of such sets. For every array the largest deviation, the
tolerance and the verdict are printed; arrays that no check compared fail as well, unless the set names them as
deliberate deviations. Exits with 1 when anything failed. Sets are recognised by their set.json, never by name.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import os
import pkgutil
import re
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if __name__ == "__main__":
    # MKL's sums in one order on every processor, the recordings' own: the log of a quiet band of a float32 spectrum
    # differs by up to 1e-3 between processors. Read when torch loads, and slow, so not for all tests.
    os.environ.setdefault("MKL_CBWR", "COMPATIBLE")

from svcnb import SvcError
from tests import parity_sets
from tests.parity_sets.registry import CHECKS, ReferenceSet, Row

# Words of a deviation's name that say nothing about which arrays it means.
FILLERS = {
    "output",
    "outputs",
    "array",
    "arrays",
    "and",
    "of",
    "the",
    "result",
    "results",
    "samplers",
    "sampler",
}


@dataclass
class Outcome:
    """What became of one set: its rows, and why it failed where a row cannot tell."""

    folder: Path
    kind: str = "?"
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    deliberate: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return bool(self.rows) and not self.problems and all(row.passed for row in self.rows)

    @property
    def worst(self) -> Row | None:
        """The row closest to its tolerance, or furthest over it."""
        return max(self.rows, key=_share_of_tolerance, default=None)


def _share_of_tolerance(row: Row) -> float:
    if not row.passed:
        return float("inf")
    return row.deviation / row.tolerance if row.tolerance else row.deviation


def load_checks() -> None:
    """Import every module of tests/parity_sets; each registers its checks."""
    for module in pkgutil.iter_modules(parity_sets.__path__):
        importlib.import_module(f"{parity_sets.__name__}.{module.name}")


def find_sets(place: Path) -> list[Path]:
    """The set itself, or every set below a folder, in order of name."""
    if (place / "set.json").is_file():
        return [place]
    return sorted(path.parent for path in place.rglob("set.json"))


def run_set(folder: Path) -> Outcome:
    """Check one set; whatever goes wrong is part of the outcome, so that the other sets still run."""
    outcome = Outcome(folder)
    started = time.monotonic()
    reference = ReferenceSet(folder)
    try:
        outcome.kind = str(reference.meta.get("kind", "?"))
        if outcome.kind not in CHECKS:
            known = ", ".join(sorted(CHECKS)) or "none"
            outcome.problems.append(
                f"unknown kind {outcome.kind!r} in {folder / 'set.json'} (there are checks for {known})"
            )
            return outcome
        outcome.rows.extend(CHECKS[outcome.kind](reference))
        deviations = reference.meta.get("deliberate_deviations", {})
        left_over = reference.left_over()
        outcome.deliberate = [name for name in left_over if is_deliberate(name, deviations)]
        outcome.problems += [
            f"{name}: compared by no check" for name in left_over if name not in outcome.deliberate
        ]
        if not outcome.rows:
            outcome.problems.append("the check compared nothing")
    except (SvcError, ImportError, FileNotFoundError) as error:
        outcome.problems.append(f"{type(error).__name__}: {error}")
    except Exception as error:  # one broken check must not hide the other sets
        traceback.print_exc()
        outcome.problems.append(f"{type(error).__name__}: {error}")
    finally:
        outcome.seconds = time.monotonic() - started
    return outcome


def is_deliberate(name: str, deviations: dict[str, str]) -> bool:
    """Whether one of the set's deliberate deviations names this array: by pattern, by prefix, or by a word of it."""
    for named in deviations:
        if fnmatch.fnmatch(name, named) or name.startswith(named):
            return True
        words = set(re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)*", named.lower())) - FILLERS
        tokens = re.split(r"[/_.]", name.lower())
        if "*" not in named and words & set(tokens):
            return True
    return False


def describe(outcome: Outcome, *, quiet: bool) -> str:
    """The set's table as text; with `quiet` only what failed, or else the worst row."""
    verdict = "ok" if outcome.passed else "FAIL"
    lines = [
        f"{outcome.folder.name} ({outcome.kind}): {verdict}, {len(outcome.rows)} arrays, {outcome.seconds:.1f} s"
    ]
    rows = outcome.rows
    if quiet:
        failed = [row for row in rows if not row.passed]
        rows = failed or [row for row in [outcome.worst] if row]
    width = max((len(row.name) for row in rows), default=0)
    for row in rows:
        measure = "relative" if row.relative else "absolute"
        verdict = "ok" if row.passed else "FAIL"
        text = f"  {row.name:<{width}}  {row.deviation:9.2e}  of {row.tolerance:.0e} {measure}  {verdict}  {row.note}"
        lines.append(text.rstrip())
    lines += [
        f"  {name}  not compared: the set names it as a deliberate deviation"
        for name in outcome.deliberate
        if not quiet
    ]
    lines += [f"  FAIL  {problem}" for problem in outcome.problems]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("places", nargs="+", type=Path, metavar="DIR")
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="per set only the worst array, or those that failed"
    )
    options = parser.parse_args(arguments)
    load_checks()
    outcomes = []
    n_empty = 0
    for place in options.places:
        folders = find_sets(place)
        if not folders:
            print(f"{place}: FAIL, no set.json in it or below it")
            n_empty += 1
        for folder in folders:
            outcomes.append(run_set(folder))
            print(describe(outcomes[-1], quiet=options.quiet), flush=True)
    n_passed = sum(outcome.passed for outcome in outcomes)
    print(f"{n_passed} of {len(outcomes) + n_empty} sets agree")
    return 0 if n_passed == len(outcomes) + n_empty else 1


if __name__ == "__main__":
    sys.exit(main())
