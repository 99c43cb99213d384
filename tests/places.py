"""Where tests find real recordings and reference arrays; outside the checkout these are optional."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
BUNDLED_REFERENCE = PROJECT / "tests" / "data"
DEMO_VOICES = PROJECT / "data" / "demo"


def _outside(variable: str, neighbour: str) -> Path | None:
    """The folder that the variable names, else the one beside the checkout, else None."""
    named = os.environ.get(variable)
    if named:
        folder = Path(named)
        if not folder.is_dir():
            raise FileNotFoundError(f"{variable} names {folder}, which is no folder")
        return folder
    folder = PROJECT.parent / "shared" / neighbour
    return folder if folder.is_dir() else None


def voices_folder() -> Path:
    """Real recordings where there are some, else the bundled demo voices."""
    return _outside("SVCNB_VOICES", "voices") or DEMO_VOICES


def reference_folder() -> Path | None:
    """Arrays recorded from the original programs, or None."""
    return _outside("SVCNB_REFERENCE", "vectors")


def reference_sets() -> list[Path]:
    """Every set there is: the bundled ones always, the others where they are found."""
    parents = [BUNDLED_REFERENCE, *filter(None, [reference_folder()])]
    return [path.parent for parent in parents for path in sorted(parent.glob("*/set.json"))]
