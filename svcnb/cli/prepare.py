"""Commands before training: weights, slice, features."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from svcnb import SvcError
from svcnb.cli.parser import add_command, make_settings, number, tell_skipped
from svcnb.device import choose_device

if TYPE_CHECKING:
    from svcnb.models.sovits.config import Config


def add_weights(subparsers) -> None:
    parser = add_command(subparsers, "weights", run_weights, "list pretrained weights, or fetch what some choices need")
    parser.add_argument("choices", nargs="*", metavar="CHOICE",
                        help="an encoder, an f0 method, shallow_diffusion, enhance, base, or a name of the table")  # fmt: skip
    parser.add_argument("--fetch", action="store_true", help="download those that are not there; broken downloads go on")
    parser.add_argument("--folder", type=Path, default=Path("pretrain"), help="where weights lie")


def add_slice(subparsers) -> None:
    parser = add_command(subparsers, "slice", run_slice, "cut recordings at silence into training clips")
    parser.add_argument("raw", type=Path, metavar="RAW", help="folder with one folder of recordings per speaker")
    parser.add_argument("clips", type=Path, metavar="CLIPS", help="folder for the clips (mono FLAC)")
    parser.add_argument("--threshold_db", type=number, default=-40.0, help="quieter than this is silence, dB")
    parser.add_argument("--min_clip_s", type=number, default=1.0, help="shorter pieces are joined or dropped, seconds")
    parser.add_argument("--max_clip_s", type=number, default=12.0, help="no clip is longer, seconds")
    parser.add_argument("--level", default="off", help="bring clips to one level: off, peak or lufs")
    parser.add_argument("--level_db", type=number, default=-20.0, help="that level: peak in dBFS, or loudness in LUFS")
    parser.add_argument("--sample_rate_hz", type=int, default=44100, help="rate of the clips, Hz")
    parser.add_argument("--overwrite", action="store_true", help="cut again what is already cut")


def add_features(subparsers) -> None:
    parser = add_command(subparsers, "features", run_features, "extract content, f0 and loudness from the clips")
    parser.add_argument("clips", type=Path, metavar="CLIPS", help="folder made by `svcnb slice`")
    parser.add_argument("features", type=Path, metavar="FEATURES", help="folder for the features")
    parser.add_argument("--config", default="small", help="small (2 CPU cores), full (a GPU) or a config.json")
    parser.add_argument("--speech_encoder", default="auto", metavar="TEXT",
                        help="content encoder, e.g. vec768l12, whisper-ppg, wavlmbase+; auto takes the best")  # fmt: skip
    parser.add_argument("--f0_predictor", default="auto", metavar="TEXT", help="auto, fcpe, rmvpe, crepe, dio, harvest, pm")
    parser.add_argument("--vol_embedding", action="store_true", help="let the voice follow the loudness of the input")
    parser.add_argument("--num_processes", type=int, default=1, metavar="N", help="processes at the same time")
    parser.add_argument("--dask", metavar="ADDRESS", help="work on a dask cluster: local, or its scheduler's tcp://HOST:PORT")
    parser.add_argument("--overwrite", action="store_true", help="extract again what is already there")
    parser.add_argument("-d", "--device", default="auto", help="auto, cpu or cuda")


def run_weights(options: argparse.Namespace) -> None:
    from svcnb.files.downloads import TABLE_HEADINGS, fetch, table_of, weights_for
    from svcnb.files.pretrained_table import WEIGHTS
    from svcnb.plots.page import Table

    if options.fetch and not options.choices:
        raise SvcError("--fetch needs to know what for: name an encoder, an f0 method, an option, or a row of the table")
    rows = weights_for(options.choices) if options.choices else list(WEIGHTS.values())
    if options.fetch:
        for row in rows:
            fetched = fetch(row.name, options.folder)
            print(f"{fetched.path}: {fetched.mirror or 'was here'}, {fetched.n_bytes / 1e6:.1f} MB, {fetched.verified}")
    print(Table(TABLE_HEADINGS, table_of(rows, options.folder)) if rows else "these choices need no weights")


def run_slice(options: argparse.Namespace) -> None:
    from svcnb.audio.slicing import CutSettings
    from svcnb.data.clips import cut_folder

    settings = make_settings(
        CutSettings,
        threshold_db=options.threshold_db,
        min_clip_s=options.min_clip_s,
        max_clip_s=options.max_clip_s,
        level=options.level,
        level_db=options.level_db,
        sample_rate_hz=options.sample_rate_hz,
    )
    report = cut_folder(options.raw, options.clips, settings, overwrite=options.overwrite)
    if not report.clips:
        reasons = "; ".join(f"{path.name}: {reason}" for path, reason in report.skipped[:3])
        raise SvcError(f"no clips from {options.raw}. {reasons}")
    for speaker, seconds in sorted(report.kept_s.items()):
        print(f"{speaker}: {seconds:.1f} s")
    tell_skipped(report.skipped)
    print(f"{len(report.clips)} clips in {options.clips}")


def _config(choice: str) -> Config:
    from svcnb.models.sovits.config import Config

    if choice in ("small", "full"):
        return Config.small() if choice == "small" else Config.full()
    return Config.load(Path(choice))


def run_features(options: argparse.Namespace) -> None:
    from svcnb.models import sovits

    settings = sovits.PrepareSettings(
        encoder=options.speech_encoder,
        f0_method=options.f0_predictor,
        with_volume=options.vol_embedding,
        n_jobs=options.num_processes,
        dask=options.dask,
        device=choose_device(options.device),
        overwrite=options.overwrite,
    )
    report = sovits.prepare(_config(options.config), options.clips, options.features, settings)
    tell_skipped(report.skipped)
    counts = f"{len(report.done)} clips extracted, {len(report.reused)} kept"
    print(f"{counts}, in {report.seconds:.0f} s: {options.features}")
