"""The command line: one sub-command per notebook step, each over the same functions the notebooks call.

Nothing heavy is imported before a sub-command runs, so `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from svcnb import SvcError, __version__
from svcnb.cli.convert import add_convert, add_evaluate
from svcnb.cli.parser import EXIT_INTERRUPTED, EXIT_USER_ERROR, CommandParser, HelpFormatter, OneLineParser
from svcnb.cli.prepare import add_features, add_slice, add_weights
from svcnb.cli.rvc import add_rvc
from svcnb.cli.share import add_compress, add_export, add_mix
from svcnb.cli.train import add_cluster, add_demo, add_diffusion, add_index, add_train, add_vocoder

IN_ORDER_OF_WORK = (
    add_weights, add_slice, add_features, add_train, add_cluster, add_index, add_convert, add_evaluate, add_vocoder,
    add_diffusion, add_mix, add_compress, add_export, add_rvc, add_demo,
)  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="svcnb",
        allow_abbrev=False,
        description="Singing voice conversion: cut recordings, extract features, train a voice, convert with it.",
        epilog="Every step can be repeated; what is already done is kept.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"svcnb {__version__}")
    parser.set_defaults(run=lambda options: parser.print_help())
    subparsers = parser.add_subparsers(
        title="commands, in the order of work", metavar="COMMAND", parser_class=CommandParser
    )
    for add in IN_ORDER_OF_WORK:
        add(subparsers)
    return parser


def find_command(name: str) -> CommandParser:
    """The parser of a command, e.g. "convert" or "rvc train", with its options.

    Raises:
        KeyError: there is no such command.
    """
    parser = build_parser()
    for word in name.split():
        (below,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        parser = below.choices[word].complete()
    return parser


def _system_trouble(error: Exception) -> str | None:
    """One line where the machine is short of something or refuses a file; None for a bug, which keeps its traceback."""
    from svcnb.device import is_out_of_memory
    from svcnb.files.disk import REMEDIES

    if is_out_of_memory(error):
        return "memory ran out: close other programs, or take smaller pieces (see --help), then run the same again"
    if isinstance(error, OSError) and error.errno in REMEDIES:
        return f"{error.filename or 'a file'}: {error.strerror}; {REMEDIES[error.errno]}"
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 for an error that the user can fix, 130 after ctrl-C."""
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
