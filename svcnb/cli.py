"""The command line: one sub-command per notebook step, each over the same functions the notebooks call.

Nothing heavy is imported before a sub-command runs, so `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svcnb import SvcError, __version__, commands
from svcnb.cli_rvc import add_rvc

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Flag:
    """A conversion option: its so-vits-svc flags and the field of ConversionSettings it fills.

    A default of False makes it a switch, a number one that takes a number.
    """

    flags: tuple[str, ...]
    field: str
    default: Any
    help: str


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


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names defaults where there is a value to name."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, [], ""):
            return action.help
        return super()._get_help_string(action)


class _OneLineParser(argparse.ArgumentParser):
    """argparse, but a wrong command line is told in one line."""

    def error(self, message: str) -> None:
        self.exit(EXIT_USER_ERROR, f"error: {message} (see {self.prog} --help)\n")


class _CommandParser(_OneLineParser):
    """A sub-command: argparse would read an unknown `-shd` as `-s hd`; here it is refused."""

    def parse_known_args(self, args=None, namespace=None):
        own = [] if self._subparsers else args or []  # a command below this one looks at its own words
        for word in own:
            if re.fullmatch(r"-[A-Za-z]\w+", word) and word not in self._option_string_actions:
                self.error(f"unrecognized flag {word}")
        return super().parse_known_args(args, namespace)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; put files before the flags") from None


def _size(text: str) -> int | str:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor auto") from None


def build_parser() -> argparse.ArgumentParser:
    parser = _OneLineParser(
        prog="svcnb",
        allow_abbrev=False,
        description="Singing voice conversion: cut recordings, extract features, train a voice, convert with it.",
        epilog="Every step can be repeated; what is already done is kept. The notebooks do the same with pictures.",
    )
    parser.add_argument("--version", action="version", version=f"svcnb {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_CommandParser)
    steps = (
        _add_weights, _add_slice, _add_features, _add_train, _add_vocoder, _add_diffusion, _add_cluster, _add_index,
        _add_convert, _add_evaluate, _add_mix, _add_compress, _add_export, _add_demo,
    )  # fmt: skip
    for add in steps:
        add(subparsers)
    add_rvc(subparsers, _command, _CommandParser)
    return parser


def _command(subparsers, name: str, run, summary: str) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_weights(subparsers) -> None:
    parser = _command(subparsers, "weights", commands.run_weights, "list pretrained weights, or fetch what some choices need")
    parser.add_argument("choices", nargs="*", metavar="CHOICE",
                        help="an encoder, an f0 method, shallow_diffusion, enhance, base, or a name of the table")  # fmt: skip
    parser.add_argument("--fetch", action="store_true", help="download those that are not there; broken downloads go on")
    parser.add_argument("--folder", type=Path, default=Path("pretrain"), help="where weights lie")


def _add_slice(subparsers) -> None:
    parser = _command(subparsers, "slice", commands.run_slice, "cut recordings at silence into training clips")
    parser.add_argument("raw", type=Path, metavar="RAW", help="folder with one folder of recordings per speaker")
    parser.add_argument("clips", type=Path, metavar="CLIPS", help="folder for the clips (mono FLAC)")
    parser.add_argument("--threshold_db", type=_number, default=-40.0, help="quieter than this is silence, dB")
    parser.add_argument("--min_clip_s", type=_number, default=1.0, help="shorter pieces are joined or dropped, seconds")
    parser.add_argument("--max_clip_s", type=_number, default=12.0, help="no clip is longer, seconds")
    parser.add_argument("--level", default="off", help="bring clips to one level: off, peak or lufs")
    parser.add_argument("--level_db", type=_number, default=-20.0, help="that level: peak in dBFS, or loudness in LUFS")
    parser.add_argument("--sample_rate_hz", type=int, default=44100, help="rate of the clips, Hz")
    parser.add_argument("--overwrite", action="store_true", help="cut again what is already cut")


def _add_features(subparsers) -> None:
    parser = _command(subparsers, "features", commands.run_features, "extract content, f0 and loudness from the clips")
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


def _add_train(subparsers) -> None:
    parser = _command(subparsers, "train", commands.run_train, "train a voice from features")
    parser.add_argument("features", type=Path, metavar="FEATURES", help="folder made by `svcnb features`")
    parser.add_argument("voice", type=Path, metavar="VOICE", help="folder for the checkpoints and the history")
    parser.add_argument("--batch_size", type=_size, metavar="N", help="clips per step, or auto (tries a GPU); else the config's")
    parser.add_argument(
        "--num_processes", type=int, default=1, metavar="N", dest="n_processes",
        help="processes that train together, each with its own batch: one per GPU",
    )  # fmt: skip
    parser.add_argument("--key_shift_semitones", type=_number, metavar="N", help="also train on clips moved by up to this")
    parser.add_argument("--vol_aug", action="store_true", default=None, help="also train on clips of another loudness")
    parser.add_argument("--tensorboard", action="store_true", help="write event files into VOICE/tensorboard")
    parser.add_argument(
        "--base", default="auto", help="folder of a base model, or a G_*.pth, to start from; auto takes the bundled one "
        "for the small size, none starts from nothing",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on with the newest checkpoint in VOICE")
    _add_training_flags(parser, keep_checkpoints=3)


def _add_vocoder(subparsers) -> None:
    parser = _command(subparsers, "vocoder", commands.run_vocoder, "train a vocoder, for convert -eh and shallow diffusion")
    parser.add_argument("source", type=Path, metavar="CLIPS", help="folder of clips, or the features made of them")
    parser.add_argument("folder", type=Path, metavar="FOLDER",
                        help="VOICE/vocoder to use it for that voice, pretrain/nsf_hifigan for all; goes on where it stopped")  # fmt: skip
    parser.add_argument("--config", metavar="TEXT", help="small (2 CPU cores), full (a GPU) or a config.json; else small")
    parser.add_argument("--voice", type=Path, help="also learn to mend what this voice makes of the clips")
    parser.add_argument("--base", type=Path, help="vocoder to start from: a folder, its model file or a released zip")
    _add_training_flags(parser, keep_checkpoints=2)


def _add_diffusion(subparsers) -> None:
    summary = "train a voice's diffusion model, for convert -shd and -od"
    parser = _command(subparsers, "diffusion", commands.run_diffusion, summary)
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
    parser.add_argument("--max_minutes", type=_number, help="stop after this many minutes")
    parser.add_argument("--log_every_steps", type=int, default=50, help="steps between logged losses")
    parser.add_argument("--save_every_steps", type=int, default=800, help="steps between checkpoints")
    parser.add_argument("--validate_every_steps", type=int, default=100, help="steps between held-out measurements")
    parser.add_argument("--stop_when_flat", action="store_true", help="stop when held-out clips have not got better for long")
    parser.add_argument("--keep_checkpoints", type=int, default=keep_checkpoints, help="newest checkpoints kept, and the best; 0 keeps all")
    parser.add_argument("--precision", default="fp32", help="fp32, fp16 (a T4) or bf16 (newer GPUs and CPUs)")
    parser.add_argument("--seed", type=int, default=1234, help="start of the random numbers")
    parser.add_argument("-d", "--device", default="auto", help="auto, cpu or cuda")


def _add_cluster(subparsers) -> None:
    parser = _command(subparsers, "cluster", commands.run_cluster, "fit k-means centres of a voice's sounds, for convert -cr")
    parser.add_argument("features", type=Path, metavar="FEATURES", help="folder the voice was trained on")
    parser.add_argument("voice", type=Path, metavar="VOICE", help="folder of the trained voice; gets kmeans_N.pt")
    parser.add_argument("--n_centres", type=int, metavar="N", help="per speaker; else one for ten frames, at most 10000")
    parser.add_argument("--seed", type=int, default=0, help="start of the random numbers")


def _add_index(subparsers) -> None:
    parser = _command(subparsers, "index", commands.run_index, "build the index of a voice's frames, for convert -cr -fr")
    parser.add_argument("features", type=Path, metavar="FEATURES", help="folder the voice was trained on")
    parser.add_argument("voice", type=Path, metavar="VOICE", help="folder of the trained voice; gets feature_and_index.pkl")
    parser.add_argument("--seed", type=int, default=0, help="start of the random numbers")


def _add_convert(subparsers) -> None:
    parser = _command(subparsers, "convert", commands.run_convert, "sing recordings again with a trained voice")
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
        "-t", "--trans", nargs="+", type=_number, default=[0], metavar="N", help="semitones up, one for each recording"
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
            kind = _number if isinstance(flag.default, (int, float)) else str
            parser.add_argument(*flag.flags, type=kind, metavar="TEXT" if kind is str else "N", **names)
    parser.add_argument(
        "-cm", "--cluster_model_path", type=Path, metavar="FILE", help="centres or index; else those beside the model"
    )
    parser.add_argument("-dm", "--diffusion_model_path", type=Path, metavar="FILE",
                        help="diffusion model; else the best in VOICE/diffusion")  # fmt: skip
    parser.add_argument("-dc", "--diffusion_config_path", type=Path, metavar="FILE", help="its config.yaml; else beside it")
    parser.add_argument("--vocoder", type=Path, metavar="FILE",
                        help="vocoder: a folder, its model file or a released zip; else VOICE/vocoder or pretrain/nsf_hifigan")  # fmt: skip


def _add_evaluate(subparsers) -> None:
    summary = "say how good a voice is: measure conversions and copies, and advise"
    parser = _command(subparsers, "evaluate", commands.run_evaluate, summary)
    parser.add_argument("voice", type=Path, metavar="VOICE", help="folder of the voice, or its G_*.pth")
    parser.add_argument("--target", type=Path, required=True, metavar="FOLDER",
                        help="recordings of the target; or the features, whose held-out clips are taken")  # fmt: skip
    parser.add_argument("--sources", type=Path, nargs="+", default=[], metavar="FOLDER", help="recordings of others, or folders")
    parser.add_argument("-o", "--output", type=Path, default=Path("data/evaluation"), help="folder for figures and sounds")
    parser.add_argument("-s", "--speaker", help="speaker of the voice; else its first")
    parser.add_argument("-t", "--trans", type=_number, default=0.0, metavar="N", help="semitones up, on top of --transposition")
    parser.add_argument("--transposition", default="auto", metavar="TEXT",
                        help="towards the target's middle pitch: semitones, octaves, none, or auto (songs by octaves)")  # fmt: skip
    parser.add_argument("--n_references", type=int, default=12, metavar="N", help="recordings of the target to compare with")
    parser.add_argument("--n_copies", type=int, default=3, metavar="N", help="of these, copied and converted into themselves")
    parser.add_argument("--most", type=int, default=10, metavar="N", help="recordings per folder of sources")
    parser.add_argument("--max_seconds", type=_number, default=60.0, metavar="N", help="seconds of each recording, from its start")
    parser.add_argument("--no_words", action="store_true", help="count no word errors, though there are transcripts")
    parser.add_argument("--parallel", action="store_true", help="equal names in target and sources hold the same words")
    parser.add_argument("--checkpoint", default="best", metavar="TEXT", help="of VOICE: best on held-out clips, or newest")
    parser.add_argument("-c", "--config_path", type=Path, help="config.json; else the one beside the model")
    _add_conversion_flags(parser)
    parser.add_argument("--overwrite", action="store_true", help="measure again what is measured already")
    parser.add_argument("-d", "--device", default="auto", help="auto, cpu or cuda")


def _add_mix(subparsers) -> None:
    parser = _command(subparsers, "mix", commands.run_mix, "mix the weights of several voices of one kind into a new voice")
    parser.add_argument("voices", nargs="+", metavar="VOICE", help="two or more: folders of voices, or their G_*.pth")
    parser.add_argument("-o", "--output", type=Path, default=Path("data/models/mixed"), help="folder of the new voice, or a .pth")
    parser.add_argument("--weights", nargs="+", type=_number, metavar="N", help="one for each, 100 is one whole; else equal")
    parser.add_argument("--mode", default="convex", help="convex (softmax of the weights, adds up to 1) or linear (as they are)")


def _add_compress(subparsers) -> None:
    summary = "make a small file of a voice to hand on, without what only training needs"
    parser = _command(subparsers, "compress", commands.run_compress, summary)
    parser.add_argument("voice", type=Path, metavar="VOICE", help="folder of the voice, or its G_*.pth")
    parser.add_argument("-o", "--output", type=Path, help="the new file; else NAME_release.pth beside the old one")
    parser.add_argument("-hf", "--half", action="store_true", help="16-bit numbers: half of the size again")


def _add_export(subparsers) -> None:
    parser = _command(subparsers, "export", commands.run_export, "write a voice as one ONNX file, for programs without Python")
    parser.add_argument("voice", type=Path, metavar="VOICE", help="folder of the voice, its G_*.pth or a zip file")
    parser.add_argument("output", type=Path, metavar="FILE", help="FILE.onnx; its description becomes FILE.json")
    parser.add_argument("--one_speaker", action="store_true", help="take a speaker's number, though the voice could mix several")
    parser.add_argument("--check", action="store_true", help="compare what it sings with torch, in onnxruntime")


def _add_demo(subparsers) -> None:
    parser = _command(subparsers, "demo", commands.run_demo, "train on the bundled voices and convert a recording, start to end")
    parser.add_argument("--minutes", type=_number, default=None, help="training time; else the demo's own")
    parser.add_argument("--base", default="auto", help="what to start from: see train; none starts from nothing")
    parser.add_argument("-o", "--output", type=Path, default=Path("data/demo-run"), help="folder for all it makes")


def _system_trouble(error: Exception) -> str | None:
    """One line where the machine is short of something or refuses a file; None for a bug, which keeps its traceback."""
    from svcnb.disk import REMEDIES
    from svcnb.memory import is_out_of_memory

    if is_out_of_memory(error):
        return "memory ran out: close other programs, or take smaller pieces (see --help), then run the same again"
    if isinstance(error, OSError) and error.errno in REMEDIES:
        return f"{error.filename or 'a file'}: {error.strerror}; {REMEDIES[error.errno]}"
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 when the user can mend it, 130 after ctrl-C."""
    options = build_parser().parse_args(arguments)
    # Read when torch loads: waiting threads spin briefly, then sleep. Spinning on is 10 times slower beside another
    # program, sleeping at once twice as slow on an idle machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "8000")
    try:
        options.run(options)
    except SvcError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return EXIT_USER_ERROR
    except (OSError, MemoryError, RuntimeError) as error:
        if (told := _system_trouble(error)) is None:
            raise
        print("error:", told, file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0
