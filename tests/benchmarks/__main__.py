"""Time and memory of our implementation compared with a plain implementation of the same mathematics.

    python -m tests.benchmarks [--quick] [--only WORD ...] [--out FOLDER]

Both sides of a row run in separate processes and alternate; the table has medians, the range of the ratio and
the peak memory. It is printed and written to FOLDER/table.md, with every number in FOLDER/results.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tests import places
from tests.benchmarks import clustering, extraction, training
from tests.benchmarks.sides import Comparison, Row, Size, compare
from tests.benchmarks.table import as_json, as_table

MINUTE = (extraction.AUDIO_S, extraction.QUICK_S)


def f0_row(method: str, *, seconds: float = extraction.AUDIO_S, n_pairs: int = 3, loads: bool = False) -> Row:
    """Row of an f0 method; `loads`: its predictor has weights, which the plain side reads for every clip."""
    ours = partial(extraction.our_f0, method=method, seconds=seconds)
    plain = partial(extraction.plain_f0, method=method, seconds=seconds) if loads else None
    return Row(f"f0 with {method}", ours, plain, n_pairs, (seconds, extraction.QUICK_S))


ROWS = (
    Row("training step, batch 2, clips of 5 s", training.our_training, training.plain_training, 7),
    Row("inference of 10 s (generator)", training.our_inference, training.plain_inference, 5, (10.0, 0.3)),
    f0_row("pm"),
    f0_row("dio"),
    f0_row("harvest", n_pairs=1),
    f0_row("fcpe", loads=True),
    f0_row("rmvpe", loads=True),
    f0_row("crepe", seconds=extraction.CREPE_S, n_pairs=1),
    Row("content with svcnb-units", extraction.svcnb_units, None, 3, MINUTE),
    Row("content with HuBERT base, 12 layers", extraction.hubert, None, 2, MINUTE),
    Row("k-means, 20 000 frames x 256, 2000 centers", clustering.our_centers, clustering.plain_centers, 1),
)


def describe_machine() -> str:
    import torch

    threads = os.environ.get("OMP_NUM_THREADS") or str(torch.get_num_threads())
    load = f", load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
    return f"{os.cpu_count()} cores, {threads} threads, torch {torch.__version__}, {platform.system()}{load}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, one turn: checks that it runs")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="WORD", help="rows whose name contains a word"
    )
    parser.add_argument("--out", type=Path, default=places.PROJECT / ".benchmarks", metavar="FOLDER")
    options = parser.parse_args(arguments)
    rows = [row for row in ROWS if any(word in row.name for word in options.only)]
    machine = describe_machine()
    print(machine, flush=True)
    done: list[Comparison] = []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            print(f"{row.name} ...", flush=True)
            done.append(compare(row, Size(quick=options.quick, folder=Path(folder))))
    when = f"{datetime.now(UTC):%Y-%m-%d}"
    table = as_table(
        done, title=f"{when}: {machine}{', quick sizes' if options.quick else ''}", quick=options.quick
    )
    print(f"\n{table}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.md").write_text(table, encoding="utf-8")
    (options.out / "results.json").write_text(json.dumps(as_json(done), indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
