"""`svcnb rvc STEP`: RVC's own steps and files on the command line."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from svcnb import SvcError
from svcnb.cli.convert import convert_all
from svcnb.cli.parser import (
    NO_ABBREVIATION,
    CommandParser,
    add_command,
    given_values,
    number,
    read_settings,
    report_skipped,
)
from svcnb.device import choose_device

if TYPE_CHECKING:
    from svcnb.cli.settings import RvcTraining
    from svcnb.models.rvc.config import Config


def add_rvc(subparsers) -> None:
    """The sub-command `rvc` with its steps."""
    parser = subparsers.add_parser(
        "rvc",
        help="RVC voices: train, convert, index, and their files",
        **NO_ABBREVIATION,
        description="RVC v1 and v2: from a folder of recordings to a voice, and its files.",
    )
    parser.set_defaults(run=lambda options: parser.print_help())
    steps = parser.add_subparsers(title="steps", metavar="STEP", parser_class=CommandParser)
    for add in (
        _add_train,
        _add_convert,
        _add_index,
        _add_info,
        _add_extract,
        _add_merge,
        _add_onnx,
        _add_import,
        _add_export,
    ):
        add(steps)


# --- from recordings to a voice -----------------------------------------------------------------------------------


def _add_train(steps) -> None:
    add_command(
        steps,
        "train",
        run_train,
        "cut, extract, train and index, each where it stopped: RVC's one-click training",
        _fill_train,
        [
            "svcnb rvc train data/raw/me data/models/me --max_minutes 30",
            "svcnb rvc train data/raw/me data/models/me --config full --total_epoch 200 --batch_size 8",
        ],
    )


def _fill_train(parser: CommandParser) -> None:
    from svcnb.cli.settings import RvcTraining
    from svcnb.models.settings import EpochChoices, RvcPrepareSettings
    from svcnb.training.settings import TrainSettings

    parser.add_argument(
        "recordings",
        type=Path,
        metavar="RECORDINGS",
        help="folder of one voice, any format; not its sub-folders",
    )
    parser.add_argument(
        "experiment", type=Path, metavar="EXPERIMENT", help="folder for the voice, e.g. data/models/me"
    )
    parser.add_options(RvcTraining)
    parser.add_options(RvcPrepareSettings)
    parser.add_options(EpochChoices)
    parser.add_options(TrainSettings, skip=("device", "max_epochs", "n_processes", "vol_aug"))


def run_train(options: argparse.Namespace) -> None:
    from svcnb.cli.settings import RvcTraining
    from svcnb.models import rvc
    from svcnb.models.settings import EpochChoices, RvcPrepareSettings
    from svcnb.training.settings import TrainSettings

    voice, prepare = read_settings(options, RvcTraining), read_settings(options, RvcPrepareSettings)
    settings = rvc.OneClickSettings(
        config=_config(voice),
        prepare=prepare,
        train=read_settings(options, TrainSettings, device=choose_device(prepare.device)),
        epochs=read_settings(options, EpochChoices),
        base=voice.base if voice.pretrained_g is None else (voice.pretrained_g, voice.pretrained_d),
        batch_size=voice.batch_size,
    )
    report = rvc.train_one_click(
        options.recordings, options.experiment, settings, overwrite=prepare.overwrite
    )
    report_skipped(report.clips.skipped)
    print(report)
    print(f"stopped by {report.training.stopped_by}: {options.experiment}")


def _config(voice: RvcTraining) -> Config:
    from svcnb.models.rvc.config import Config, rate_of

    if voice.config == "full":
        return Config.full(voice.version, rate_of(voice.sample_rate), f0=not voice.no_f0)
    if voice.no_f0:
        raise SvcError("--no_f0 is for the full size: the small one needs pitch guidance")
    return Config.small()


def _add_convert(steps) -> None:
    add_command(
        steps,
        "convert",
        run_convert,
        "convert recordings to an RVC voice",
        _fill_convert,
        [
            "svcnb rvc convert data/models/me song.wav -t 5",
            "svcnb rvc convert me.pth song.wav --index me.index --index_rate 0.5",
        ],
    )


def _fill_convert(parser: CommandParser) -> None:
    from svcnb.cli.settings import RvcFiles
    from svcnb.models.settings import RvcConversionSettings

    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="small model, experiment's folder, or its G_*.pth"
    )
    parser.add_argument("inputs", type=Path, nargs="+", metavar="INPUT", help="recordings")
    parser.add_options(RvcConversionSettings)
    parser.add_options(RvcFiles)


def run_convert(options: argparse.Namespace) -> None:
    from svcnb.cli.settings import RvcFiles
    from svcnb.models import rvc
    from svcnb.models.settings import RvcConversionSettings

    files = read_settings(options, RvcFiles)
    voice = rvc.load_voice(options.model, index=files.index, device=choose_device(files.device))
    values = given_values(options, RvcConversionSettings)
    if voice.index_path is None:
        values.setdefault("cluster_ratio", 0.0)
    settings = RvcConversionSettings(**values)
    voice.check(settings)
    used = voice.index_path.name if settings.cluster_ratio else "not used"
    print(f"{voice.name}: {voice.about or 'no info'}; index: {used}", file=sys.stderr)
    convert_all(voice, [(path, settings) for path in options.inputs], files.output, f0_csv=files.f0_csv)


def _add_index(steps) -> None:
    add_command(
        steps,
        "index",
        run_index,
        "build the index of an experiment's features",
        _fill_index,
        ["svcnb rvc index data/models/me", "svcnb rvc index data/models/me --seed 1"],
    )


def _fill_index(parser: CommandParser) -> None:
    from svcnb.models.settings import IndexSettings

    parser.add_argument(
        "experiment", type=Path, metavar="EXPERIMENT", help="folder with features; needs no trained model"
    )
    parser.add_options(IndexSettings)


def run_index(options: argparse.Namespace) -> None:
    from svcnb.models.rvc.one_click import build_voice_index
    from svcnb.models.settings import IndexSettings

    print(build_voice_index(options.experiment, seed=read_settings(options, IndexSettings).seed))


# --- RVC's files --------------------------------------------------------------------------------------------------


def _add_info(steps) -> None:
    add_command(
        steps,
        "info",
        run_info,
        "show what a small model is, or change its text",
        _fill_info,
        ["svcnb rvc info me.pth", 'svcnb rvc info me.pth --set "my voice"'],
    )


def _fill_info(parser: CommandParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="small model (.pth)")
    parser.add_argument("--set", dest="text", metavar="TEXT", help="new text")


def run_info(options: argparse.Namespace) -> None:
    from svcnb.models.rvc.checkpoint import read_small_model, set_info

    if options.text is not None:
        set_info(options.model, options.text)
    print(read_small_model(options.model))


def _add_extract(steps) -> None:
    add_command(
        steps,
        "extract",
        run_extract,
        "make a small model of a training's G_*.pth",
        _fill_extract,
        [
            "svcnb rvc extract data/models/me/G_2333.pth me.pth",
            'svcnb rvc extract logs/me/G_2333.pth me.pth --version v2 --info "200 epochs"',
        ],
    )


def _fill_extract(parser: CommandParser) -> None:
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="G_*.pth with config.json beside it"
    )
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="the new .pth")
    parser.add_argument("--version", choices=("v1", "v2"), help="where RVC's config.json does not say")
    parser.add_argument(
        "--no_f0", action="store_true", help="trained without pitch guidance, where it does not say"
    )
    parser.add_argument("--info", default="Extracted model.", metavar="TEXT", help="text in the file")


def run_extract(options: argparse.Namespace) -> None:
    from svcnb.models import rvc
    from svcnb.models.rvc.checkpoint import extract_small_model

    given = {"version": options.version, "f0": False if options.no_f0 else None}
    config = rvc.Config.load(options.checkpoint.parent / "config.json", **given)
    print(extract_small_model(options.checkpoint, config, options.output, info=options.info))


def _add_merge(steps) -> None:
    add_command(
        steps,
        "merge",
        run_merge,
        "merge two small models",
        _fill_merge,
        ["svcnb rvc merge me.pth you.pth both.pth", "svcnb rvc merge me.pth you.pth both.pth --ratio 0.6"],
    )


def _fill_merge(parser: CommandParser) -> None:
    parser.add_argument("one", type=Path, metavar="ONE", help="small model")
    parser.add_argument("other", type=Path, metavar="OTHER", help="small model of the same kind")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="the new .pth")
    parser.add_argument(
        "--ratio", type=number, default=0.5, metavar="N", help="fraction of the first, 0 to 1"
    )


def run_merge(options: argparse.Namespace) -> None:
    from svcnb.models.rvc.checkpoint import merge_small_models, read_small_model, write_small_model

    one, other = read_small_model(options.one), read_small_model(options.other)
    merged = merge_small_models(one, other, options.ratio)
    info = f"{options.ratio:g} of {options.one.stem}, rest {options.other.stem}"
    print(write_small_model(options.output, replace(merged, info=info)))


def _add_onnx(steps) -> None:
    add_command(
        steps,
        "onnx",
        run_onnx,
        "write a voice as ONNX, for programs without Python",
        _fill_onnx,
        ["svcnb rvc onnx data/models/me me.onnx", "svcnb rvc onnx me.pth me.onnx --check"],
    )


def _fill_onnx(parser: CommandParser) -> None:
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="small model, experiment's folder, or its G_*.pth"
    )
    parser.add_argument("output", type=Path, metavar="FILE", help="FILE.onnx")
    parser.add_argument(
        "--check", action="store_true", help="compare its output with torch's, in onnxruntime"
    )


def run_onnx(options: argparse.Namespace) -> None:
    from svcnb.models import rvc
    from svcnb.models.rvc.export import check_onnx, export_onnx

    voice = rvc.load_voice(options.model)
    print(export_onnx(voice, options.output))
    if options.check:
        for n_frames, most in check_onnx(voice, options.output).items():
            print(f"{n_frames} frames: differs from torch by {most:.1e} at most")


def _add_import(steps) -> None:
    add_command(
        steps,
        "import",
        run_import,
        "take over an experiment that RVC prepared",
        _fill_import,
        ["svcnb rvc import logs/me data/models/me", "svcnb rvc import logs/me data/models/me --version v2"],
    )


def _fill_import(parser: CommandParser) -> None:
    parser.add_argument("tree", type=Path, metavar="TREE", help="RVC's logs/EXPERIMENT")
    parser.add_argument("experiment", type=Path, metavar="EXPERIMENT", help="new folder")
    parser.add_argument("--version", choices=("v1", "v2"), help="where both kinds of features are there")


def run_import(options: argparse.Namespace) -> None:
    from svcnb.models.rvc.exchange import import_experiment

    print(import_experiment(options.tree, options.experiment, version=options.version))


def _add_export(steps) -> None:
    add_command(
        steps,
        "export",
        run_export,
        "write an experiment as RVC's logs/EXPERIMENT",
        _fill_export,
        ["svcnb rvc export data/models/me logs/me", "svcnb rvc export data/models/me ../RVC/logs/me"],
    )


def _fill_export(parser: CommandParser) -> None:
    parser.add_argument("experiment", type=Path, metavar="EXPERIMENT", help="folder of the full size")
    parser.add_argument("tree", type=Path, metavar="TREE", help="new folder, e.g. logs/me")


def run_export(options: argparse.Namespace) -> None:
    from svcnb.models.rvc.exchange import export_experiment

    print(export_experiment(options.experiment, options.tree))
