"""The parser: made from the settings classes, complete with help, quick, and nothing that parsed before is lost."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys

import pytest

from svcnb.cli import main as cli
from svcnb.cli.parser import CommandParser, read_settings
from svcnb.conversion.settings import ConversionSettings
from svcnb.files.options import options_of
from tests.places import PROJECT
from tests.readme_tables import sub_parsers

IN_ORDER = "weights slice features train cluster index convert evaluate vocoder diffusion mix compress export rvc demo".split()


def commands() -> dict[str, CommandParser]:
    top = sub_parsers()
    return {name: parser for name, parser in top.items() if name != "rvc"} | {
        f"rvc {name}": parser for name, parser in sub_parsers(top["rvc"]).items()
    }


def test_commands_stand_in_the_order_of_work() -> None:
    assert list(sub_parsers()) == IN_ORDER


@pytest.mark.parametrize("words", [[], ["rvc"]])
def test_a_program_without_a_command_prints_its_help(words: list[str], capsys: pytest.CaptureFixture) -> None:
    assert cli.main(words) == 0
    assert "convert" in capsys.readouterr().out


@pytest.mark.parametrize("name", commands())
def test_every_option_has_help_with_its_unit_and_choices_where_there_are(name: str) -> None:
    parser = commands()[name]
    for action in parser._actions:
        assert action.help, action.dest
        for suffix, unit in (("_s", "second"), ("_db", "dB"), ("_hz", "Hz"), ("_seconds", "second")):
            shown = action.help != argparse.SUPPRESS and action.dest.endswith(suffix)
            assert not shown or unit in action.help, action.dest
    for flag, option in parser.options.items():
        action = parser._option_string_actions[flag]
        assert action.dest == option.name and action.help != argparse.SUPPRESS or flag in option.aliases
        if option.choices and not option.is_open:
            assert set(action.choices) == set(option.choices) and set(action.metavar[1:-1].split(",")) == set(
                option.choices
            )
        assert (
            not option.default_text
            or option.kind is bool
            or flag in option.aliases
            or option.default_text.replace("`", "") in action.help
        )


@pytest.mark.parametrize("name", commands())
def test_every_command_has_two_examples_that_parse(name: str) -> None:
    examples = [line.strip() for line in commands()[name].epilog.splitlines()[1:]]
    assert len(examples) == 2
    for example in examples:
        assert example.startswith(f"svcnb {name}")
        assert callable(cli.build_parser().parse_args(shlex.split(example)[1:]).run)


def test_help_stands_in_groups_and_is_never_wider_than_its_options(capsys: pytest.CaptureFixture) -> None:
    text = commands()["convert"].format_help()
    groups = re.findall(r"^(\w[\w ()]*):$", text, re.M)
    assert groups == [
        "positional arguments",
        "options",
        "main",
        "melody (f0)",
        "voice",
        "quality",
        "files and machine",
        "examples",
    ]
    assert (
        "-f0p, --f0_predictor {auto,fcpe,rmvpe,crepe,dio,harvest,pm}" in text and "--noise_scale" not in text
    )


def test_without_flags_the_settings_are_the_defaults_and_hidden_flags_work() -> None:
    parser = cli.build_parser()
    plain = parser.parse_args(["evaluate", "voice", "--target", "x"])
    assert read_settings(plain, ConversionSettings) == ConversionSettings()
    given = parser.parse_args(
        ["evaluate", "voice", "--target", "x", "--speaker", "ada", "--noise_scale", "0.3", "-ks", "50"]
    )
    assert read_settings(given, ConversionSettings) == ConversionSettings(
        speaker="ada", noise_scale=0.3, k_step=50
    )


def test_every_setting_of_a_conversion_has_its_flags() -> None:
    actions = commands()["convert"]._option_string_actions
    for option in options_of(ConversionSettings).values():
        for flag in (*option.flags, *option.aliases):
            assert actions[flag].dest == option.name


def test_the_removed_key_shift_flag_is_refused_with_its_reason_and_not_in_the_help(
    capsys: pytest.CaptureFixture,
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "features", "voice", "--key_shift_semitones", "3"])
    assert stopped.value.code == cli.EXIT_USER_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert "--key_shift_semitones: removed" in line and "lowered the similarity" in line
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    assert "key_shift" not in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["-shx", "-xks", "-sb"])
def test_unknown_flags_are_refused_and_not_read_as_others(flag: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["convert", "voice", "song.wav", flag])
    assert stopped.value.code == cli.EXIT_USER_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and flag in line


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["convert", "v", "s.wav", "-f0p", "yin"], "-f0p/--f0_predictor"),
        (["train", "f", "v", "--max_steps", "1.5"], "--max_steps"),
        (["convert", "v", "s.wav", "-t", "up"], "-t/--trans"),
        (["mix", "a", "b", "--mode", "round"], "--mode"),
    ],
)
def test_a_value_of_the_wrong_kind_is_one_line_with_its_flag(
    words: list[str], named: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        cli.main(words)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and named in line


def in_a_new_process(code: str) -> set[str]:
    """Modules loaded after the code."""
    probe = f"import sys\nfrom svcnb.cli.main import build_parser, find_command\n{code}\nprint(*sys.modules)"
    finished = subprocess.run(
        [sys.executable, "-c", probe], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    return set(finished.stdout.splitlines()[-1].split())


def test_help_of_the_program_loads_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "librosa", "matplotlib", "transformers", "pydantic", "soundfile"}
    assert not heavy & in_a_new_process("build_parser().format_help()")


def test_help_of_no_command_loads_torch() -> None:
    names = list(commands())
    assert "torch" not in in_a_new_process(f"for name in {names}: find_command(name).format_help()")
