"""Commands that train: train, vocoder, diffusion, cluster, index, demo."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from svcnb.cli.parser import CommandParser, add_command, number, read_settings, removed
from svcnb.device import choose_device

if TYPE_CHECKING:
    from svcnb.training.loop import TrainReport

NOT_BESIDE_A_VOICE = ("n_processes", "vol_aug")  # vocoder and diffusion train without these


def add_train(subparsers) -> None:
    add_command(
        subparsers,
        "train",
        run_train,
        "train a voice from features",
        _fill_train,
        [
            "svcnb train data/features/me data/models/me --max_minutes 30",
            "svcnb train data/features/me data/models/me --resume --precision fp16 --batch_size auto",
        ],
    )


def _fill_train(parser: CommandParser) -> None:
    from svcnb.cli.settings import VoiceTraining
    from svcnb.training.settings import TrainSettings

    parser.add_argument("features", type=Path, metavar="FEATURES", help="folder made by `svcnb features`")
    parser.add_argument(
        "voice", type=Path, metavar="VOICE", help="folder for the checkpoints and the history"
    )
    parser.add_options(VoiceTraining)
    parser.add_options(TrainSettings)
    parser.add_argument("--key_shift_semitones", type=removed, help=argparse.SUPPRESS)


def run_train(options: argparse.Namespace) -> None:
    from svcnb.cli.settings import VoiceTraining
    from svcnb.models import sovits
    from svcnb.training.settings import TrainSettings

    start = read_settings(options, VoiceTraining)
    settings = read_settings(options, TrainSettings)
    report = sovits.train(options.features, options.voice, settings, **dict(start))
    report_training(report, options.voice)


def add_vocoder(subparsers) -> None:
    add_command(
        subparsers,
        "vocoder",
        run_vocoder,
        "train a vocoder, for convert -eh and shallow diffusion",
        _fill_vocoder,
        [
            "svcnb vocoder data/features/me data/models/me/vocoder --max_minutes 20",
            "svcnb vocoder data/clips pretrain/nsf_hifigan --config full --precision fp16",
        ],
    )


def _fill_vocoder(parser: CommandParser) -> None:
    from svcnb.cli.settings import VocoderTraining
    from svcnb.training.settings import TrainSettings

    parser.add_argument(
        "source", type=Path, metavar="CLIPS", help="folder of clips, or the features made of them"
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="VOICE/vocoder for that voice, pretrain/nsf_hifigan for all; a training in it is resumed",
    )
    parser.add_options(VocoderTraining)
    parser.add_options(TrainSettings, skip=(*NOT_BESIDE_A_VOICE, "tensorboard"))


def run_vocoder(options: argparse.Namespace) -> None:
    from svcnb.cli.settings import VocoderTraining
    from svcnb.models import sovits, vocoder
    from svcnb.training.settings import TrainSettings

    start, settings = read_settings(options, VocoderTraining), read_settings(options, TrainSettings)
    sizes = {"small": vocoder.Config.small, "full": vocoder.Config.full}
    config = None
    if start.config is not None:
        config = sizes[start.config]() if start.config in sizes else vocoder.Config.load(start.config)
    voice = sovits.load_voice(start.voice, device=choose_device(settings.device)) if start.voice else None
    report = vocoder.train(
        options.source, options.folder, settings, config=config, base=start.base, voice=voice
    )
    report_training(report, options.folder)


def add_diffusion(subparsers) -> None:
    add_command(
        subparsers,
        "diffusion",
        run_diffusion,
        "train a voice's diffusion model, for convert -shd and -od",
        _fill_diffusion,
        [
            "svcnb diffusion data/features/me data/models/me --max_minutes 30 --k_step_max 200",
            "svcnb diffusion data/features/me data/models/me --config full --precision fp16",
        ],
    )


def _fill_diffusion(parser: CommandParser) -> None:
    from svcnb.cli.settings import DiffusionTraining
    from svcnb.models.settings import DiffusionChoices
    from svcnb.training.settings import TrainSettings

    parser.add_argument("features", type=Path, metavar="FEATURES", help="folder the voice was trained on")
    parser.add_argument(
        "voice",
        type=Path,
        metavar="VOICE",
        help="folder of the voice; gets diffusion/, and a training in it is resumed",
    )
    parser.add_options(DiffusionChoices)
    parser.add_options(DiffusionTraining)
    parser.add_options(TrainSettings, skip=NOT_BESIDE_A_VOICE)


def run_diffusion(options: argparse.Namespace) -> None:
    from svcnb.cli.settings import DiffusionTraining
    from svcnb.models import sovits
    from svcnb.models.diffusion.train import train_diffusion
    from svcnb.models.settings import DiffusionChoices
    from svcnb.training.settings import TrainSettings

    settings, choices = read_settings(options, TrainSettings), read_settings(options, DiffusionChoices)
    refines = read_settings(options, DiffusionTraining).refine
    voice = sovits.load_voice(options.voice, device=choose_device(settings.device)) if refines else None
    report = train_diffusion(options.features, options.voice, settings, choices, voice=voice)
    report_training(report, options.voice)


def report_training(report: TrainReport, folder: Path) -> None:
    from svcnb.training.early_stopping import read_advice

    print(read_advice(report.history_path))
    if report.best is not None:
        print(
            f"best checkpoint: step {report.best.step} ({report.best.measure} {report.best.value:.3f} on held-out clips)"
        )
    print(
        f"{report.steps} steps in {report.seconds:.0f} s ({report.steps_per_second:.2f} per second), "
        f"stopped by {report.stopped_by}: {folder}"
    )


def add_cluster(subparsers) -> None:
    add_command(
        subparsers,
        "cluster",
        run_cluster,
        "fit k-means cluster centers of a voice's content, for convert -cr",
        _fill_cluster,
        [
            "svcnb cluster data/features/me data/models/me",
            "svcnb cluster data/features/me data/models/me --n_centers 2000",
        ],
    )


def _fill_cluster(parser: CommandParser) -> None:
    from svcnb.models.settings import ClusterSettings

    parser.add_argument("features", type=Path, metavar="FEATURES", help="folder the voice was trained on")
    parser.add_argument(
        "voice", type=Path, metavar="VOICE", help="folder of the trained voice; gets kmeans_N.pt"
    )
    parser.add_options(ClusterSettings)


def run_cluster(options: argparse.Namespace) -> None:
    from svcnb.models import sovits
    from svcnb.models.settings import ClusterSettings

    print(sovits.fit_voice_centers(options.features, options.voice, read_settings(options, ClusterSettings)))


def add_index(subparsers) -> None:
    add_command(
        subparsers,
        "index",
        run_index,
        "build the index of a voice's content frames, for convert -cr -fr",
        _fill_index,
        [
            "svcnb index data/features/me data/models/me",
            "svcnb index data/features/me data/models/me --seed 1",
        ],
    )


def _fill_index(parser: CommandParser) -> None:
    from svcnb.models.settings import IndexSettings

    parser.add_argument("features", type=Path, metavar="FEATURES", help="folder the voice was trained on")
    parser.add_argument(
        "voice", type=Path, metavar="VOICE", help="folder of the trained voice; gets feature_and_index.pkl"
    )
    parser.add_options(IndexSettings)


def run_index(options: argparse.Namespace) -> None:
    from svcnb.models import sovits
    from svcnb.models.settings import IndexSettings

    print(
        sovits.build_voice_index(
            options.features, options.voice, seed=read_settings(options, IndexSettings).seed
        )
    )


def add_demo(subparsers) -> None:
    add_command(
        subparsers,
        "demo",
        run_demo,
        "train on the bundled voices and convert a recording, start to end",
        _fill_demo,
        ["svcnb demo", "svcnb demo --minutes 2 --base none -o data/demo-run"],
    )


def _fill_demo(parser: CommandParser) -> None:
    parser.add_argument(
        "--minutes", type=number, metavar="N", help="training time in minutes; else the demo's own"
    )
    parser.add_argument(
        "--base", default="auto", help="base model to start from: see train; none starts from nothing"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("data/demo-run"),
        metavar="PATH",
        help="folder for all it makes",
    )


def run_demo(options: argparse.Namespace) -> None:
    from svcnb.cli import demo

    extra = {} if options.minutes is None else {"minutes": options.minutes}
    demo.run_demo(options.output, settings=demo.DemoSettings(base=options.base), **extra)
