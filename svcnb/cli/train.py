"""Commands that train: train, vocoder, diffusion, cluster, index, demo."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from svcnb.cli.parser import add_command, make_settings, number, size_or_auto
from svcnb.device import choose_device

if TYPE_CHECKING:
    from svcnb.training.loop import TrainReport


def add_train(subparsers) -> None:
    parser = add_command(subparsers, "train", run_train, "train a voice from features")
    parser.add_argument("features", type=Path, metavar="FEATURES", help="folder made by `svcnb features`")
    parser.add_argument("voice", type=Path, metavar="VOICE", help="folder for the checkpoints and the history")
    parser.add_argument("--batch_size", type=size_or_auto, metavar="N", help="clips per step, or auto (tries a GPU); else the config's")
    parser.add_argument(
        "--num_processes", type=int, default=1, metavar="N", dest="n_processes",
        help="processes that train together, each with its own batch: one per GPU",
    )  # fmt: skip
    parser.add_argument("--key_shift_semitones", type=number, metavar="N", help="also train on clips moved by up to this")
    parser.add_argument("--vol_aug", action="store_true", default=None, help="also train on clips of another loudness")
    parser.add_argument("--tensorboard", action="store_true", help="write event files into VOICE/tensorboard")
    parser.add_argument(
        "--base", default="auto", help="folder of a base model, or a G_*.pth, to start from; auto takes the bundled one "
        "for the small size, none starts from nothing",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on with the newest checkpoint in VOICE")
    _add_training_flags(parser, keep_checkpoints=3)


def add_vocoder(subparsers) -> None:
    parser = add_command(subparsers, "vocoder", run_vocoder, "train a vocoder, for convert -eh and shallow diffusion")
    parser.add_argument("source", type=Path, metavar="CLIPS", help="folder of clips, or the features made of them")
    parser.add_argument("folder", type=Path, metavar="FOLDER",
                        help="VOICE/vocoder to use it for that voice, pretrain/nsf_hifigan for all; goes on where it stopped")  # fmt: skip
    parser.add_argument("--config", metavar="TEXT", help="small (2 CPU cores), full (a GPU) or a config.json; else small")
    parser.add_argument("--voice", type=Path, help="also learn to mend what this voice makes of the clips")
    parser.add_argument("--base", type=Path, help="vocoder to start from: a folder, its model file or a released zip")
    _add_training_flags(parser, keep_checkpoints=2)


def add_diffusion(subparsers) -> None:
    summary = "train a voice's diffusion model, for convert -shd and -od"
    parser = add_command(subparsers, "diffusion", run_diffusion, summary)
    parser.add_argument("features", type=Path, metavar="FEATURES", help="folder the voice was trained on")
    parser.add_argument("voice", type=Path, metavar="VOICE",
                        help="folder of the voice; gets diffusion/, and goes on where it stopped")  # fmt: skip
    parser.add_argument("--config", default="auto", metavar="TEXT",
                        help="small (2 CPU cores), full (a GPU), a diffusion.yaml, or auto: as the voice")  # fmt: skip
    parser.add_argument("--k_step_max", type=int, metavar="N", help="noise steps to learn, 0 = all (for -od); else the config's")
    parser.add_argument("--batch_size", type=int, metavar="N", help="crops of two seconds per step; else the config's")
    parser.add_argument("--vocoder", type=Path, metavar="FILE", help="its mel settings count; else as in convert")
    parser.add_argument("--mend", action="store_true", help="also learn to mend what the voice makes of its clips")
    parser.add_argument("--base", type=Path, help="model_*.pt to start from; else the newest in VOICE/diffusion, if any")
    parser.add_argument("--tensorboard", action="store_true", help="write event files into VOICE/diffusion/tensorboard")
    _add_training_flags(parser, keep_checkpoints=2)


def _add_training_flags(parser: argparse.ArgumentParser, *, keep_checkpoints: int) -> None:
    parser.add_argument("--max_steps", type=int, help="stop after this many steps in all")
    parser.add_argument("--max_minutes", type=number, help="stop after this many minutes")
    parser.add_argument("--log_every_steps", type=int, default=50, help="steps between logged losses")
    parser.add_argument("--save_every_steps", type=int, default=800, help="steps between checkpoints")
    parser.add_argument("--validate_every_steps", type=int, default=100, help="steps between held-out measurements")
    parser.add_argument("--stop_when_flat", action="store_true", help="stop when held-out clips have not got better for long")
    parser.add_argument("--keep_checkpoints", type=int, default=keep_checkpoints, help="newest checkpoints kept, and the best; 0 keeps all")
    parser.add_argument("--precision", default="fp32", help="fp32, fp16 (a T4) or bf16 (newer GPUs and CPUs)")
    parser.add_argument("--seed", type=int, default=1234, help="start of the random numbers")
    parser.add_argument("-d", "--device", default="auto", help="auto, cpu or cuda")


def add_cluster(subparsers) -> None:
    parser = add_command(subparsers, "cluster", run_cluster, "fit k-means centres of a voice's sounds, for convert -cr")
    parser.add_argument("features", type=Path, metavar="FEATURES", help="folder the voice was trained on")
    parser.add_argument("voice", type=Path, metavar="VOICE", help="folder of the trained voice; gets kmeans_N.pt")
    parser.add_argument("--n_centres", type=int, metavar="N", help="per speaker; else one for ten frames, at most 10000")
    parser.add_argument("--seed", type=int, default=0, help="start of the random numbers")


def add_index(subparsers) -> None:
    parser = add_command(subparsers, "index", run_index, "build the index of a voice's frames, for convert -cr -fr")
    parser.add_argument("features", type=Path, metavar="FEATURES", help="folder the voice was trained on")
    parser.add_argument("voice", type=Path, metavar="VOICE", help="folder of the trained voice; gets feature_and_index.pkl")
    parser.add_argument("--seed", type=int, default=0, help="start of the random numbers")


def add_demo(subparsers) -> None:
    parser = add_command(subparsers, "demo", run_demo, "train on the bundled voices and convert a recording, start to end")
    parser.add_argument("--minutes", type=number, default=None, help="training time; else the demo's own")
    parser.add_argument("--base", default="auto", help="what to start from: see train; none starts from nothing")
    parser.add_argument("-o", "--output", type=Path, default=Path("data/demo-run"), help="folder for all it makes")


def run_train(options: argparse.Namespace) -> None:
    from svcnb.models import sovits
    from svcnb.training.settings import TrainSettings

    given = {name: getattr(options, name) for name in TrainSettings.model_fields if hasattr(options, name)}
    settings = make_settings(TrainSettings, **given)
    choices = {"resume": options.resume, "base": options.base, "batch_size": options.batch_size}
    report = sovits.train(options.features, options.voice, settings, **choices)
    _tell_training(report, options.voice)


def run_vocoder(options: argparse.Namespace) -> None:
    from svcnb.models import sovits, vocoder
    from svcnb.training.settings import TrainSettings

    given = {name: getattr(options, name) for name in TrainSettings.model_fields if hasattr(options, name)}
    settings = make_settings(TrainSettings, **given)
    sizes = {"small": vocoder.VocoderConfig.small, "full": vocoder.VocoderConfig.full}
    config = None
    if options.config is not None:
        config = sizes[options.config]() if options.config in sizes else vocoder.VocoderConfig.load(options.config)
    voice = sovits.load_voice(options.voice, device=choose_device(options.device)) if options.voice else None
    report = vocoder.train(options.source, options.folder, settings, config=config, base=options.base, voice=voice)
    _tell_training(report, options.folder)


def run_diffusion(options: argparse.Namespace) -> None:
    from svcnb.models import sovits
    from svcnb.models.diffusion.train import DiffusionChoices, train_diffusion
    from svcnb.training.settings import TrainSettings

    given = {name: getattr(options, name) for name in TrainSettings.model_fields if hasattr(options, name)}
    names = ("config", "batch_size", "k_step_max", "vocoder", "base")
    choices = DiffusionChoices(**{name: getattr(options, name) for name in names})
    settings = make_settings(TrainSettings, **given)
    voice = sovits.load_voice(options.voice, device=choose_device(options.device)) if options.mend else None
    report = train_diffusion(options.features, options.voice, settings, choices, voice=voice)
    _tell_training(report, options.voice)


def _tell_training(report: TrainReport, folder: Path) -> None:
    from svcnb.training.early_stopping import read_advice

    print(read_advice(report.history_path))
    if report.best is not None:
        print(f"best checkpoint: step {report.best.step} ({report.best.measure} {report.best.value:.3f} on held-out clips)")
    print(f"{report.steps} steps in {report.seconds:.0f} s ({report.steps_per_second:.2f} per second), "
          f"stopped by {report.stopped_by}: {folder}")  # fmt: skip


def run_cluster(options: argparse.Namespace) -> None:
    from svcnb.models import sovits
    from svcnb.models.sovits.clusters import ClusterSettings

    settings = make_settings(ClusterSettings, n_centres=options.n_centres, seed=options.seed)
    print(sovits.fit_voice_centres(options.features, options.voice, settings))


def run_index(options: argparse.Namespace) -> None:
    from svcnb.models import sovits

    print(sovits.build_voice_index(options.features, options.voice, seed=options.seed))


def run_demo(options: argparse.Namespace) -> None:
    from svcnb.cli import demo

    extra = {} if options.minutes is None else {"minutes": options.minutes}
    demo.run_demo(options.output, settings=demo.DemoSettings(base=options.base), **extra)
