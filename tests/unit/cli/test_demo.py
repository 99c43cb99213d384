"""The demo's page and figures, without training anything."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from svcnb import SvcError
from svcnb.audio.audio import Audio, read_audio
from svcnb.cli.demo import (
    Conversion,
    DemoSettings,
    Training,
    _figures,
    _find_sources,
    _rows_without_base,
    run_demo,
)
from svcnb.conversion.settings import ConversionSettings
from svcnb.evaluation.metrics import ConversionReport, F0Pair, PitchComparison
from svcnb.evaluation.run import choose_transposition
from svcnb.features.pitch.track import F0Track
from svcnb.plots.audio import plot_cuts
from svcnb.plots.page import Page


@pytest.fixture
def tone() -> Audio:
    return Audio(0.3 * np.sin(np.arange(16000) / 10), 16000)


def conversion(tone: Audio, tmp_path: Path, *, correlation: float) -> Conversion:
    track = F0Track(np.full(86, 200.0), 0.0116)
    pitch = PitchComparison(correlation, 0.0, 5.0, 0.0, 0.01, 80)
    return Conversion(
        name="a",
        settings=ConversionSettings(),
        source=tone,
        result=tone,
        melodies=F0Pair(track, track),
        sung=False,
        path=tmp_path / "a.flac",
        figures=ConversionReport(0.8, 0.5, pitch),
    )


@pytest.mark.parametrize(
    "suggested, sung, moved", [(12, False, 12), (7, False, 7), (7, True, 12), (2, True, 0), (None, False, 0)]
)
def test_songs_move_by_octaves_and_speech_by_semitones(
    suggested: int | None, sung: bool, moved: float
) -> None:
    assert choose_transposition(suggested, sung=sung) == moved


def test_report_keys_are_the_agreed_ones_and_valid_json(tone: Audio, tmp_path: Path) -> None:
    done = [conversion(tone, tmp_path, correlation=0.9), conversion(tone, tmp_path, correlation=float("nan"))]
    report = _figures(done, Training(100, 2.0, tmp_path / "history.jsonl"), 61.234)
    assert list(report)[:4] == ["seconds", "speaker_similarity", "f0_correlation", "files"]
    assert report["seconds"] == 61.2 and report["f0_correlation"] == 0.9
    assert report["speaker_similarity"] == {"result": 0.8, "source": 0.5}
    json.dumps(report, allow_nan=False)


def test_figures_without_the_base_stand_beside_those_with_it_and_nowhere_else(
    tone: Audio, tmp_path: Path
) -> None:
    done = [conversion(tone, tmp_path, correlation=0.9)]
    with_base = DemoSettings(demo_folder=tmp_path)
    assert _rows_without_base(done, with_base) == []
    stored = _figures(done, Training(600, 5.0, tmp_path / "history.jsonl"), 61.0) | {
        "command": "svcnb demo --base none"
    }
    (tmp_path / "without_base.json").write_text(json.dumps(stored))
    ((_, figure, meaning),) = _rows_without_base(done, with_base)
    assert figure == "0.80" and "600 steps" in meaning and "svcnb demo --base none" in meaning
    assert _rows_without_base(done, DemoSettings(demo_folder=tmp_path, base="none")) == []


def test_the_sources_are_another_speaker_and_a_song(project: Path) -> None:
    folder = project / "data" / "demo"
    if not folder.is_dir():
        pytest.skip("the bundled demo voices are not there")
    sources = [path.relative_to(folder).parts for path in _find_sources(DemoSettings(demo_folder=folder))]
    assert sources[0][:2] == ("raw", "bruno") and sources[1][0] != "raw"


def test_missing_recordings_and_no_time_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(SvcError, match="no recordings of ada"):
        run_demo(tmp_path / "out", settings=DemoSettings(demo_folder=tmp_path))
    with pytest.raises(SvcError, match="more than 0 minutes"):
        run_demo(tmp_path / "out", minutes=0)


def test_a_page_is_one_file_that_loads_nothing_from_elsewhere(tone: Audio, tmp_path: Path) -> None:
    page = Page("Voices <&>")
    page.heading("Listen")
    page.players([("Source", 'a "quoted" name', tone)])
    page.picture(plot_cuts(tone, []), "a picture")
    page.table(["", "value", "meaning"], [["similarity", "0.9", "<b>high</b>"]])
    page.file_list(["data/demo-run/report.json"])
    text = page.write(tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert "Voices &lt;&amp;&gt;" in text and "<b>high" not in text
    links = re.findall(r'(?:src|href)="([^"]{0,30})', text)
    assert len(links) == 2 and all(
        link.startswith(("data:audio/mpeg;base64,", "data:image/png;base64,")) for link in links
    )
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]


def test_players_hold_the_whole_recording(tone: Audio, tmp_path: Path) -> None:
    import base64

    page = Page("x")
    page.players([("Source", "", tone)])
    encoded = re.search(r"base64,([^\"]+)", page.to_html())[1]
    (tmp_path / "x.mp3").write_bytes(base64.b64decode(encoded))
    assert read_audio(tmp_path / "x.mp3").duration_s == pytest.approx(1.0, abs=0.1)
