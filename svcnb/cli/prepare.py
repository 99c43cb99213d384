"""Commands before training: weights, slice, features."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from svcnb import SvcError
from svcnb.cli.parser import CommandParser, add_command, read_settings, report_skipped

if TYPE_CHECKING:
    from svcnb.models.sovits.config import Config


def add_weights(subparsers) -> None:
    add_command(
        subparsers,
        "weights",
        run_weights,
        "list pretrained weights, or fetch what some choices need",
        _fill_weights,
        ["svcnb weights", "svcnb weights vec768l12 rmvpe --fetch"],
    )


def _fill_weights(parser: CommandParser) -> None:
    parser.add_argument(
        "choices",
        nargs="*",
        metavar="CHOICE",
        help="an encoder, an f0 method, shallow_diffusion, enhance, base, or a name of the table",
    )
    parser.add_argument(
        "--fetch", action="store_true", help="download what is missing; interrupted downloads are resumed"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("pretrain"), metavar="PATH", help="folder of the weights"
    )


def run_weights(options: argparse.Namespace) -> None:
    from svcnb.files.downloads import TABLE_HEADINGS, fetch, table_of, weights_for
    from svcnb.files.pretrained_table import WEIGHTS
    from svcnb.plots.page import Table

    if options.fetch and not options.choices:
        raise SvcError(
            "--fetch needs to know what for: name an encoder, an f0 method, an option, or a row of the table"
        )
    rows = weights_for(options.choices) if options.choices else list(WEIGHTS.values())
    if options.fetch:
        for row in rows:
            fetched = fetch(row.name, options.folder)
            print(
                f"{fetched.path}: {fetched.mirror or 'was here'}, {fetched.n_bytes / 1e6:.1f} MB, {fetched.verified}"
            )
    print(Table(TABLE_HEADINGS, table_of(rows, options.folder)) if rows else "these choices need no weights")


def add_slice(subparsers) -> None:
    add_command(
        subparsers,
        "slice",
        run_slice,
        "cut recordings at silence into training clips",
        _fill_slice,
        [
            "svcnb slice data/raw data/clips",
            "svcnb slice data/raw data/clips --threshold_db -30 --level lufs",
        ],
    )


def _fill_slice(parser: CommandParser) -> None:
    from svcnb.audio.settings import CutSettings

    parser.add_argument(
        "raw", type=Path, metavar="RAW", help="folder with one folder of recordings per speaker"
    )
    parser.add_argument("clips", type=Path, metavar="CLIPS", help="folder for the clips (mono FLAC)")
    parser.add_options(CutSettings)
    parser.add_argument("--overwrite", action="store_true", help="cut again what is already cut")


def run_slice(options: argparse.Namespace) -> None:
    from svcnb.audio.settings import CutSettings
    from svcnb.data.clips import cut_folder

    report = cut_folder(
        options.raw, options.clips, read_settings(options, CutSettings), overwrite=options.overwrite
    )
    if not report.clips:
        reasons = "; ".join(f"{path.name}: {reason}" for path, reason in report.skipped[:3])
        raise SvcError(f"no clips from {options.raw}. {reasons}")
    for speaker, seconds in sorted(report.kept_s.items()):
        print(f"{speaker}: {seconds:.1f} s")
    report_skipped(report.skipped)
    print(f"{len(report.clips)} clips in {options.clips}")


def add_features(subparsers) -> None:
    add_command(
        subparsers,
        "features",
        run_features,
        "extract content, f0 and loudness from the clips",
        _fill_features,
        [
            "svcnb features data/clips data/features/me",
            "svcnb features data/clips data/features/me --config full --speech_encoder vec768l12 --f0_predictor rmvpe",
        ],
    )


def _fill_features(parser: CommandParser) -> None:
    from svcnb.cli.settings import VoiceSize
    from svcnb.data.settings import PrepareSettings

    parser.add_argument("clips", type=Path, metavar="CLIPS", help="folder made by `svcnb slice`")
    parser.add_argument("features", type=Path, metavar="FEATURES", help="folder for the features")
    parser.add_options(VoiceSize)
    parser.add_options(PrepareSettings)


def run_features(options: argparse.Namespace) -> None:
    from svcnb.cli.settings import VoiceSize
    from svcnb.data.settings import PrepareSettings
    from svcnb.models import sovits

    config = _config(read_settings(options, VoiceSize).config)
    report = sovits.prepare(config, options.clips, options.features, read_settings(options, PrepareSettings))
    report_skipped(report.skipped)
    counts = f"{len(report.done)} clips extracted, {len(report.reused)} kept"
    print(f"{counts}, in {report.seconds:.0f} s: {options.features}")


def _config(choice: str) -> Config:
    from svcnb.models.sovits.config import Config

    if choice in ("small", "full"):
        return Config.small() if choice == "small" else Config.full()
    return Config.load(Path(choice))
