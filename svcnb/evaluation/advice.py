"""What the figures mean, in plain words: one table of rules, each with its thresholds, and what to do.

The thresholds come from measurements on voices of the small size, trained for 30 to 2300 steps on three minutes of one
reader, and on the demo's synthetic voice after 600. Mel-cepstral distance of copies and conversions of the reader's own
recordings: 8.9 and 8.9 dB after 30 steps, 6.2 and 6.4 after 400, 4.3 and 5.3 after 1500, 3.8 and 5.0 after 2300; of the
synthetic voice's, which is easier, 3.2 and 3.4. After 2300 steps 21 % of the words were wrong in the recordings, 37 % in copies, 60 % in
conversions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from svcnb.evaluation.results import VoiceEvaluation, mean
from svcnb.evaluation.words import WordErrors, total_errors

Kind = Literal["fault", "note", "good"]


@dataclass(frozen=True)
class Condition:
    """A figure on one side of its threshold; a figure that does not exist is on neither."""

    figure: str
    side: Literal["below", "from"]
    limit: float

    def holds(self, figures: dict[str, float]) -> bool:
        value = figures[self.figure]
        if math.isnan(value):
            return False
        return value < self.limit if self.side == "below" else value >= self.limit


@dataclass(frozen=True)
class Rule:
    """What is said when all conditions hold; the text may name figures in braces."""

    name: str
    kind: Kind
    conditions: tuple[Condition, ...]
    text: str


@dataclass(frozen=True)
class Advice:
    """One rule that applied.

    Attributes:
        kind: "fault" wants to be mended, "note" to be known, "good" left alone.
    """

    rule: str
    kind: Kind
    text: str

    def __str__(self) -> str:
        return self.text


def _when(figure: str, side: Literal["below", "from"], limit: float) -> Condition:
    return Condition(figure, side, limit)


MORE_WRONG = 0.2  # more words wrong than before, of 1; twice the standard error of two rates over 40 words is 0.2
ENOUGH_WORDS = _when("n_words", "from", 40)  # below, chance moves the rate by more than 0.08
ENOUGH_COPIED_WORDS = _when("n_copied_words", "from", 40)
COPY_IS_FAR = _when("copy_distance_db", "from", 6.0)  # 6.2 after 400 steps, 8.2 after 135
COPY_IS_NEAR = _when("copy_distance_db", "below", 4.5)  # 3.8 after 2300 steps, 3.2 for the synthetic voice, 2.2 for WORLD
RULES = (
    Rule("mixed_target", "fault", (_when("ceiling", "below", 0.8),),
         "The target's own recordings resemble each other at {ceiling:.2f} only; one voice reaches 0.88 to 0.97. "
         "Several speakers, music or noise? Sort the recordings first: all other figures are relative to them."),
    Rule("voice_missed", "fault", (_when("reach_ratio", "below", 0.5),),
         "The results have gone {reach_ratio:.0%} of the way from the sources' voice to the target's: not the same "
         "person yet. Train longer, start from a base model, or add recordings of the target."),
    Rule("voice_near", "note", (_when("reach_ratio", "from", 0.5), _when("reach_ratio", "below", 0.8)),
         "The results have gone {reach_ratio:.0%} of the way from the sources' voice to the target's: recognisable, "
         "with something of the source left. Longer training or more recordings help; with ContentVec, try cluster_ratio 0.3."),
    Rule("voice_reached", "good", (_when("reach_ratio", "from", 0.8),),
         "The results have gone {reach_ratio:.0%} of the way from the sources' voice to the target's own recordings."),
    Rule("melody_lost", "fault", (_when("correlation", "below", 0.9),),
         "The melody is not followed (correlation {correlation:.2f}, 0.95 and more is usual). Look at the sources' "
         "curves in 05_convert; where they jump, choose another f0 predictor (-f0p), and leave -a off for songs."),
    Rule("some_melodies_lost", "note", (_when("correlation", "from", 0.9), _when("n_melodies_lost", "from", 1)),
         "In {n_melodies_lost:.0f} of {n_sources:.0f} recordings the melody is not followed (correlation below 0.9): "
         "{melodies_lost}. Look at their curves in 05_convert, and try another f0 predictor (-f0p) on them."),
    Rule("octaves", "fault", (_when("octave_error_ratio", "from", 0.03),),
         "{octave_error_ratio:.0%} of the sung moments are an octave or more off. The f0 predictor doubts, or the "
         "target never goes there: try another predictor (-f0p) or another octave (-t)."),
    Rule("detuned", "fault", (_when("shift_cents", "from", 30),),
         "The results lie {shift_cents:.0f} cents beside the wanted pitch; up to 10 are usual. The key may be outside "
         "what the target was recorded in: choose another transposition (-t)."),
    Rule("hoarse", "fault", (_when("voicing_error_ratio", "from", 0.1),),
         "In {voicing_error_ratio:.0%} of the time one is voiced and the other is not (2 to 5 % are usual): this sounds "
         "hoarse or buzzing. Raise or lower the voicing threshold (-ft), or try another f0 predictor (-f0p)."),
    Rule("decoder_young", "fault", (COPY_IS_FAR,),
         "Even copies of the target's own recordings are {copy_distance_db:.1f} dB away: the decoder has not learnt this "
         "voice. Train longer first; if it stays so, look at the recordings (noise, echo, music, low rate)."),
    Rule("decoder_limits", "note", (_when("copy_distance_db", "from", 4.5), _when("copy_distance_db", "below", 6.0)),
         "Copies of the target's own recordings are {copy_distance_db:.1f} dB away (a good decoder: below 4). No "
         "conversion sounds clearer than the copy does: longer training or cleaner recordings raise this limit."),
    Rule("copy_mumbles", "fault", (_when("copy_words_rise", "from", MORE_WRONG), ENOUGH_COPIED_WORDS),
         "Words get lost in the decoder already: {words_recording:.0%} are wrong in the target's own recordings, "
         "{words_copy:.0%} in copies of them. Train longer, or on cleaner recordings; other conversion settings will not bring them back."),
    Rule("content_colours", "fault", (COPY_IS_NEAR, _when("conversion_distance_rise_db", "from", 2.0)),
         "Copies are good, conversions of the same recordings {conversion_distance_rise_db:.1f} dB worse: the fault lies "
         "before the decoder. Lower cluster_ratio, put ContentVec into pretrain/, or train longer."),
    Rule("content_mumbles", "fault",
         (_when("copy_words_rise", "below", MORE_WRONG), _when("conversion_words_rise", "from", MORE_WRONG), ENOUGH_COPIED_WORDS),
         "Copies keep the words ({words_copy:.0%} wrong), conversions of the same recordings do not "
         "({words_conversion:.0%}): the content encoder does not carry them. Lower cluster_ratio; ContentVec in pretrain/ carries words much better."),
    Rule("words_lost", "fault", (_when("words_rise", "from", MORE_WRONG), _when("n_words", "from", 20)),
         "The recogniser gets {words_result:.0%} of the words wrong, {words_source:.0%} in the sources: hard to "
         "understand. Copies and conversions of the target's own recordings tell where "
         "words get lost."),
    Rule("words_kept", "good", (_when("words_rise", "below", 0.1), ENOUGH_WORDS),
         "The words are understood nearly as well as in the sources ({words_result:.0%} wrong, {words_source:.0%} before)."),
    Rule("few_words", "note", (_when("n_words", "from", 1), _when("n_words", "below", 40)),
         "Only {n_words:.0f} words were counted: take their rate as a rough guess, or give more transcripts."),
    Rule("no_ceiling", "note", (_when("n_references", "below", 2),),
         "One recording of the target cannot tell how much its voice varies: give five or more."),
)  # fmt: skip
MOST_NAMED = 3
ORDER = ("fault", "note", "good")
LAST_WORD = "Figures point the way, ears decide: listen to the results before you believe them."


def figures_of(evaluation: VoiceEvaluation) -> dict[str, float]:
    """The figures that rules look at; NaN where they do not exist. Means over recordings, rates over all words."""
    sources, copies = evaluation.sources, [copy for copy in evaluation.copies if copy.copy]
    before, after = (total_errors([getattr(s, f"words_{kind}") for s in sources]) for kind in ("source", "result"))
    recorded, copied = (total_errors(words) for words in ([c.words for c in copies], [c.copy.words for c in copies]))
    converted = total_errors([c.conversion.words for c in copies])
    return {
        "n_sources": float(len(sources)),
        "n_melodies_lost": float(len(_melodies_lost(evaluation))),
        "n_references": float(evaluation.target.n_recordings),
        "ceiling": evaluation.target.ceiling,
        "reach_ratio": mean(s.reach_ratio(evaluation.target.ceiling) for s in sources),
        "correlation": mean(s.pitch.correlation for s in sources),
        "octave_error_ratio": mean(s.pitch.octave_error_ratio for s in sources),
        "shift_cents": mean(abs(s.pitch.median_shift_cents) for s in sources),
        "voicing_error_ratio": mean(s.pitch.voicing_error_ratio for s in sources),
        "copy_distance_db": mean(c.copy.distance.mean_db for c in copies),
        "conversion_distance_rise_db": mean(c.conversion.distance.mean_db - c.copy.distance.mean_db for c in copies),
        "copy_words_rise": _rise(recorded, copied),
        "conversion_words_rise": _rise(copied, converted),
        "words_source": _rate(before),
        "words_result": _rate(after),
        "words_rise": _rise(before, after),
        "words_recording": _rate(recorded),
        "words_copy": _rate(copied),
        "words_conversion": _rate(converted),
        "n_words": float(after.n_words) if after else 0.0,
        "n_copied_words": float(copied.n_words) if copied else 0.0,
    }


def _melodies_lost(evaluation: VoiceEvaluation) -> list[str]:
    return [f"{s.group}/{s.name}" for s in evaluation.sources if s.pitch.correlation < 0.9]


def _rise(before: WordErrors | None, after: WordErrors | None) -> float:
    return _rate(after) - _rate(before)


def _rate(words: WordErrors | None) -> float:
    return words.rate if words else math.nan


def advise(evaluation: VoiceEvaluation) -> list[Advice]:
    """What the figures mean and what to do: faults first, then notes, then what is good."""
    figures = figures_of(evaluation)
    lost = _melodies_lost(evaluation)
    melodies_lost = ", ".join(lost[:MOST_NAMED]) + (" ..." if len(lost) > MOST_NAMED else "")
    found = [
        Advice(rule.name, rule.kind, rule.text.format(**figures, melodies_lost=melodies_lost))
        for rule in RULES
        if all(condition.holds(figures) for condition in rule.conditions)
    ]
    return sorted(found, key=lambda advice: ORDER.index(advice.kind))
