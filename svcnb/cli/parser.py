"""How every command of the command line is parsed: options from settings classes, one-line errors, examples in the help."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from svcnb.files.options import Option, Settings

    S = TypeVar("S", bound=Settings)

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
MAX_SHOWN_CHOICES = 7  # more stand in the help text, not beside the flag
NO_ABBREVIATION = {"allow_abbrev": False}


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Names defaults where there is a value to name, and the metavar once: -t, --trans N."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, [], ""):
            return action.help
        return super()._get_help_string(action)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        metavar = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {metavar}"


class OneLineParser(argparse.ArgumentParser):
    """argparse, but a wrong command line is one line."""

    def error(self, message: str) -> None:
        self.exit(EXIT_USER_ERROR, f"error: {message} (see {self.prog} --help)\n")


class CommandParser(OneLineParser):
    """A sub-command. Its options are added when it is first used, so that `svcnb --help` loads no settings class.

    Attributes:
        options: by every flag they accept.
    """

    def __init__(self, *args: Any, fill: Callable[[CommandParser], None] | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        self.options: dict[str, Option] = {}
        self._fill = fill

    def complete(self) -> CommandParser:
        """The same parser, with its options."""
        if self._fill is not None:
            fill, self._fill = self._fill, None
            fill(self)
        return self

    def add_options(
        self,
        settings_class: type[Settings],
        *,
        many: Sequence[str] = (),
        skip: Sequence[str] = (),
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        """Add the options of a settings class, in groups.

        Args:
            many: fields that take several values here.
            skip: fields that this command does not offer.
            defaults: where they are other ones here.
        """
        from svcnb.files.options import GROUPS, options_of

        groups = {group.title: group for group in self._action_groups}
        titles = [title for title in GROUPS.values() if title not in groups]
        groups |= {title: self.add_argument_group(title) for title in titles}
        for name, option in sorted(options_of(settings_class).items(), key=lambda item: item[1].advanced):
            if name not in skip:
                own = {"default": defaults[name]} if name in (defaults or {}) else {}
                option = replace(option, many=option.many or name in many, **own)
                self._add_option(
                    groups[GROUPS[option.group]], option, default=own.get("default", argparse.SUPPRESS)
                )

    def _add_option(self, group: Any, option: Option, *, default: Any) -> None:
        how: dict[str, Any] = {"dest": option.name, "default": default}
        if option.kind is bool:
            how["action"] = "store_false" if option.default is True else "store_true"
        else:
            how["type"] = _reader(option)
            how["metavar"] = _metavar(option)
            how["nargs"] = "+" if option.many else None
            how["choices"] = None if option.is_open else option.choices or None
        group.add_argument(*option.flags, help=_help(option), **how)
        if option.aliases:
            group.add_argument(
                *option.aliases, help=argparse.SUPPRESS, **how | {"default": argparse.SUPPRESS}
            )
        self.options |= dict.fromkeys((*option.flags, *option.aliases), option)

    def format_help(self) -> str:
        self.complete()
        return super().format_help()

    def parse_known_args(self, args=None, namespace=None):
        self.complete()
        own = [] if self._subparsers else args or []  # a command below this one looks at its own words
        for word in own:
            # argparse would read an unknown `-shd` as `-s hd`; here it is refused
            if re.fullmatch(r"-[A-Za-z]\w+", word) and word not in self._option_string_actions:
                self.error(f"unrecognized flag {word}")
        return super().parse_known_args(args, namespace)


def _help(option: Option) -> str:
    """The help text with unit, range and default: transpose the f0 (semitones, from -36 to 36, default 0)."""
    facts = [option.unit, option.range_text]
    if len(option.choices) > MAX_SHOWN_CHOICES and option.is_open:
        facts.insert(0, "one of " + " ".join(map(str, option.choices)))
    if option.default_text and option.kind is not bool:
        facts.append(
            f"default {option.default_text}" if option.default is not None else f"else {option.default_text}"
        )
    facts = [fact for fact in facts if fact]
    return (option.help + (f" ({', '.join(facts)})" if facts else "")).replace("%", "%%").replace("`", "")


def _metavar(option: Option) -> str | None:
    if not option.choices or len(option.choices) > MAX_SHOWN_CHOICES and option.is_open:
        return {int: "N", float: "N", Path: "PATH"}.get(option.kind, "TEXT")
    return f"{{{','.join(map(str, option.choices))}{',...' if option.is_open else ''}}}"


def _reader(option: Option) -> Callable[[str], Any]:
    """What turns a word of the command line into a value of the option."""
    read = {int: whole_number, float: number}.get(option.kind, option.kind)
    words = [choice for choice in option.choices if isinstance(choice, str)]
    if option.kind in (int, float) and words:
        return lambda text: text if text in words else read(text)
    return read


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; put files before the flags") from None


def removed(text: str) -> None:
    """The type of --key_shift_semitones, which some command lines still give."""
    reason = "training on transposed clips lowered the similarity to the speaker"
    raise argparse.ArgumentTypeError(f"removed, because {reason}; leave it out")


def whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        value = number(text)
    if not value.is_integer():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(value)


def add_command(
    subparsers,
    name: str,
    run: Callable,
    summary: str,
    fill: Callable[[CommandParser], None],
    examples: Sequence[str],
) -> CommandParser:
    """A command with its help; `fill` adds its arguments when it is first used."""
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=HelpFormatter,
        fill=fill,
        epilog="\n".join(["examples:", *(f"  {example}" for example in examples)]),
        **NO_ABBREVIATION,
    )
    parser.set_defaults(run=run)
    return parser


def given_values(options: argparse.Namespace, settings_class: type[Settings]) -> dict[str, Any]:
    """What the command line gives for the fields of a settings class."""
    from svcnb.files.options import options_of

    return {name: getattr(options, name) for name in options_of(settings_class) if hasattr(options, name)}


def read_settings(options: argparse.Namespace, settings_class: type[S], **more: Any) -> S:
    """A settings object of what the command line gives; the rest are its defaults."""
    return settings_class(**given_values(options, settings_class) | more)


def report_skipped(skipped: Sequence[tuple[Any, str]]) -> None:
    for item, reason in skipped:
        name = str(getattr(item, "path", item))
        print(f"skipped {reason if name in reason else f'{name}: {reason}'}", file=sys.stderr)
