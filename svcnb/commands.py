"""What each sub-command does, given its parsed options; `cli` says which options there are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svcnb import SvcError
from svcnb.workspace import choose_device

if TYPE_CHECKING:
    from svcnb.loaded_voice import LoadedVoice
    from svcnb.recipes.sovits import Config
    from svcnb.training import TrainReport


def make_settings(settings_class: type, **values: Any) -> Any:
    """A settings object from flag values; what it refuses is the user's to mend, told in one line."""
    from pydantic import ValidationError

    try:
        return settings_class(**values)
    except ValidationError as error:
        told = (f"{'.'.join(map(str, e['loc']))}: {e['msg']} (given: {e['input']!r})" for e in error.errors())
        raise SvcError("; ".join(told)) from None


def run_weights(options: argparse.Namespace) -> None:
    from svcnb.downloads import TABLE_HEADINGS, WEIGHTS, fetch, table_of, weights_for
    from svcnb.widgets import Table

    if options.fetch and not options.choices:
        raise SvcError("--fetch needs to know what for: name an encoder, an f0 method, an option, or a row of the table")
    rows = weights_for(options.choices) if options.choices else list(WEIGHTS.values())
    if options.fetch:
        for row in rows:
            fetched = fetch(row.name, options.folder)
            print(f"{fetched.path}: {fetched.mirror or 'was here'}, {fetched.n_bytes / 1e6:.1f} MB, {fetched.verified}")
    print(Table(TABLE_HEADINGS, table_of(rows, options.folder)) if rows else "these choices need no weights")


def run_slice(options: argparse.Namespace) -> None:
    from svcnb.slicing import CutSettings, cut_folder

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
    _tell_skipped(report.skipped)
    print(f"{len(report.clips)} clips in {options.clips}")


def _config(choice: str) -> Config:
    from svcnb.recipes.sovits import Config

    if choice in ("small", "full"):
        return Config.small() if choice == "small" else Config.full()
    return Config.load(Path(choice))


def run_features(options: argparse.Namespace) -> None:
    from svcnb.recipes import sovits

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
    _tell_skipped(report.skipped)
    counts = f"{len(report.done)} clips extracted, {len(report.reused)} kept"
    print(f"{counts}, in {report.seconds:.0f} s: {options.features}")


def run_train(options: argparse.Namespace) -> None:
    from svcnb.recipes import sovits
    from svcnb.training import TrainSettings

    given = {name: getattr(options, name) for name in TrainSettings.model_fields if hasattr(options, name)}
    settings = make_settings(TrainSettings, **given)
    choices = {"resume": options.resume, "base": options.base, "batch_size": options.batch_size}
    report = sovits.train(options.features, options.voice, settings, **choices)
    _tell_training(report, options.voice)


def run_vocoder(options: argparse.Namespace) -> None:
    from svcnb.recipes import sovits, vocoder
    from svcnb.training import TrainSettings

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
    from svcnb.recipes import sovits
    from svcnb.training import TrainSettings

    given = {name: getattr(options, name) for name in TrainSettings.model_fields if hasattr(options, name)}
    names = ("config", "batch_size", "k_step_max", "vocoder", "base")
    choices = sovits.DiffusionChoices(**{name: getattr(options, name) for name in names})
    settings = make_settings(TrainSettings, **given)
    voice = sovits.load_voice(options.voice, device=choose_device(options.device)) if options.mend else None
    report = sovits.train_diffusion(options.features, options.voice, settings, choices, voice=voice)
    _tell_training(report, options.voice)


def _tell_training(report: TrainReport, folder: Path) -> None:
    from svcnb.training_advice import read_advice

    print(read_advice(report.history_path))
    if report.best is not None:
        print(f"best checkpoint: step {report.best.step} ({report.best.measure} {report.best.value:.3f} on held-out clips)")
    print(f"{report.steps} steps in {report.seconds:.0f} s ({report.steps_per_second:.2f} per second), "
          f"stopped by {report.stopped_by}: {folder}")  # fmt: skip


def run_cluster(options: argparse.Namespace) -> None:
    from svcnb.recipes import sovits

    settings = make_settings(sovits.ClusterSettings, n_centres=options.n_centres, seed=options.seed)
    print(sovits.fit_voice_centres(options.features, options.voice, settings))


def run_index(options: argparse.Namespace) -> None:
    from svcnb.recipes import sovits

    print(sovits.build_voice_index(options.features, options.voice, seed=options.seed))


def run_convert(options: argparse.Namespace) -> None:
    voice_path, inputs = _voice_and_inputs(options)
    from svcnb.audio import read_audio
    from svcnb.conversion import ConversionSettings, distinct_names
    from svcnb.pitch import F0Track

    values = {name: getattr(options, name) for name in ConversionSettings.model_fields if hasattr(options, name)}
    shifts = options.trans + [options.trans[0]] * (len(inputs) - len(options.trans))
    jobs = [
        (path, ConversionSettings(speaker=speaker, transpose_semitones=shift, **values))
        for speaker in options.spk_list or [None]
        for path, shift in zip(inputs, shifts, strict=True)
    ]
    voice = _load_voice(voice_path, options)
    if voice_path.suffix.lower() == ".zip":
        print(f"{voice_path} is unpacked in {voice.folder}, for next time too: remove it when you need the room", file=sys.stderr)
    for _, settings in jobs:
        voice.check(settings)
    if not options.spk_list and len(voice.speakers) > 1 and not options.speaker_mix:
        print(f"speaker {voice.speaker_name(None)} of {', '.join(sorted(voice.speakers))}: -s chooses", file=sys.stderr)
    names = distinct_names([voice.result_name(path, settings) for path, settings in jobs])
    melody = F0Track.from_csv(options.f0_csv) if options.f0_csv else None
    skipped = []
    for (path, settings), name in zip(jobs, names, strict=True):
        try:
            print(voice.convert_file(path, options.output, settings, name=name, melody=melody))
            if options.write_f0:
                track = melody or voice.estimate_f0(read_audio(path), settings.f0_method, threshold=settings.f0_threshold)
                print(track.to_csv(options.output / f"{name}.f0.csv"))
        except SvcError as error:
            if len(jobs) == 1:
                raise
            skipped.append((path, str(error)))
    if skipped:
        _tell_skipped(skipped)
        raise SvcError(f"{len(skipped)} of {len(jobs)} conversions failed, see above; the others are in {options.output}")


def _load_voice(path: Path, options: argparse.Namespace) -> LoadedVoice:
    """The voice with the files that the flags of a conversion name."""
    from svcnb.recipes import sovits
    from svcnb.voices import load_any_voice

    diffusion = (options.diffusion_model_path, options.diffusion_config_path)
    parts = {
        "device": choose_device(options.device),
        "vocoder": options.vocoder,
        "diffusion": sovits.DiffusionFiles(*diffusion) if any(diffusion) else None,
    }
    if options.only_diffusion:
        return sovits.load_diffusion_voice(path, **parts)
    return load_any_voice(
        path, config=options.config_path, checkpoint=options.checkpoint, cluster_model=options.cluster_model_path, **parts
    )


def _voice_and_inputs(options: argparse.Namespace) -> tuple[Path, list[Path]]:
    """The voice (folder or G_*.pth) and the recordings, wherever on the line they were named."""
    paths = [Path(text) for text in options.paths]
    if options.model_path is not None:
        voice_path = options.model_path
    elif options.only_diffusion and options.diffusion_model_path is not None and not (paths and paths[0].is_dir()):
        voice_path = options.diffusion_model_path
    elif paths:
        voice_path = paths.pop(0)
    else:
        raise SvcError("no voice given: name its folder first, or a checkpoint with -m")
    if not voice_path.exists():
        raise SvcError(f"{voice_path}: no such voice; expected a folder with G_*.pth and config.json, or a G_*.pth")
    inputs = paths + [_named_recording(name) for name in options.clean_names]
    if not inputs:
        raise SvcError("no recording given: name files after the voice, or with -n")
    if options.f0_csv and len(inputs) > 1:
        raise SvcError(f"--f0_csv holds one melody, but {len(inputs)} recordings are given: convert them one by one")
    if len(options.trans) > len(inputs):
        counts = f"{len(options.trans)} values for {len(inputs)} recordings"
        raise SvcError(f"-t has {counts}: give one for each, or one for all")
    for path in inputs:
        if not path.is_file():
            raise SvcError(f"{path}: no such recording; give a path, or with -n a name in raw/")
    return voice_path, inputs


def _named_recording(name: str) -> Path:
    """so-vits-svc looks for names in raw/ and takes .wav where there is no suffix; a path works too."""
    candidates = [Path(name), Path("raw") / name, Path("data/raw") / name]
    candidates += [path.with_name(path.name + ".wav") for path in candidates]
    return next((path for path in candidates if path.is_file()), Path(name))


def run_evaluate(options: argparse.Namespace) -> None:
    from svcnb.conversion import ConversionSettings
    from svcnb.evaluation_advice import LAST_WORD, advise
    from svcnb.evaluation_page import write_page
    from svcnb.evaluation_run import EvaluationSettings, evaluate_voice, held_out_clips
    from svcnb.widgets import Table

    values = {name: getattr(options, name) for name in ConversionSettings.model_fields if hasattr(options, name)}
    conversion = ConversionSettings(transpose_semitones=options.trans, **values)
    names = ("transposition", "n_references", "n_copies", "most", "max_seconds", "parallel")
    chosen = {name: getattr(options, name) for name in names} | {"words": not options.no_words}
    settings = make_settings(EvaluationSettings, conversion=conversion, **chosen)
    voice = _load_voice(options.voice, options)
    voice.check(conversion)
    target = options.target
    if (target / "settings.json").is_file():
        target = held_out_clips(target, options.output / "target", speaker=voice.speaker_name(options.speaker))
    evaluation = evaluate_voice(voice, target, options.sources, options.output, settings, overwrite=options.overwrite)
    print(Table(*evaluation.table()))
    for text in (*map(str, advise(evaluation)), *evaluation.notes, LAST_WORD):
        print(f"- {text}")
    _tell_skipped([(skipped.name, skipped.reason) for skipped in evaluation.skipped])
    print(write_page(evaluation, options.output, estimate_f0=voice.estimate_f0))


def run_mix(options: argparse.Namespace) -> None:
    from svcnb.recipes import sovits

    print(sovits.mix_voices(options.voices, options.output, rates=options.weights, mode=options.mode))


def run_compress(options: argparse.Namespace) -> None:
    from svcnb.recipes import sovits

    print(sovits.compress_voice(options.voice, options.output, half=options.half))


def run_export(options: argparse.Namespace) -> None:
    from svcnb.recipes import sovits

    print(sovits.export_voice(options.voice, options.output, mixes=False if options.one_speaker else None))
    if options.check:
        deviations = sovits.check_export(options.output, options.voice)
        print("; ".join(f"{n} frames: differs from torch by {most:.1e} at most" for n, most in deviations.items()))


def run_demo(options: argparse.Namespace) -> None:
    from svcnb import demo

    extra = {} if options.minutes is None else {"minutes": options.minutes}
    demo.run_demo(options.output, settings=demo.DemoSettings(base=options.base), **extra)


def _tell_skipped(skipped: Sequence[tuple[Any, str]]) -> None:
    for item, reason in skipped:
        name = str(getattr(item, "path", item))
        print(f"skipped {reason if name in reason else f'{name}: {reason}'}", file=sys.stderr)
