"""Intelligibility: word error rate by an offline speech recognizer, and the transcripts to compare with.

English only, the one language of pocketsphinx. It is an old recognizer, so compare a result's rate with that
of its source recording, never read it alone.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svcnb import MissingExtra, SvcError
from svcnb.audio.audio import Audio, resample_samples

RATE_HZ = 16000
TABLE_NAMES = ("transcripts.csv", "metadata.csv", "transcripts.txt", "metadata.txt")
N_PARENTS = 2  # folders above a recording whose tables are searched
SMALL_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


@dataclass(frozen=True)
class WordErrors:
    """Word errors of a recording.

    Attributes:
        n_errors: substitutions, deletions and insertions.
        n_words: words of the transcript.
        heard: the recognized text.

    Typical values of `rate`, measured: 0.22 for sentences of LJ Speech, 0.31 and 0.33 for the bundled
    synthetic voices, 0.9 for singing (the recognizer is not trained on it); from 1 on nothing is recognized.
    Below 50 words it is a rough estimate.
    """

    n_errors: int
    n_words: int
    heard: str = ""

    @property
    def rate(self) -> float:
        """Word error rate: errors per word of the transcript; above 1 with many insertions."""
        return self.n_errors / self.n_words


class WordRecogniser:
    """English speech to text (pocketsphinx with its bundled model); loads once."""

    def __init__(self) -> None:
        try:
            import jiwer  # noqa: F401
            import pocketsphinx
        except ImportError as error:
            raise MissingExtra(
                'word errors need pocketsphinx and jiwer: pip install "svcnb[evaluate]"'
            ) from error
        # maxhmmpf halves the time for unclear speech (0.4 s per second of audio) without a noticeable change
        # of error rates.
        self._decoder = pocketsphinx.Decoder(loglevel="FATAL", maxhmmpf=3000)

    def recognise(self, audio: Audio) -> str:
        """The recognized words, lower case; empty if there are none."""
        samples = resample_samples(audio.samples, audio.sample_rate_hz, RATE_HZ)
        pcm = (np.clip(samples, -1, 1) * 32767).astype(np.int16)
        self._decoder.reinit_feat()  # reset the level estimate: the order of recordings must not matter
        self._decoder.start_utt()
        # The whole recording at once: in parts the level estimate lags behind, with 1.7 times as many errors.
        self._decoder.process_raw(pcm.tobytes(), full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return hypothesis.hypstr if hypothesis else ""

    def count_errors(self, audio: Audio, transcript: str) -> WordErrors:
        """Recognize a recording and compare with its transcript."""
        return word_errors(transcript, self.recognise(audio))


def word_errors(transcript: str, recognized: str) -> WordErrors:
    """Word errors between two texts, after both are normalized.

    Raises:
        SvcError: no word in the transcript.
    """
    try:
        import jiwer
    except ImportError as error:
        raise MissingExtra('word errors need jiwer: pip install "svcnb[evaluate]"') from error
    reference, recognized = normalise_text(transcript), normalise_text(recognized)
    if not reference:
        raise SvcError(f"the transcript {transcript[:40]!r} has no words: write what is said, or remove it")
    n_words = len(reference.split())
    if not recognized:
        return WordErrors(n_words, n_words)
    counted = jiwer.process_words(reference, recognized)
    n_errors = counted.substitutions + counted.deletions + counted.insertions
    return WordErrors(n_errors, n_words, recognized)


def total_errors(results: Sequence[WordErrors | None]) -> WordErrors | None:
    """Sum over all recordings, so long ones weigh more; None if no recording has a transcript."""
    present = [result for result in results if result is not None]
    if not present:
        return None
    return WordErrors(sum(result.n_errors for result in present), sum(result.n_words for result in present))


def normalise_text(text: str) -> str:
    """Lower-case words with single spaces, without punctuation; integers below a million spelled out."""
    text = text.casefold().replace("\u2019", "'").replace("&", " and ")
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    text = re.sub(r"\d+", lambda found: f" {spell_number(int(found[0]))} ", text)
    text = re.sub(r"[^\w' ]|_", " ", text)
    return " ".join(word for word in (word.strip("'") for word in text.split()) if word)


def spell_number(number: int) -> str:
    """English words of an integer; digits one by one from a million on."""
    if number < 20:
        return SMALL_NUMBERS[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        return TENS[tens - 2] + (f" {SMALL_NUMBERS[rest]}" if rest else "")
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if size <= number < 1000 * size and number < 1_000_000:
            head, rest = divmod(number, size)
            return f"{spell_number(head)} {name}" + (f" {spell_number(rest)}" if rest else "")
    return " ".join(SMALL_NUMBERS[int(digit)] for digit in str(number))


def find_transcript(recording: Path | str) -> str | None:
    """Transcript of a recording, or None if there is none.

    Search order: `<name>.txt` beside it; a LibriSpeech `*.trans.txt` beside it (`id words ...`); a table
    transcripts.csv or metadata.csv beside it or up to two folders above (`id|text`, or with commas; a third
    column, as in LJ Speech, is the text with numbers spelled out). An id is a file name, with or without
    suffix and folders.
    """
    path = Path(recording)
    beside = path.with_suffix(".txt")
    if beside.is_file() and beside.name not in TABLE_NAMES:
        return _read_text(beside).strip() or None
    for table in sorted(path.parent.glob("*.trans.txt")):
        lines = (line.partition(" ") for line in _read_text(table).splitlines())
        if text := {name: text for name, _, text in lines}.get(path.stem):
            return text
    for folder in (path.parent, *list(path.parents)[1 : N_PARENTS + 1]):
        for name in TABLE_NAMES:
            if (folder / name).is_file() and (text := _from_table(folder / name, path)):
                return text
    return None


def _from_table(table: Path, recording: Path) -> str | None:
    relative = recording.relative_to(table.parent)
    wanted = {relative.as_posix(), relative.with_suffix("").as_posix(), recording.name, recording.stem}
    lines = _read_text(table).splitlines()
    delimiter = "|" if lines and "|" in lines[0] else ","
    quoting = csv.QUOTE_NONE if delimiter == "|" else csv.QUOTE_MINIMAL
    for row in csv.reader(lines, delimiter=delimiter, quoting=quoting):
        if len(row) > 1 and row[0].strip() in wanted:
            return row[-1].strip() or row[1].strip() or None
    return None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SvcError(
            f"{path} cannot be read as UTF-8 text ({error}): save it as UTF-8, or remove it"
        ) from error
