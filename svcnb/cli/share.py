"""Commands for finished voices: mix, compress, export."""

from __future__ import annotations

import argparse
from pathlib import Path

from svcnb.cli.parser import CommandParser, add_command, read_settings


def add_mix(subparsers) -> None:
    add_command(
        subparsers,
        "mix",
        run_mix,
        "mix the weights of several voices of one kind into a new voice",
        _fill_mix,
        [
            "svcnb mix data/models/ada data/models/bob -o data/models/mixed --weights 70 30 --mode linear",
            "svcnb mix data/models/me/G_800.pth data/models/me/G_1600.pth -o mean.pth",
        ],
    )


def _fill_mix(parser: CommandParser) -> None:
    from svcnb.models.settings import MixSettings

    parser.add_argument(
        "voices", nargs="+", metavar="VOICE", help="two or more: folders of voices, or their G_*.pth"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("data/models/mixed"),
        metavar="PATH",
        help="folder of the new voice, or a .pth",
    )
    parser.add_options(MixSettings)


def run_mix(options: argparse.Namespace) -> None:
    from svcnb.models import sovits
    from svcnb.models.settings import MixSettings

    settings = read_settings(options, MixSettings)
    print(sovits.mix_voices(options.voices, options.output, rates=settings.weights, mode=settings.mode))


def add_compress(subparsers) -> None:
    add_command(
        subparsers,
        "compress",
        run_compress,
        "make a small file of a voice to hand on, without what only training needs",
        _fill_compress,
        ["svcnb compress data/models/me", "svcnb compress data/models/me/G_800.pth -o small.pth -hf"],
    )


def _fill_compress(parser: CommandParser) -> None:
    from svcnb.models.settings import CompressSettings

    parser.add_argument("voice", type=Path, metavar="VOICE", help="folder of the voice, or its G_*.pth")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="PATH",
        help="the new file; else NAME_release.pth beside the old one",
    )
    parser.add_options(CompressSettings)


def run_compress(options: argparse.Namespace) -> None:
    from svcnb.models.settings import CompressSettings
    from svcnb.models.sovits.release import compress_voice

    print(compress_voice(options.voice, options.output, half=read_settings(options, CompressSettings).half))


def add_export(subparsers) -> None:
    add_command(
        subparsers,
        "export",
        run_export,
        "write a voice as one ONNX file, for programs without Python",
        _fill_export,
        [
            "svcnb export data/models/me me.onnx --check",
            "svcnb export data/models/choir one.onnx --one_speaker",
        ],
    )


def _fill_export(parser: CommandParser) -> None:
    parser.add_argument(
        "voice", type=Path, metavar="VOICE", help="folder of the voice, its G_*.pth or a zip file"
    )
    parser.add_argument(
        "output", type=Path, metavar="FILE", help="FILE.onnx; its description becomes FILE.json"
    )
    parser.add_argument(
        "--one_speaker",
        action="store_true",
        help="take a speaker's number, though the voice could mix several",
    )
    parser.add_argument(
        "--check", action="store_true", help="compare its output with torch's, in onnxruntime"
    )


def run_export(options: argparse.Namespace) -> None:
    from svcnb.models import sovits
    from svcnb.models.sovits.export import check_export

    print(sovits.export_voice(options.voice, options.output, mixes=False if options.one_speaker else None))
    if options.check:
        deviations = check_export(options.output, options.voice)
        print(
            "; ".join(
                f"{n} frames: differs from torch by {most:.1e} at most" for n, most in deviations.items()
            )
        )
