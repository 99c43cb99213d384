"""Players, tables and file lists display as HTML and print as text."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from svcnb.audio.audio import Audio, write_audio
from svcnb.notebook.display import offer_download, show_audio, show_facts, show_files, show_recordings
from svcnb.notebook.panel import speakers_of
from svcnb.plots.page import Table

RATE_HZ = 44100


@pytest.fixture
def minute() -> Audio:
    t = np.arange(60 * RATE_HZ) / RATE_HZ
    return Audio((0.3 * np.sin(2 * np.pi * 220 * t)).astype(np.float32), RATE_HZ)


def test_a_player_contains_compressed_audio(minute: Audio) -> None:
    page = show_audio(minute, "a <song>")._repr_html_()
    assert "a &lt;song&gt;" in page
    encoded = re.search(r'src="data:audio/mpeg;base64,([^"]+)"', page)[1]
    samples, rate_hz = soundfile.read(io.BytesIO(base64.b64decode(encoded)))
    assert abs(len(samples) / rate_hz - 60) < 0.2
    assert len(page) < 1.5e6


def test_a_player_of_a_file_is_named_after_it(tmp_path: Path, minute: Audio) -> None:
    path = write_audio(tmp_path / "song.flac", minute.slice_s(0, 1))
    assert repr(show_audio(path)) == "<player: song.flac, 1.0 s>"
    assert repr(show_audio(path, "")) == "<player: recording, 1.0 s>"


def test_tables_escape_and_align() -> None:
    table = Table(("name", "value"), [("a<b", 1.234), ("long name", 2)])
    assert "a&lt;b" in table._repr_html_() and "1.23" in table._repr_html_()
    assert repr(table).splitlines() == ["name       value", "a<b        1.23", "long name  2"]
    assert "nothing" in Table(("left out", "reason"), [])._repr_html_()


def test_facts_are_a_table_without_headings() -> None:
    assert repr(show_facts({"steps": 3})).splitlines()[-1] == "steps  3"


def test_recordings_that_cannot_be_read_are_listed_with_the_reason(tmp_path: Path, minute: Audio) -> None:
    good = write_audio(tmp_path / "a.flac", minute.slice_s(0, 2))
    bad = tmp_path / "b.wav"
    bad.write_text("no sound")
    text = repr(show_recordings([good, bad], tmp_path))
    assert "a.flac" in text and "2.00" in text and "b.wav" in text and "not readable" in text


def test_files_are_listed_with_their_size(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.bin").write_bytes(b"0" * 500_000)
    (tmp_path / ".hidden").touch()
    assert show_files(tmp_path).rows == [(str(Path("b/x.bin")), "0.50 MB")]


def test_outside_colab_the_folder_of_a_download_is_named(tmp_path: Path) -> None:
    assert offer_download(tmp_path / "song.flac") == f"song.flac lies in {tmp_path}"


def test_speakers_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    assert speakers_of(tmp_path) == []
    (tmp_path / "config.json").write_text('{"spk": {"zoe": 0, "ada": 1}}')
    assert speakers_of(tmp_path) == ["zoe", "ada"]
