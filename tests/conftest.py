"""Shared fixtures. Threads are limited before torch loads, so that timings and sums do not vary with the machine."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("GOMP_SPINCOUNT", "8000")  # waiting threads spin briefly, then sleep
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

from tests import places


@pytest.fixture(scope="session")
def project() -> Path:
    return places.PROJECT


@pytest.fixture(scope="session")
def voices_folder() -> Path:
    """Real recordings, or the bundled demo voices."""
    return places.voices_folder()


@pytest.fixture(scope="session")
def reference_folder() -> Path:
    """Reference arrays of the original programs; the test is skipped, and says so, where there are none."""
    folder = places.reference_folder()
    if folder is None:
        pytest.skip("no reference arrays: set SVCNB_REFERENCE to their folder")
    return folder


@pytest.fixture(scope="session")
def recording(voices_folder: Path) -> Path:
    """One real recording of at least three seconds."""
    import soundfile

    for path in sorted(voices_folder.rglob("*.flac")):
        if soundfile.info(path).duration >= 3:
            return path
    pytest.skip(f"no recording of three seconds in {voices_folder}")
