"""Advice, tables, plots and the page: known metrics give known sentences, undefined ones none."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from svcnb import SvcError
from svcnb.audio.audio import Audio, write_audio
from svcnb.evaluation.advice import RULES, advise, metrics_of
from svcnb.evaluation.mel_cepstral import SpectralDistance
from svcnb.evaluation.metrics import PitchComparison
from svcnb.evaluation.page import choose_examples, write_page
from svcnb.evaluation.plots import plot_distance, plot_f0_pairs, plot_overview, plot_similarity
from svcnb.evaluation.results import (
    CSV_COLUMNS,
    CopyResult,
    Reconstruction,
    Skipped,
    SourceResult,
    Target,
    VoiceEvaluation,
)
from svcnb.evaluation.words import WordErrors
from svcnb.features.pitch.track import F0Track
from svcnb.plots.style import png_bytes

GOOD_PITCH = PitchComparison(0.99, 2.0, 10.0, 0.0, 0.03, 400, 40.0, 39.0)
OWN = (0.94, 0.95, 0.96)


def source(**changes) -> SourceResult:
    metrics = {
        "key": "k",
        "name": "x.flac",
        "group": "others",
        "recording": "others/x.flac",
        "file": "converted/x.flac",
        "seconds": 4.0,
        "sung": False,
        "transpose_semitones": 3.0,
        "similarity_source": 0.55,
        "similarity_result": 0.91,
        "pitch": GOOD_PITCH,
        "words_source": WordErrors(10, 50),
        "words_result": WordErrors(12, 50),
    }
    return SourceResult(**metrics | changes)


def reconstruction(name: str, db: float, wrong: int = 10, **changes) -> Reconstruction:
    metrics = {
        "file": f"copies/{name}.flac",
        "similarity": 0.92,
        "pitch": GOOD_PITCH,
        "distance": SpectralDistance(db, 300, 13, False),
        "words": WordErrors(wrong, 50),
    }
    return Reconstruction(**metrics | changes)


def copy(
    copy_db: float = 3.0, conversion_db: float = 3.8, copy_wrong: int = 10, conversion_wrong: int = 12
) -> CopyResult:
    reconstructions = (
        reconstruction("conversion", conversion_db, conversion_wrong),
        reconstruction("copy", copy_db, copy_wrong),
    )
    return CopyResult("c", "own.flac", "target/own.flac", 0.95, *reconstructions, WordErrors(10, 50))


def evaluation(sources=(source(),), copies=(copy(),), own=OWN) -> VoiceEvaluation:
    return VoiceEvaluation(
        "mine", "ada", Target(max(1, len(own)), own, 210.0), 100, tuple(copies), tuple(sources)
    )


def rules(found: VoiceEvaluation) -> set[str]:
    return {advice.rule for advice in advise(found)}


def with_pitch(**changes) -> VoiceEvaluation:
    return evaluation([source(pitch=replace(GOOD_PITCH, **changes))])


def words(before: int, after: int, n: int = 50) -> VoiceEvaluation:
    return evaluation([source(words_source=WordErrors(before, n), words_result=WordErrors(after, n))])


CASES = {
    "mixed_target": evaluation(own=(0.7, 0.75)),
    "similarity_low": evaluation([source(similarity_result=0.7)]),
    "similarity_medium": evaluation([source(similarity_result=0.8)]),
    "similarity_high": evaluation(),
    "f0_not_followed": with_pitch(correlation=0.85),
    "f0_not_followed_in_some": evaluation(
        [source(), source(name="y.flac", pitch=replace(GOOD_PITCH, correlation=0.85))]
    ),
    "octave_errors": with_pitch(octave_error_ratio=0.05),
    "detuned": with_pitch(median_shift_cents=-40.0),
    "voicing_errors": with_pitch(voicing_error_ratio=0.12),
    "decoder_undertrained": evaluation(copies=[copy(7.0, 7.5)]),
    "decoder_limits_quality": evaluation(copies=[copy(5.0, 5.5)]),
    "decoder_loses_words": evaluation(copies=[copy(copy_wrong=30, conversion_wrong=30)]),
    "content_distance": evaluation(copies=[copy(3.0, 5.5)]),
    "content_loses_words": evaluation(copies=[copy(conversion_wrong=40)]),
    "words_lost": words(10, 30),
    "words_kept": evaluation(),
    "few_words": words(1, 1, n=8),
    "no_ceiling": evaluation(own=()),
}


@pytest.mark.parametrize("name", [rule.name for rule in RULES])
def test_every_rule_applies_where_it_should_and_only_there(name: str) -> None:
    assert name in rules(CASES[name])
    kind = next(rule.kind for rule in RULES if rule.name == name)
    if kind == "fault":
        assert rules(evaluation()) == {"similarity_high", "words_kept"}
        assert advise(CASES[name])[0].kind == "fault"


@pytest.mark.parametrize(
    ("similarity", "rule"),
    [(0.7499, "similarity_low"), (0.7501, "similarity_medium"), (0.8701, "similarity_high")],
)
def test_the_thresholds_are_those_of_the_table(similarity: float, rule: str) -> None:
    # between 0.55 and a ceiling of 0.95, a relative similarity of 0.5 is 0.75 and one of 0.8 is 0.87
    assert rule in rules(evaluation([source(similarity_result=similarity)]))


def test_the_advice_names_its_metrics() -> None:
    rule = "decoder_loses_words"
    (text,) = [advice.text for advice in advise(CASES[rule]) if advice.rule == rule]
    assert "20%" in text and "60%" in text
    text = str(advise(CASES["f0_not_followed_in_some"])[0])
    assert "1 of 2 recordings" in text and "others/y.flac" in text
    assert "7.0 dB" in str(advise(CASES["decoder_undertrained"])[0])


def test_undefined_metrics_give_no_advice() -> None:
    nothing = evaluation([], [], own=())
    assert rules(nothing) == {"no_ceiling"}
    assert all(math.isnan(value) for name, value in metrics_of(nothing).items() if not name.startswith("n_"))
    monotone = with_pitch(correlation=math.nan)
    assert "f0_not_followed" not in rules(monotone)


def test_the_table_has_a_row_per_folder_and_per_reconstruction() -> None:
    headings, rows = evaluation(
        [source(), source(group="songs", words_source=None, words_result=None)]
    ).table()
    assert all(len(row) == len(headings) for row in rows)
    own = ["target's own, copy synthesis", "target's own, converted"]
    assert [row[0] for row in rows] == ["others", "songs", "all", *own]
    assert rows[0][1:6] == (1, "0.55", "0.91", "90", "0.990")
    assert rows[0][-2:] == ("20 % of 50", "24 % of 50") and rows[1][-1] == "-"


def test_undefined_numbers_are_null_in_json_and_empty_in_csv(tmp_path: Path) -> None:
    found = evaluation([source(pitch=replace(GOOD_PITCH, correlation=math.nan))])
    found.save(tmp_path)
    stored = json.loads(
        (tmp_path / "evaluation.json").read_text(encoding="utf-8"), parse_constant=pytest.fail
    )
    assert stored["sources"][0]["pitch"]["correlation"] is None
    loaded = VoiceEvaluation.load(tmp_path)
    assert math.isnan(loaded.sources[0].pitch.correlation) and loaded.copies == found.copies
    rows = list(csv.DictReader(io.StringIO((tmp_path / "evaluation.csv").read_text(encoding="utf-8"))))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["version"] for row in rows] == ["source", "result", "recording", "copy", "conversion"]
    assert rows[1]["f0_correlation"] == "" and float(rows[1]["reach_ratio"]) == pytest.approx(0.9)


# --- plots and the page
# ---------------------------------------------------------------------------------------


def moving(seconds: float = 2.0, factor: float = 1.0) -> F0Track:
    times_s = np.arange(0, seconds, 0.01)
    return F0Track(factor * 200 * 2 ** np.sin(3 * times_s) * (times_s % 0.5 < 0.4), 0.01)


def noise(seconds: float = 1.0, seed: int = 0) -> Audio:
    return Audio(0.1 * np.random.default_rng(seed).standard_normal(round(16000 * seconds)), 16000)


@pytest.mark.parametrize("n_sources", [0, 1, 40])
def test_similarities_are_drawn_for_one_and_for_many(n_sources: int) -> None:
    figure = plot_similarity(evaluation([source(name=f"{i}.flac") for i in range(n_sources)]))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == (["others"] if n_sources == 40 else [f"others/{i}.flac" for i in range(n_sources)]) + [
        "own: own.flac"
    ]
    assert png_bytes(figure).startswith(b"\x89PNG")


def test_the_overview_leaves_out_what_was_not_measured() -> None:
    whole, without = evaluation(), evaluation([source(words_source=None, words_result=None)], [], own=())
    assert [len(plot_overview(found).axes) for found in (whole, without)] == [7, 3]
    with pytest.raises(SvcError, match="nothing was measured"):
        plot_overview(evaluation([], []))
    with pytest.raises(SvcError, match="nothing was measured"):
        plot_similarity(evaluation([], []))


def test_f0_in_tune_is_on_the_diagonal_and_unvoiced_tracks_are_drawn_too() -> None:
    curves, cloud = plot_f0_pairs(moving(), moving(), title="x").axes
    points = cloud.lines[0].get_xydata()
    assert len(points) > 100 and np.allclose(points[:, 0], points[:, 1])
    assert curves.get_title(loc="left").startswith("x: correlation 1.000")
    silent = F0Track(np.zeros(100), 0.01)
    assert png_bytes(plot_f0_pairs(silent, silent)).startswith(b"\x89PNG")


def test_distances_are_drawn_over_time_with_their_mean() -> None:
    _, ax = plot_distance(noise(), [("copy", noise(seed=1)), ("conversion", noise())]).axes
    labels = [line.get_label() for line in ax.lines]
    assert labels[0].startswith("copy: ") and labels[1] == "conversion: 0.0 dB"


def test_examples_are_the_most_and_the_least_similar_and_one_between() -> None:
    results = [source(name=str(i), similarity_result=i / 10) for i in (3, 9, 1, 5, 7)]
    assert [chosen.name for chosen in choose_examples(results)] == ["9", "5", "1"]
    assert [chosen.name for chosen in choose_examples(results[:2])] == ["9", "3"]


def test_the_page_has_advice_players_plots_and_skipped_recordings(tmp_path: Path) -> None:
    own = copy()
    found = evaluation(
        [source(recording=str(tmp_path / "x.flac"))], [replace(own, recording=str(tmp_path / "own.flac"))]
    )
    for name in ("x.flac", "own.flac", "converted/x.flac", own.copy.file, own.conversion.file):
        write_audio(tmp_path / name, noise(0.5))
    found = replace(
        found, skipped=(Skipped("bad & broken.flac", "no samples"),), notes=("words were not counted",)
    )
    page = write_page(found, tmp_path, estimate_f0=lambda audio: moving(audio.duration_s)).read_text(
        encoding="utf-8"
    )
    assert page.count("<audio") == 5 and page.count("<img") == 4
    assert "bad &amp; broken.flac: no samples" in page and "Words were not counted." in page
    assert "relative similarity is 90%" in page and "own.flac" in page


def test_a_page_reports_missing_audio_files(tmp_path: Path) -> None:
    page = write_page(evaluation(), tmp_path).read_text(encoding="utf-8")
    assert page.count("<audio") == 0 and page.count("missing: evaluate again") == 2
    empty = write_page(evaluation([], []), tmp_path).read_text(encoding="utf-8")
    assert "How it was measured" in empty
