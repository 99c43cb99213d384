"""Commands for finished voices: mix, compress, export."""

from __future__ import annotations

import argparse
from pathlib import Path

from svcnb.cli.parser import add_command, number


def add_mix(subparsers) -> None:
    parser = add_command(subparsers, "mix", run_mix, "mix the weights of several voices of one kind into a new voice")
    parser.add_argument("voices", nargs="+", metavar="VOICE", help="two or more: folders of voices, or their G_*.pth")
    parser.add_argument("-o", "--output", type=Path, default=Path("data/models/mixed"), help="folder of the new voice, or a .pth")
    parser.add_argument("--weights", nargs="+", type=number, metavar="N", help="one for each, 100 is one whole; else equal")
    parser.add_argument("--mode", default="convex", help="convex (softmax of the weights, adds up to 1) or linear (as they are)")


def add_compress(subparsers) -> None:
    summary = "make a small file of a voice to hand on, without what only training needs"
    parser = add_command(subparsers, "compress", run_compress, summary)
    parser.add_argument("voice", type=Path, metavar="VOICE", help="folder of the voice, or its G_*.pth")
    parser.add_argument("-o", "--output", type=Path, help="the new file; else NAME_release.pth beside the old one")
    parser.add_argument("-hf", "--half", action="store_true", help="16-bit numbers: half of the size again")


def add_export(subparsers) -> None:
    parser = add_command(subparsers, "export", run_export, "write a voice as one ONNX file, for programs without Python")
    parser.add_argument("voice", type=Path, metavar="VOICE", help="folder of the voice, its G_*.pth or a zip file")
    parser.add_argument("output", type=Path, metavar="FILE", help="FILE.onnx; its description becomes FILE.json")
    parser.add_argument("--one_speaker", action="store_true", help="take a speaker's number, though the voice could mix several")
    parser.add_argument("--check", action="store_true", help="compare what it sings with torch, in onnxruntime")


def run_mix(options: argparse.Namespace) -> None:
    from svcnb.models import sovits

    print(sovits.mix_voices(options.voices, options.output, rates=options.weights, mode=options.mode))


def run_compress(options: argparse.Namespace) -> None:
    from svcnb.models.sovits.release import compress_voice

    print(compress_voice(options.voice, options.output, half=options.half))


def run_export(options: argparse.Namespace) -> None:
    from svcnb.models import sovits
    from svcnb.models.sovits.export import check_export

    print(sovits.export_voice(options.voice, options.output, mixes=False if options.one_speaker else None))
    if options.check:
        deviations = check_export(options.output, options.voice)
        print("; ".join(f"{n} frames: differs from torch by {most:.1e} at most" for n, most in deviations.items()))
