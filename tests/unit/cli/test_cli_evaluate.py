"""`svcnb evaluate`: a wrong input is told in one line, a right one prints figures and writes the page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from svcnb.audio.audio import read_audio, write_audio
from svcnb.cli import main as cli
from tests.places import DEMO_VOICES, PROJECT
from tests.toys.small_voice import save_small_voice


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voice, recordings of its target, and of somebody else with their words."""
    folder = tmp_path_factory.mktemp("evaluate")
    save_small_voice(folder / "voice")
    for name in ("ada_01", "ada_02", "bruno_01"):
        who = name.split("_")[0]
        recording = read_audio(DEMO_VOICES / "raw" / who / f"{name}.flac").slice_s(0, 3)
        write_audio(folder / who / f"{name}.flac", recording)
    (folder / "bruno" / "bruno_01.txt").write_text("The old mill has not turned since", encoding="utf-8")
    return folder


def run(folder: Path, *more: object) -> int:
    given = [
        "evaluate",
        folder / "voice",
        "--target",
        folder / "ada",
        "--sources",
        folder / "bruno",
        "-d",
        "cpu",
        *more,
    ]
    return cli.main([str(argument) for argument in given])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (("--target", "nowhere"), "nowhere"),
        (("--sources", "nowhere"), "nowhere"),
        (("-s", "eve"), "eve"),
        (("--transposition", "up"), "transposition"),
        (("-cr", "0.5"), "cluster"),
        (("--checkpoint", "worst"), "worst"),
    ],
)
def test_a_wrong_input_is_told_in_one_line_and_leaves_nothing(
    wrong: tuple, told: str, folder: Path, tmp_path: Path, capsys
) -> None:
    try:
        assert run(folder, *wrong, "-o", tmp_path / "out") == cli.EXIT_USER_ERROR
    except SystemExit as stopped:  # the parser's own
        assert stopped.code == cli.EXIT_USER_ERROR
    lines = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith(("error:", "Traceback"))
    ]
    assert len(lines) == 1 and lines[0].startswith("error: ") and told in lines[0]
    assert not (tmp_path / "out").exists()


def test_figures_advice_and_page_come_out(folder: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("resemblyzer")
    pytest.importorskip("pocketsphinx")
    out = tmp_path / "out"
    assert run(folder, "-o", out, "--n_copies", 1) == 0
    printed = capsys.readouterr().out
    assert "similarity before" in printed and "target's own, copy synthesis" in printed
    assert "- Even copy synthesis" in printed
    assert printed.splitlines()[-1] == str(out / "evaluation.html")
    stored = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert stored["sources"][0]["words_source"]["n_words"] == 7 and stored["target"]["n_recordings"] == 2
    assert (
        0 < stored["sources"][0]["similarity_source"] < 0.9
        and stored["copies"][0]["copy"]["distance"]["mean_db"] > 6
    )
    shutil.rmtree(out / "converted")
    assert run(folder, "-o", out, "--n_copies", 1) == 0  # the missing sound is made again
    assert (out / stored["sources"][0]["file"]).is_file()
