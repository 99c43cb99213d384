"""Commands that use a voice: convert and evaluate."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from svcnb import SvcError
from svcnb.cli.parser import CommandParser, add_command, given_values, read_settings, report_skipped
from svcnb.device import choose_device

if TYPE_CHECKING:
    from svcnb.cli.settings import ConvertFiles, VoiceFiles
    from svcnb.conversion.settings import ConversionSettings
    from svcnb.conversion.voice import LoadedVoice


def add_convert(subparsers) -> None:
    parser = add_command(
        subparsers,
        "convert",
        run_convert,
        "convert recordings to a trained voice",
        _fill_convert,
        [
            "svcnb convert data/models/me song.wav -t 5",
            "svcnb convert -m logs/44k/G_800.pth -c configs/config.json -n song.wav -s me -cr 0.5 -f0p rmvpe",
        ],
    )
    parser.usage = "svcnb convert (VOICE | -m MODEL) INPUT... [options]"


def _fill_convert(parser: CommandParser) -> None:
    from svcnb.cli.settings import ConvertFiles, VoiceFiles
    from svcnb.conversion.settings import ConversionSettings

    parser.add_argument(
        "paths", nargs="*", metavar="VOICE INPUT", help="voice folder (not with -m), then recordings"
    )
    parser.add_options(ConversionSettings, many=("speaker", "transpose_semitones"))
    parser.add_options(ConvertFiles)
    parser.add_options(VoiceFiles)


def run_convert(options: argparse.Namespace) -> None:
    from svcnb.cli.settings import ConvertFiles, VoiceFiles
    from svcnb.conversion.settings import ConversionSettings

    files, parts = read_settings(options, ConvertFiles), read_settings(options, VoiceFiles)
    values = given_values(options, ConversionSettings)
    speakers, shifts = values.pop("speaker", [None]), values.pop("transpose_semitones", [0.0])
    only_diffusion = values.get("only_diffusion", False)
    voice_path, inputs = _voice_and_inputs(options.paths, files, parts, only_diffusion=only_diffusion)
    if len(shifts) > len(inputs):
        raise SvcError(
            f"-t has {len(shifts)} values for {len(inputs)} recordings: give one for each, or one for all"
        )
    shifts = shifts + [shifts[0]] * (len(inputs) - len(shifts))
    jobs = [
        (path, ConversionSettings(speaker=speaker, transpose_semitones=shift, **values))
        for speaker in speakers
        for path, shift in zip(inputs, shifts, strict=True)
    ]
    voice = _load_voice(voice_path, parts, only_diffusion=only_diffusion)
    if voice_path.suffix.lower() == ".zip":
        print(
            f"{voice_path} is unpacked in {voice.folder}, for next time too: remove it when you need the room",
            file=sys.stderr,
        )
    for _, settings in jobs:
        voice.check(settings)
    if speakers == [None] and len(voice.speakers) > 1 and not jobs[0][1].speaker_mix:
        print(
            f"speaker {voice.speaker_name(None)} of {', '.join(sorted(voice.speakers))}: -s chooses",
            file=sys.stderr,
        )
    convert_all(voice, jobs, files.output, f0_csv=files.f0_csv, write_f0=files.write_f0)


def convert_all(
    voice: LoadedVoice,
    jobs: Sequence[tuple[Path, ConversionSettings]],
    folder: Path,
    *,
    f0_csv: Path | None,
    write_f0: bool = False,
) -> None:
    """Convert recordings, each with its settings, and print the files; one that fails does not stop the others.

    Raises:
        SvcError: at the end, if any failed; at once, if there is only one.
    """
    from svcnb.audio.audio import read_audio
    from svcnb.conversion.result_names import distinct_names
    from svcnb.features.pitch.track import F0Track

    given_f0 = F0Track.from_csv(f0_csv) if f0_csv else None
    names = distinct_names([voice.result_name(path, settings) for path, settings in jobs])
    skipped = []
    for (path, settings), name in zip(jobs, names, strict=True):
        try:
            print(voice.convert_file(path, folder, settings, name=name, f0=given_f0))
            if write_f0:
                f0 = given_f0 or voice.estimate_f0(
                    read_audio(path), settings.f0_method, threshold=settings.f0_threshold
                )
                print(f0.to_csv(folder / f"{name}.f0.csv"))
        except SvcError as error:
            if len(jobs) == 1:
                raise
            skipped.append((path, str(error)))
    if skipped:
        report_skipped(skipped)
        raise SvcError(
            f"{len(skipped)} of {len(jobs)} conversions failed, see above; the others are in {folder}"
        )


def _load_voice(path: Path, parts: VoiceFiles, *, only_diffusion: bool) -> LoadedVoice:
    """The voice with the files that the flags of a conversion name."""
    from svcnb.models.auto import load_any_voice
    from svcnb.models.diffusion.checkpoint import DiffusionFiles
    from svcnb.models.sovits.diffusion_voice import load_diffusion_voice

    diffusion = (parts.diffusion_model_path, parts.diffusion_config_path)
    common = {
        "device": choose_device(parts.device),
        "vocoder": parts.vocoder,
        "diffusion": DiffusionFiles(*diffusion) if any(diffusion) else None,
    }
    if only_diffusion:
        return load_diffusion_voice(path, **common)
    own = {
        "config": parts.config_path,
        "checkpoint": parts.checkpoint,
        "cluster_model": parts.cluster_model_path,
    }
    return load_any_voice(path, **own, **common)


def _voice_and_inputs(
    words: list[str], files: ConvertFiles, parts: VoiceFiles, *, only_diffusion: bool
) -> tuple[Path, list[Path]]:
    """The voice (folder or G_*.pth) and the recordings, wherever on the line they were named."""
    paths = [Path(text) for text in words]
    if files.model_path is not None:
        voice_path = files.model_path
    elif only_diffusion and parts.diffusion_model_path is not None and not (paths and paths[0].is_dir()):
        voice_path = parts.diffusion_model_path
    elif paths:
        voice_path = paths.pop(0)
    else:
        raise SvcError("no voice given: name its folder first, or a checkpoint with -m")
    if not voice_path.exists():
        raise SvcError(
            f"{voice_path}: no such voice; expected a folder with G_*.pth and config.json, or a G_*.pth"
        )
    inputs = paths + [_named_recording(name) for name in files.clean_names]
    if not inputs:
        raise SvcError("no recording given: name files after the voice, or with -n")
    if files.f0_csv and len(inputs) > 1:
        raise SvcError(
            f"--f0_csv is one f0 contour, but {len(inputs)} recordings are given: convert them one by one"
        )
    for path in inputs:
        if not path.is_file():
            raise SvcError(f"{path}: no such recording; give a path, or with -n a name in raw/")
    return voice_path, inputs


def _named_recording(name: str) -> Path:
    """so-vits-svc looks for names in raw/ and takes .wav where there is no suffix; a path works too."""
    candidates = [Path(name), Path("raw") / name, Path("data/raw") / name]
    candidates += [path.with_name(path.name + ".wav") for path in candidates]
    return next((path for path in candidates if path.is_file()), Path(name))


def add_evaluate(subparsers) -> None:
    add_command(
        subparsers,
        "evaluate",
        run_evaluate,
        "measure a voice on conversions and copies, and advise",
        _fill_evaluate,
        [
            "svcnb evaluate data/models/me --target data/features/me --sources data/demo/raw/bruno",
            "svcnb evaluate data/models/me --target data/raw/me --sources song.wav -cr 0.5 --transposition octaves",
        ],
    )


def _fill_evaluate(parser: CommandParser) -> None:
    from svcnb.cli.settings import VoiceFiles
    from svcnb.conversion.settings import ConversionSettings
    from svcnb.evaluation.settings import EvaluationSettings

    parser.add_argument("voice", type=Path, metavar="VOICE", help="folder of the voice, or its G_*.pth")
    parser.add_argument(
        "--target",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="recordings of the target; or the features, whose held-out clips are taken",
    )
    parser.add_argument(
        "--sources", type=Path, nargs="+", default=[], metavar="PATH", help="recordings of others, or folders"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("data/evaluation"),
        metavar="PATH",
        help="folder for metrics and sounds",
    )
    parser.add_argument("--overwrite", action="store_true", help="measure again what is measured already")
    parser.add_options(EvaluationSettings)
    parser.add_options(ConversionSettings)
    parser.add_options(VoiceFiles)


def run_evaluate(options: argparse.Namespace) -> None:
    from svcnb.cli.settings import VoiceFiles
    from svcnb.conversion.settings import ConversionSettings
    from svcnb.evaluation.advice import LAST_WORD, advise
    from svcnb.evaluation.page import write_page
    from svcnb.evaluation.run import evaluate_voice, held_out_clips
    from svcnb.evaluation.settings import EvaluationSettings
    from svcnb.plots.page import Table

    conversion = read_settings(options, ConversionSettings)
    settings = read_settings(options, EvaluationSettings, conversion=conversion)
    voice = _load_voice(
        options.voice, read_settings(options, VoiceFiles), only_diffusion=conversion.only_diffusion
    )
    voice.check(conversion)
    target = options.target
    if (target / "settings.json").is_file():
        target = held_out_clips(
            target, options.output / "target", speaker=voice.speaker_name(conversion.speaker)
        )
    evaluation = evaluate_voice(
        voice, target, options.sources, options.output, settings, overwrite=options.overwrite
    )
    print(Table(*evaluation.table()))
    for text in (*map(str, advise(evaluation)), *evaluation.notes, LAST_WORD):
        print(f"- {text}")
    report_skipped([(skipped.name, skipped.reason) for skipped in evaluation.skipped])
    print(write_page(evaluation, options.output, estimate_f0=voice.estimate_f0))
