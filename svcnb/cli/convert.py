"""Commands that use a voice: convert and evaluate."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from svcnb import SvcError
from svcnb.cli.parser import Flag, add_command, make_settings, number, tell_skipped
from svcnb.device import choose_device

if TYPE_CHECKING:
    from svcnb.conversion.voice import LoadedVoice

CONVERSION_FLAGS = (
    Flag(("-a", "--auto_predict_f0"), "auto_predict_f0", False, "let the model choose the melody (speech only)"),
    Flag(("-fmp", "--f0_mean_pooling"), "f0_mean_pooling", False, "smooth the f0 curve over 3 frames"),
    Flag(("-f0p", "--f0_predictor"), "f0_method", "auto", "auto, fcpe, rmvpe, crepe, dio, harvest or pm"),
    Flag(("-ft", "--f0_filter_threshold"), "f0_threshold", 0.05, "voicing threshold of the neural predictors, 0..1"),
    Flag(("-cr", "--cluster_infer_ratio"), "cluster_ratio", 0.0, "pull towards the voice's sounds: 0 clear words .. 1 its timbre"),
    Flag(("-fr", "--feature_retrieval"), "feature_retrieval", False, "pull towards nearest frames (index), not to centres"),
    Flag(("-eh", "--enhance"), "enhance", False, "sing the result again through the vocoder: helps voices with little data"),
    Flag(("-eak", "--enhancer_adaptive_key"), "enhancer_adaptive_key", 0, "semitones the enhancer works lower, for high voices"),
    Flag(("-shd", "--shallow_diffusion"), "shallow_diffusion", False, "refine the result with the voice's diffusion model"),
    Flag(("-ks", "--k_step"), "k_step", 100, "noise steps of it: more is further from the voice's own result"),
    Flag(("-se", "--second_encoding"), "second_encoding", False, "it hears the words in the result, not in the recording"),
    Flag(("-od", "--only_diffusion"), "only_diffusion", False, "convert with the diffusion model alone"),
    Flag(("-usm", "--use_spk_mix"), "speaker_mix", None, "mix speakers: ada=0.7,bob=0.3, or ada=1>0,bob=0>1, or a file"),
    Flag(("-lea", "--loudness_envelope_adjustment"), "loudness_envelope_ratio", 1.0, "0 loudness of the input .. 1 the voice's own"),
    Flag(("-sd", "--slice_db"), "slice_db", -40.0, "silence threshold for slicing, dB; -30 for noisy recordings"),
    Flag(("-wf", "--wav_format"), "audio_format", "flac", "flac, wav, ogg or mp3"),
    Flag(("-ns", "--noice_scale", "--noise_scale"), "noise_scale", 0.4, "amount of noise in the prior, 0..1"),
    Flag(("-p", "--pad_seconds"), "pad_seconds", 0.5, "silence around every slice, seconds"),
    Flag(("-cl", "--clip"), "clip_seconds", 0.0, "cut into pieces of this length, seconds; 0 cuts at silence only"),
    Flag(("-lg", "--linear_gradient"), "crossfade_seconds", 0.0, "cross-fade between such pieces, seconds"),
    Flag(("-lgr", "--linear_gradient_retain"), "crossfade_keep_ratio", 0.75, "part of the overlap kept, above 0..1"),
)


def run_convert(options: argparse.Namespace) -> None:
    voice_path, inputs = _voice_and_inputs(options)
    from svcnb.audio.audio import read_audio
    from svcnb.conversion.result_names import distinct_names
    from svcnb.conversion.settings import ConversionSettings
    from svcnb.features.pitch.track import F0Track

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
        tell_skipped(skipped)
        raise SvcError(f"{len(skipped)} of {len(jobs)} conversions failed, see above; the others are in {options.output}")


def _load_voice(path: Path, options: argparse.Namespace) -> LoadedVoice:
    """The voice with the files that the flags of a conversion name."""
    from svcnb.models.auto import load_any_voice
    from svcnb.models.diffusion.checkpoint import DiffusionFiles
    from svcnb.models.sovits.voice import load_diffusion_voice

    diffusion = (options.diffusion_model_path, options.diffusion_config_path)
    parts = {
        "device": choose_device(options.device),
        "vocoder": options.vocoder,
        "diffusion": DiffusionFiles(*diffusion) if any(diffusion) else None,
    }
    if options.only_diffusion:
        return load_diffusion_voice(path, **parts)
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
    from svcnb.conversion.settings import ConversionSettings
    from svcnb.evaluation.advice import LAST_WORD, advise
    from svcnb.evaluation.page import write_page
    from svcnb.evaluation.run import EvaluationSettings, evaluate_voice, held_out_clips
    from svcnb.plots.page import Table

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
    tell_skipped([(skipped.name, skipped.reason) for skipped in evaluation.skipped])
    print(write_page(evaluation, options.output, estimate_f0=voice.estimate_f0))


def add_convert(subparsers) -> None:
    parser = add_command(subparsers, "convert", run_convert, "sing recordings again with a trained voice")
    parser.usage = "svcnb convert (VOICE | -m MODEL) INPUT... [options]"
    parser.add_argument("paths", nargs="*", metavar="VOICE INPUT", help="voice folder (not with -m), then recordings")
    parser.add_argument("-m", "--model_path", type=Path, help="G_*.pth; else the one in VOICE that --checkpoint says")
    parser.add_argument("--checkpoint", default="best", metavar="TEXT", help="of VOICE: best on held-out clips, or newest")
    parser.add_argument("-c", "--config_path", type=Path, help="config.json; else the one beside the model")
    parser.add_argument(
        "-n", "--clean_names", nargs="+", default=[], metavar="NAME", help="recordings, as paths or as names in raw/"
    )
    parser.add_argument("-s", "--spk_list", nargs="+", metavar="NAME", help="speakers; else the voice's first")
    parser.add_argument(
        "-t", "--trans", nargs="+", type=number, default=[0], metavar="N", help="semitones up, one for each recording"
    )
    _add_conversion_flags(parser)
    parser.add_argument("--f0_csv", type=Path, help="melody to sing instead of the recording's: a table time_s,f0_hz (Hz)")
    parser.add_argument("--write_f0", action="store_true", help="also write each recording's melody as such a table")
    parser.add_argument("-o", "--output", type=Path, default=Path("data/converted"), help="folder for the results")
    parser.add_argument("-d", "--device", default="auto", help="auto, cpu or cuda")


def _add_conversion_flags(parser: argparse.ArgumentParser) -> None:
    for flag in CONVERSION_FLAGS:
        names = {"dest": flag.field, "default": flag.default, "help": flag.help}
        if flag.default is False:
            parser.add_argument(*flag.flags, action="store_true", **names)
        else:
            kind = number if isinstance(flag.default, (int, float)) else str
            parser.add_argument(*flag.flags, type=kind, metavar="TEXT" if kind is str else "N", **names)
    parser.add_argument(
        "-cm", "--cluster_model_path", type=Path, metavar="FILE", help="centres or index; else those beside the model"
    )
    parser.add_argument("-dm", "--diffusion_model_path", type=Path, metavar="FILE",
                        help="diffusion model; else the best in VOICE/diffusion")  # fmt: skip
    parser.add_argument("-dc", "--diffusion_config_path", type=Path, metavar="FILE", help="its config.yaml; else beside it")
    parser.add_argument("--vocoder", type=Path, metavar="FILE",
                        help="vocoder: a folder, its model file or a released zip; else VOICE/vocoder or pretrain/nsf_hifigan")  # fmt: skip


def add_evaluate(subparsers) -> None:
    summary = "say how good a voice is: measure conversions and copies, and advise"
    parser = add_command(subparsers, "evaluate", run_evaluate, summary)
    parser.add_argument("voice", type=Path, metavar="VOICE", help="folder of the voice, or its G_*.pth")
    parser.add_argument("--target", type=Path, required=True, metavar="FOLDER",
                        help="recordings of the target; or the features, whose held-out clips are taken")  # fmt: skip
    parser.add_argument("--sources", type=Path, nargs="+", default=[], metavar="FOLDER", help="recordings of others, or folders")
    parser.add_argument("-o", "--output", type=Path, default=Path("data/evaluation"), help="folder for figures and sounds")
    parser.add_argument("-s", "--speaker", help="speaker of the voice; else its first")
    parser.add_argument("-t", "--trans", type=number, default=0.0, metavar="N", help="semitones up, on top of --transposition")
    parser.add_argument("--transposition", default="auto", metavar="TEXT",
                        help="towards the target's middle pitch: semitones, octaves, none, or auto (songs by octaves)")  # fmt: skip
    parser.add_argument("--n_references", type=int, default=12, metavar="N", help="recordings of the target to compare with")
    parser.add_argument("--n_copies", type=int, default=3, metavar="N", help="of these, copied and converted into themselves")
    parser.add_argument("--most", type=int, default=10, metavar="N", help="recordings per folder of sources")
    parser.add_argument("--max_seconds", type=number, default=60.0, metavar="N", help="seconds of each recording, from its start")
    parser.add_argument("--no_words", action="store_true", help="count no word errors, though there are transcripts")
    parser.add_argument("--parallel", action="store_true", help="equal names in target and sources hold the same words")
    parser.add_argument("--checkpoint", default="best", metavar="TEXT", help="of VOICE: best on held-out clips, or newest")
    parser.add_argument("-c", "--config_path", type=Path, help="config.json; else the one beside the model")
    _add_conversion_flags(parser)
    parser.add_argument("--overwrite", action="store_true", help="measure again what is measured already")
    parser.add_argument("-d", "--device", default="auto", help="auto, cpu or cuda")
