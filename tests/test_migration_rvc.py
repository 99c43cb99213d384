"""The tables in README for users of RVC: every row names something that works as described."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from svcnb.cli import main as cli
from svcnb.files.pretrained_table import WEIGHTS
from svcnb.models import rvc
from svcnb.models.rvc.checkpoint import RvcCheckpoint, read_small_model, write_rvc_checkpoint
from svcnb.models.rvc.config import RATE_NAMES
from svcnb.models.rvc.experiment import DERIVED_FOLDERS, FILELIST, GT_FOLDER, WAV16_FOLDER
from tests import readme_tables
from tests.places import PROJECT
from tests.readme_tables import CODE, commands_in, parsed, read_section, sub_parsers
from tests.sources import parameters
from tests.toys.toy_rvc import tiny_rvc_config

SECTION = read_section("### Coming from RVC")
BUTTONS, CONVERSION, FILES = "button or script", "`infer_cli.py`", "RVC's file"

# RVC 20240604: infer_cli.py, train.py, and what its page can do.
THEIR_FLAGS = (
    "--f0up_key --input_path --index_path --f0method --opt_path --model_name --index_rate --device --filter_radius "
    "--resample_sr --rms_mix_rate --protect"
).split()
THEIR_TRAINING_FLAGS = "-pg -pd -bs -te -se -l -sw -sr -f0 -v".split()
THEIR_BUTTONS = (
    "one-click training, process data, feature extraction, train model, train feature index, conversion, batch conversion, "
    "show, change, extract, merge, ONNX export, UVR5, realtime"
).split(", ")


def rows(heading: str) -> list[list[str]]:
    return readme_tables.table(SECTION, heading)


def rvc_parsers() -> dict:
    return sub_parsers(sub_parsers()["rvc"])


@pytest.mark.parametrize(
    "command", sorted({command for row in rows(BUTTONS) for command in commands_in(row[1])})
)
def test_every_command_parses(command: str) -> None:
    assert parsed(command).run


def test_every_step_of_ours_has_a_row() -> None:
    named = {command.split()[2] for row in rows(BUTTONS) for command in commands_in(row[1])}
    assert named == set(rvc_parsers())


def test_every_button_and_every_training_flag_of_theirs_has_a_row() -> None:
    theirs = " ".join(row[0] for row in rows(BUTTONS))
    assert not [name for name in THEIR_BUTTONS if name not in theirs]
    assert set(THEIR_TRAINING_FLAGS) <= set(CODE.findall(theirs))
    assert rvc_parsers()["train"].options["--sample_rate"].choices == tuple(RATE_NAMES)


def test_flags_in_the_notes_are_ours() -> None:
    ours = {flag for parser in rvc_parsers().values() for flag in parser._option_string_actions}
    named = [code for row in rows(BUTTONS) for code in CODE.findall(row[2]) if code.startswith("--")]
    assert named and set(named) <= ours


def test_the_table_of_conversion_is_whole_and_names_our_options_fields_and_defaults() -> None:
    assert sorted(flag for row in rows(CONVERSION) for flag in CODE.findall(row[0])) == sorted(THEIR_FLAGS)
    options, form = (
        rvc_parsers()["convert"].options,
        parameters(PROJECT / "notebooks" / "31_rvc_convert.ipynb"),
    )
    n_compared = 0
    for theirs, ours, field, default, _ in rows(CONVERSION):
        (flag,), (name,) = CODE.findall(ours) or [""], CODE.findall(field) or [""]
        assert not flag or flag in options
        assert not name or name in form
        if flag and theirs:
            assert options[CODE.findall(theirs)[0]] == options[flag], f"{theirs} is not accepted as {flag}"
        if not (default and name and options[flag].default is not None):
            continue
        for value in (options[flag].default, form[name]):
            assert str(value) == default or float(value) == float(default), (
                f"{flag}: {value}, the table says {default}"
            )
        n_compared += 1
    assert n_compared >= 8


def test_files_are_where_the_table_says() -> None:
    theirs = " ".join(row[0] for row in rows(FILES))
    for name in (GT_FOLDER, WAV16_FOLDER, *DERIVED_FOLDERS, FILELIST):
        assert f"{name}`" in theirs
    weights = {path for row in rows(FILES) for path in CODE.findall(row[1]) if path.startswith("pretrain/")}
    known = {f"pretrain/{name}" for row in WEIGHTS.values() for name in (row.file_name, *row.other_names)}
    for path in weights:
        assert path in known or any(name.startswith(path) for name in known), path


def test_small_models_go_through_every_row_of_ckpt_processing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny_rvc_config("v2")
    config.save(Path("config.json"))
    write_rvc_checkpoint(
        Path("G_2333.pth"), RvcCheckpoint(rvc.build(config).generator.state_dict(), 1, None, 1e-4)
    )
    processing = [
        command
        for row in rows(BUTTONS)
        if row[0].startswith("ckpt processing")
        for command in commands_in(row[1])
    ]
    commands = {words[1]: words for words in (shlex.split(command)[1:] for command in processing)}
    assert set(commands) == {"info", "extract", "merge"}
    assert cli.main(commands["extract"]) == 0
    assert cli.main(commands["info"]) == 0
    assert "my voice" in capsys.readouterr().out
    shutil.copy("me.pth", "you.pth")
    assert cli.main(commands["merge"]) == 0
    assert read_small_model(Path("both.pth")).info == "0.6 of me, rest you"
