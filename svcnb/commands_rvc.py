"""What each step of `svcnb rvc` does, given its parsed options; `cli_rvc` says which options there are."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from svcnb import SvcError
from svcnb.commands import make_settings
from svcnb.workspace import choose_device


def run_train(options: argparse.Namespace) -> None:
    from svcnb.recipes import rvc
    from svcnb.training import TrainSettings

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
        epochs=rvc.EpochChoices(options.total_epoch, options.save_every_epoch, options.latest_only, options.small_models),
        base=base,
        batch_size=options.batch_size,
    )  # fmt: skip
    report = rvc.train_one_click(options.recordings, options.experiment, settings, overwrite=options.overwrite)
    for name, reason in report.clips.skipped:
        print(f"skipped {name}: {reason}", file=sys.stderr)
    print(report)
    print(f"stopped by {report.training.stopped_by}: {options.experiment}")


def _config(options: argparse.Namespace):
    from svcnb.recipes.rvc import Config
    from svcnb.recipes.rvc_config import rate_of

    if options.config == "small":
        if options.no_f0:
            raise SvcError("--no_f0 is for the full size: the small one lives on its pitch guidance")
        return Config.small()
    if options.config != "full":
        raise SvcError(f"--config is {options.config!r}: choose small or full")
    return Config.full(options.version, rate_of(options.sample_rate), f0=not options.no_f0)


def run_convert(options: argparse.Namespace) -> None:
    from svcnb.conversion import distinct_names
    from svcnb.pitch import F0Track
    from svcnb.recipes import rvc

    voice = rvc.load_voice(options.model, index=options.index, device=choose_device(options.device))
    rate = options.index_rate if options.index_rate is not None else 0.75 if voice.index_path else 0.0
    settings = rvc.RvcConversionSettings(
        speaker=options.speaker, transpose_semitones=options.transpose, f0_method=options.f0_method, cluster_ratio=rate,
        protect=options.protect, filter_radius=options.filter_radius, loudness_envelope_ratio=options.rms_mix_rate,
        resample_hz=options.resample_sr, audio_format=options.wav_format, seed=options.seed,
    )  # fmt: skip
    voice.check(settings)
    print(f"{voice.name}: {voice.info or 'no info'}; index: {voice.index_path.name if rate else 'not used'}", file=sys.stderr)
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
    from svcnb.recipes.rvc import build_voice_index

    print(build_voice_index(options.experiment, seed=options.seed))


def run_info(options: argparse.Namespace) -> None:
    from svcnb.recipes import rvc

    if options.text is not None:
        rvc.set_info(options.model, options.text)
    print(rvc.read_small_model(options.model))


def run_extract(options: argparse.Namespace) -> None:
    from svcnb.recipes import rvc

    told = {"version": options.version, "f0": False if options.no_f0 else None}
    config = rvc.Config.load(options.checkpoint.parent / "config.json", **told)
    print(rvc.extract_small_model(options.checkpoint, config, options.output, info=options.info))


def run_merge(options: argparse.Namespace) -> None:
    from svcnb.recipes import rvc

    one, other = rvc.read_small_model(options.one), rvc.read_small_model(options.other)
    merged = rvc.merge_small_models(one, other, options.ratio)
    print(rvc.write_small_model(options.output, replace(merged, info=f"{options.ratio:g} of {options.one.stem}, rest "
                                                                     f"{options.other.stem}")))  # fmt: skip


def run_onnx(options: argparse.Namespace) -> None:
    from svcnb.recipes import rvc

    voice = rvc.load_voice(options.model)
    print(rvc.export_onnx(voice, options.output))
    if options.check:
        for n_frames, most in rvc.check_onnx(voice, options.output).items():
            print(f"{n_frames} frames: differs from torch by {most:.1e} at most")


def run_import(options: argparse.Namespace) -> None:
    from svcnb.recipes.rvc import import_experiment

    print(import_experiment(options.tree, options.experiment, version=options.version))


def run_export(options: argparse.Namespace) -> None:
    from svcnb.recipes.rvc import export_experiment

    print(export_experiment(options.experiment, options.tree))
