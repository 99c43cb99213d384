"""How every command of the command line is parsed: one-line errors, help with defaults, number types, settings."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from svcnb import SvcError

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


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names defaults where there is a value to name."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, [], ""):
            return action.help
        return super()._get_help_string(action)


class OneLineParser(argparse.ArgumentParser):
    """argparse, but a wrong command line is told in one line."""

    def error(self, message: str) -> None:
        self.exit(EXIT_USER_ERROR, f"error: {message} (see {self.prog} --help)\n")


class CommandParser(OneLineParser):
    """A sub-command: argparse would read an unknown `-shd` as `-s hd`; here it is refused."""

    def parse_known_args(self, args=None, namespace=None):
        own = [] if self._subparsers else args or []  # a command below this one looks at its own words
        for word in own:
            if re.fullmatch(r"-[A-Za-z]\w+", word) and word not in self._option_string_actions:
                self.error(f"unrecognized flag {word}")
        return super().parse_known_args(args, namespace)


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; put files before the flags") from None


def size_or_auto(text: str) -> int | str:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor auto") from None


def add_command(subparsers, name: str, run, summary: str) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def make_settings(settings_class: type, **values: Any) -> Any:
    """A settings object from flag values; what it refuses is the user's to mend, told in one line."""
    from pydantic import ValidationError

    try:
        return settings_class(**values)
    except ValidationError as error:
        told = (f"{'.'.join(map(str, e['loc']))}: {e['msg']} (given: {e['input']!r})" for e in error.errors())
        raise SvcError("; ".join(told)) from None


def tell_skipped(skipped: Sequence[tuple[Any, str]]) -> None:
    for item, reason in skipped:
        name = str(getattr(item, "path", item))
        print(f"skipped {reason if name in reason else f'{name}: {reason}'}", file=sys.stderr)
