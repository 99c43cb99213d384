"""`svcnb rvc STEP`: RVC's own steps and files on the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from svcnb import SvcError
from svcnb.cli.parser import make_settings
from svcnb.device import choose_device

AddCommand = Callable[..., argparse.ArgumentParser]  # subparsers, name, run, summary
RATES = ("32k", "40k", "48k")
F0_METHODS = "auto, fcpe, rmvpe, crepe, dio, harvest, pm"


def add_rvc(subparsers, add_command: AddCommand, parser_class: type) -> None:
    """The sub-command `rvc` with its steps."""
    parser = subparsers.add_parser("rvc", help="RVC voices: train, convert, index, and their files", allow_abbrev=False,
                                   description="RVC v1 and v2: from a folder of recordings to a voice, and its files.")  # fmt: skip
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP", parser_class=parser_class, help="one of these")
    for add in (_add_train, _add_convert, _add_index, _add_files, _add_exchange):
        add(steps, add_command)


def _add_train(steps, add_command: AddCommand) -> None:
    summary = "cut, extract, train and index, each where it stopped: RVC's one-click training"
    parser = add_command(steps, "train", run_train, summary)
    parser.add_argument("recordings", type=Path, metavar="RECORDINGS", help="folder of one voice, any format; not its sub-folders")
    parser.add_argument("experiment", type=Path, metavar="EXPERIMENT", help="folder for the voice, e.g. data/models/me")
    parser.add_argument("--config", default="small", help="small (2 CPU cores) or full (RVC's own size, a GPU)")
    parser.add_argument("--version", default="v2", help="of the full size: v1 or v2")
    parser.add_argument("--sample_rate", default="40k", choices=RATES, help="of the full size")
    parser.add_argument("--no_f0", action="store_true", help="without pitch guidance, full size only: for speech, not for songs")
    parser.add_argument("--speech_encoder", default="auto", metavar="TEXT", help="auto takes the version's own")
    parser.add_argument("--f0_method", default="auto", metavar="TEXT", help=F0_METHODS)
    parser.add_argument("--total_epoch", type=int, metavar="N", help="stop after so many epochs in all")
    parser.add_argument("--save_every_epoch", type=int, metavar="N", help="epochs between checkpoints; else 10 minutes")
    parser.add_argument("--max_minutes", type=float, help="stop after this many minutes of training")
    parser.add_argument("--max_steps", type=int, help="stop after this many steps in all")
    parser.add_argument("--batch_size", type=int, metavar="N", help="clips per step, else the config's")
    parser.add_argument("--latest_only", action="store_true", help="keep the newest checkpoint only (and the best)")
    parser.add_argument("--small_models", action="store_true", help="a small model at every checkpoint, in EXPERIMENT/weights")
    parser.add_argument("--base", default="auto", help="auto takes pretrain/pretrained_v2/f0G40k.pth and the like; or none")
    parser.add_argument("-pg", "--pretrained_g", type=Path, help="G to start from instead")
    parser.add_argument("-pd", "--pretrained_d", type=Path, help="D to start from instead")
    parser.add_argument("--num_processes", type=int, default=1, metavar="N", help="that extract at the same time")
    parser.add_argument("--precision", default="fp32", help="fp32, fp16 (a T4) or bf16 (newer GPUs and CPUs)")
    parser.add_argument("--overwrite", action="store_true", help="cut and extract again: other recordings or settings")
    parser.add_argument("-d", "--device", default="auto", help="auto, cpu or cuda")


def _add_convert(steps, add_command: AddCommand) -> None:
    parser = add_command(steps, "convert", run_convert, "sing recordings again with an RVC voice")
    parser.add_argument("model", type=Path, metavar="MODEL", help="small model, experiment's folder, or its G_*.pth")
    parser.add_argument("inputs", type=Path, nargs="+", metavar="INPUT", help="recordings")
    parser.add_argument("-t", "--transpose", type=float, default=0.0, metavar="N", help="semitones up")
    parser.add_argument("--index", type=Path, metavar="FILE", help="added_*.index; else the one that belongs to the voice")
    parser.add_argument("--index_rate", type=float, metavar="N", help="pull towards the voice, 0..1; else 0.75 where there is an index")
    parser.add_argument("--protect", type=float, default=0.33, metavar="N", help="0..0.5: breath and s keep more of the recording; 0.5 off")
    parser.add_argument("--filter_radius", type=int, default=3, metavar="N", help="above 2 smooths harvest's melody")
    parser.add_argument("--rms_mix_rate", type=float, default=0.25, metavar="N", help="0 loudness of the input .. 1 the voice's own")
    parser.add_argument("--resample_sr", type=int, default=0, metavar="N", help="rate of the result, Hz; 0 is the voice's own")
    parser.add_argument("--f0_method", default="auto", metavar="TEXT", help=F0_METHODS)
    parser.add_argument("--f0_csv", type=Path, help="melody to sing instead of the recording's: a table time_s,f0_hz (Hz)")
    parser.add_argument("-s", "--speaker", help="row of the speaker table; else the voice's own")
    parser.add_argument("--wav_format", default="flac", help="flac, wav, ogg or mp3")
    parser.add_argument("--seed", type=int, default=52468, metavar="N", help="same seed, same result")
    parser.add_argument("-o", "--output", type=Path, default=Path("data/converted"), help="folder for the results")
    parser.add_argument("-d", "--device", default="auto", help="auto, cpu or cuda")


def _add_index(steps, add_command: AddCommand) -> None:
    parser = add_command(steps, "index", run_index, "build the index of an experiment's features")
    parser.add_argument("experiment", type=Path, metavar="EXPERIMENT", help="folder with features; needs no trained model")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="start of the random numbers")


def _add_files(steps, add_command: AddCommand) -> None:
    info = add_command(steps, "info", run_info, "tell what a small model is, or change its text")
    info.add_argument("model", type=Path, metavar="MODEL", help="small model (.pth)")
    info.add_argument("--set", dest="text", metavar="TEXT", help="new text")
    extract = add_command(steps, "extract", run_extract, "make a small model of a training's G_*.pth")
    extract.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="G_*.pth with config.json beside it")
    extract.add_argument("output", type=Path, metavar="OUTPUT", help="the new .pth")
    extract.add_argument("--version", help="v1 or v2, where RVC's config.json does not tell")
    extract.add_argument("--no_f0", action="store_true", help="trained without pitch guidance, where it does not tell")
    extract.add_argument("--info", default="Extracted model.", help="text in the file")
    merge = add_command(steps, "merge", run_merge, "merge two small models")
    merge.add_argument("one", type=Path, metavar="ONE", help="small model")
    merge.add_argument("other", type=Path, metavar="OTHER", help="small model of the same kind")
    merge.add_argument("output", type=Path, metavar="OUTPUT", help="the new .pth")
    merge.add_argument("--ratio", type=float, default=0.5, metavar="N", help="share of the first, 0..1")
    onnx = add_command(steps, "onnx", run_onnx, "write a voice as ONNX, for programs without Python")
    onnx.add_argument("model", type=Path, metavar="MODEL", help="small model, experiment's folder, or its G_*.pth")
    onnx.add_argument("output", type=Path, metavar="FILE", help="FILE.onnx")
    onnx.add_argument("--check", action="store_true", help="compare what it sings with torch, in onnxruntime")


def _add_exchange(steps, add_command: AddCommand) -> None:
    given = add_command(steps, "import", run_import, "take over an experiment that RVC prepared")
    given.add_argument("tree", type=Path, metavar="TREE", help="RVC's logs/EXPERIMENT")
    given.add_argument("experiment", type=Path, metavar="EXPERIMENT", help="new folder")
    given.add_argument("--version", help="v1 or v2, where both kinds of features are there")
    made = add_command(steps, "export", run_export, "write an experiment as RVC's logs/EXPERIMENT")
    made.add_argument("experiment", type=Path, metavar="EXPERIMENT", help="folder of the full size")
    made.add_argument("tree", type=Path, metavar="TREE", help="new folder, e.g. logs/me")


def run_train(options: argparse.Namespace) -> None:
    from svcnb.models import rvc
    from svcnb.models.rvc.train import EpochChoices
    from svcnb.training.settings import TrainSettings

    device = choose_device(options.device)
    config = _config(options)
    limits = {"max_minutes": options.max_minutes, "max_steps": options.max_steps, "precision": options.precision}
    base = options.base if options.pretrained_g is None else (options.pretrained_g, options.pretrained_d)
    settings = rvc.OneClickSettings(
        config=config,
        prepare=rvc.PrepareSettings(
            encoder=options.speech_encoder, f0_method=options.f0_method, n_jobs=options.num_processes, device=device,
            overwrite=options.overwrite,
        ),
        train=make_settings(TrainSettings, device=device, **limits),
        epochs=EpochChoices(options.total_epoch, options.save_every_epoch, options.latest_only, options.small_models),
        base=base,
        batch_size=options.batch_size,
    )  # fmt: skip
    report = rvc.train_one_click(options.recordings, options.experiment, settings, overwrite=options.overwrite)
    for name, reason in report.clips.skipped:
        print(f"skipped {name}: {reason}", file=sys.stderr)
    print(report)
    print(f"stopped by {report.training.stopped_by}: {options.experiment}")


def _config(options: argparse.Namespace):
    from svcnb.models.rvc.config import Config, rate_of

    if options.config == "small":
        if options.no_f0:
            raise SvcError("--no_f0 is for the full size: the small one lives on its pitch guidance")
        return Config.small()
    if options.config != "full":
        raise SvcError(f"--config is {options.config!r}: choose small or full")
    return Config.full(options.version, rate_of(options.sample_rate), f0=not options.no_f0)


def run_convert(options: argparse.Namespace) -> None:
    from svcnb.conversion.result_names import distinct_names
    from svcnb.features.pitch.track import F0Track
    from svcnb.models import rvc

    voice = rvc.load_voice(options.model, index=options.index, device=choose_device(options.device))
    rate = options.index_rate if options.index_rate is not None else 0.75 if voice.index_path else 0.0
    settings = rvc.RvcConversionSettings(
        speaker=options.speaker, transpose_semitones=options.transpose, f0_method=options.f0_method, cluster_ratio=rate,
        protect=options.protect, filter_radius=options.filter_radius, loudness_envelope_ratio=options.rms_mix_rate,
        resample_hz=options.resample_sr, audio_format=options.wav_format, seed=options.seed,
    )  # fmt: skip
    voice.check(settings)
    print(f"{voice.name}: {voice.about or 'no info'}; index: {voice.index_path.name if rate else 'not used'}", file=sys.stderr)
    melody = F0Track.from_csv(options.f0_csv) if options.f0_csv else None
    names = distinct_names([voice.result_name(path, settings) for path in options.inputs])
    failed = []
    for path, name in zip(options.inputs, names, strict=True):
        try:
            print(voice.convert_file(path, options.output, settings, name=name, melody=melody))
        except SvcError as error:
            if len(options.inputs) == 1:
                raise
            failed.append(path)
            print(f"skipped {error}", file=sys.stderr)
    if failed:
        raise SvcError(f"{len(failed)} of {len(options.inputs)} conversions failed, see above; the others are in {options.output}")


def run_index(options: argparse.Namespace) -> None:
    from svcnb.models.rvc.one_click import build_voice_index

    print(build_voice_index(options.experiment, seed=options.seed))


def run_info(options: argparse.Namespace) -> None:
    from svcnb.models.rvc.checkpoint import read_small_model, set_info

    if options.text is not None:
        set_info(options.model, options.text)
    print(read_small_model(options.model))


def run_extract(options: argparse.Namespace) -> None:
    from svcnb.models import rvc
    from svcnb.models.rvc.checkpoint import extract_small_model

    told = {"version": options.version, "f0": False if options.no_f0 else None}
    config = rvc.Config.load(options.checkpoint.parent / "config.json", **told)
    print(extract_small_model(options.checkpoint, config, options.output, info=options.info))


def run_merge(options: argparse.Namespace) -> None:
    from svcnb.models.rvc.checkpoint import merge_small_models, read_small_model, write_small_model

    one, other = read_small_model(options.one), read_small_model(options.other)
    merged = merge_small_models(one, other, options.ratio)
    print(write_small_model(options.output, replace(merged, info=f"{options.ratio:g} of {options.one.stem}, rest "
                                                                     f"{options.other.stem}")))  # fmt: skip


def run_onnx(options: argparse.Namespace) -> None:
    from svcnb.models import rvc
    from svcnb.models.rvc.export import check_onnx, export_onnx

    voice = rvc.load_voice(options.model)
    print(export_onnx(voice, options.output))
    if options.check:
        for n_frames, most in check_onnx(voice, options.output).items():
            print(f"{n_frames} frames: differs from torch by {most:.1e} at most")


def run_import(options: argparse.Namespace) -> None:
    from svcnb.models.rvc.exchange import import_experiment

    print(import_experiment(options.tree, options.experiment, version=options.version))


def run_export(options: argparse.Namespace) -> None:
    from svcnb.models.rvc.exchange import export_experiment

    print(export_experiment(options.experiment, options.tree))
