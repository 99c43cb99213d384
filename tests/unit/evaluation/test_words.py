"""Word errors of known pairs, transcripts at every supported path, and errors in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from svcnb import MissingExtra, SvcError
from svcnb.audio.audio import Audio, read_audio
from svcnb.evaluation.words import (
    WordErrors,
    WordRecogniser,
    find_transcript,
    normalise_text,
    spell_number,
    total_errors,
    word_errors,
)
from tests.places import DEMO_VOICES


@pytest.mark.parametrize(
    ("transcript", "recognized", "n_errors"),
    [
        ("The cat sat.", "the cat sat", 0),
        ("the cat sat", "the hat sat", 1),
        ("the cat sat", "the sat", 1),
        ("the cat sat", "the old cat sat down", 2),
        ("the cat sat", "", 3),
        ("It's 42 o\u2019clock!", "it's forty two o'clock", 0),
    ],
)
def test_every_kind_of_word_error_is_counted(transcript: str, recognized: str, n_errors: int) -> None:
    pytest.importorskip("jiwer")
    assert word_errors(transcript, recognized).n_errors == n_errors


def test_the_rate_counts_the_words_of_the_transcript() -> None:
    pytest.importorskip("jiwer")
    found = word_errors("Printing, in the only sense", "printing in an only cents")
    assert (found.n_words, found.n_errors, found.rate) == (5, 2, 0.4)


def test_long_recordings_weigh_more_in_the_total() -> None:
    assert total_errors([WordErrors(1, 10), None, WordErrors(9, 30)]).rate == pytest.approx(0.25)
    assert total_errors([None]) is None and total_errors([]) is None


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (99, "ninety nine"),
        (100, "one hundred"),
        (1905, "one thousand nine hundred five"),
        (250_017, "two hundred fifty thousand seventeen"),
        (1_000_000, "one zero zero zero zero zero zero"),
    ],
)
def test_numbers_are_spelled_as_english_words(number: int, words: str) -> None:
    assert spell_number(number) == words


def test_text_is_normalized_to_plain_words() -> None:
    assert normalise_text("  \u201cWell-known\u201d -- 1,250 men & 'tis_so ") == (
        "well known one thousand two hundred fifty men and tis so"
    )


def test_a_transcript_without_words_is_refused() -> None:
    pytest.importorskip("jiwer")
    with pytest.raises(SvcError, match="no words"):
        word_errors("...", "hello")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "raw" / "ada").mkdir(parents=True)
    return tmp_path


def test_a_text_file_beside_the_recording_comes_first(folder: Path) -> None:
    recording = folder / "raw" / "ada" / "a 1.flac"
    assert find_transcript(recording) is None
    (folder / "transcripts.csv").write_text("file|text\nraw/ada/a 1.flac|from the table\n", encoding="utf-8")
    assert find_transcript(recording) == "from the table"
    recording.with_suffix(".txt").write_text("\ufeffbeside it\n", encoding="utf-8")
    assert find_transcript(recording) == "beside it"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("transcripts.csv", 'file|text\nx.flac|one, "two"\n'),
        ("metadata.csv", 'x|1, 2|one, "two"\n'),
        ("metadata.csv", 'file,text\nx.flac,"one, ""two"""\n'),
        ("1-2.trans.txt", 'y other words\nx one, "two"\n'),
    ],
)
def test_tables_of_common_corpora_are_read(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert find_transcript(tmp_path / "x.flac") == 'one, "two"'
    assert find_transcript(tmp_path / "z.flac") is None


def test_a_transcript_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"caf\xe9")
    with pytest.raises(SvcError, match=r"x\.txt.*UTF-8"):
        find_transcript(tmp_path / "x.wav")


def test_without_the_recognizer_the_error_has_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(MissingExtra, match=r'pip install "svcnb\[evaluate\]"'):
        WordRecogniser()
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(MissingExtra, match=r'pip install "svcnb\[evaluate\]"'):
        word_errors("a", "b")


@pytest.fixture(scope="module")
def recogniser() -> WordRecogniser:
    pytest.importorskip("pocketsphinx")
    pytest.importorskip("jiwer")
    return WordRecogniser()


def test_most_words_of_clear_speech_are_recognized_in_any_order(recogniser: WordRecogniser) -> None:
    path = DEMO_VOICES / "raw" / "ada" / "ada_01.flac"
    audio = read_audio(path)
    first = recogniser.count_errors(audio, find_transcript(path))
    recogniser.recognise(Audio(audio.samples[::-1][:30000] * 0.01, audio.sample_rate_hz))
    again = recogniser.count_errors(audio, find_transcript(path))
    assert first.n_words == 22 and first.rate < 0.5
    assert again == first


def test_silence_has_no_words(recogniser: WordRecogniser) -> None:
    assert recogniser.count_errors(Audio(np.zeros(16000, np.float32), 16000), "one two").rate == 1
