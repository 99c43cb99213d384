"""Advice from an evaluation's metrics: a table of rules with thresholds, and what to do.

The thresholds come from measurements on small models, trained for 30 to 2300 steps on three minutes of one
reader, and on the demo's synthetic voice after 600. Mel-cepstral distance of copy synthesis and conversion of
the reader's own recordings: 8.9 and 8.9 dB after 30 steps, 6.2 and 6.4 after 400, 4.3 and 5.3 after 1500, 3.8
and 5.0 after 2300; of the synthetic voice, which is easier, 3.2 and 3.4. Word error rate after 2300 steps: 21
% in the recordings, 37 % in copy synthesis, 60 % in conversions.
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
    """A metric below or above a threshold; false for an undefined metric."""

    metric: str
    side: Literal["below", "from"]
    limit: float

    def holds(self, metrics: dict[str, float]) -> bool:
        value = metrics[self.metric]
        if math.isnan(value):
            return False
        return value < self.limit if self.side == "below" else value >= self.limit


@dataclass(frozen=True)
class Rule:
    """Text of an advice, given if all conditions hold; it may contain metrics in braces."""

    name: str
    kind: Kind
    conditions: tuple[Condition, ...]
    text: str


@dataclass(frozen=True)
class Advice:
    """One rule that applied.

    Attributes:
        kind: "fault": to fix; "note": to know; "good": fine.
    """

    rule: str
    kind: Kind
    text: str

    def __str__(self) -> str:
        return self.text


def _when(metric: str, side: Literal["below", "from"], limit: float) -> Condition:
    return Condition(metric, side, limit)


MORE_WRONG = 0.2  # rise of the word error rate; two standard errors of the difference over 40 words are 0.2
ENOUGH_WORDS = _when("n_words", "from", 40)  # below, the rate's standard error is above 0.08
ENOUGH_COPIED_WORDS = _when("n_copied_words", "from", 40)
COPY_SYNTHESIS_IS_FAR = _when("copy_distance_db", "from", 6.0)  # 6.2 after 400 steps, 8.2 after 135
# 3.8 after 2300 steps, 3.2 for the synthetic voice, 2.2 for WORLD
COPY_SYNTHESIS_IS_NEAR = _when("copy_distance_db", "below", 4.5)
RULES = (
    Rule("mixed_target", "fault", (_when("ceiling", "below", 0.8),),
         "The target's own recordings have a speaker similarity of only {ceiling:.2f}; one speaker has 0.88 "
         "to 0.97. Several speakers, music or noise? Sort the recordings first: all other metrics are "
         "relative to them."),
    Rule("similarity_low", "fault", (_when("reach_ratio", "below", 0.5),),
         "The relative similarity is {reach_ratio:.0%} (0 % the sources' voice, 100 % the target's own "
         "recordings): not the target's voice yet. Train longer, start from a base model, or add recordings "
         "of the target."),
    Rule("similarity_medium", "note", (_when("reach_ratio", "from", 0.5), _when("reach_ratio", "below", 0.8)),
         "The relative similarity is {reach_ratio:.0%} (0 % the sources' voice, 100 % the target's own "
         "recordings): recognizable, with some of the source's timbre left. Longer training or more "
         "recordings help; with ContentVec, try cluster_ratio 0.3."),
    Rule("similarity_high", "good", (_when("reach_ratio", "from", 0.8),),
         "The relative similarity is {reach_ratio:.0%} (0 % the sources' voice, 100 % the target's own "
         "recordings)."),
    Rule("f0_not_followed", "fault", (_when("correlation", "below", 0.9),),
         "The results do not follow the f0 (correlation {correlation:.2f}, usually 0.95 or more). Look at "
         "the sources' f0 in 05_convert; where it jumps, choose another f0 predictor (-f0p), and leave -a "
         "off for songs."),
    Rule("f0_not_followed_in_some", "note",
         (_when("correlation", "from", 0.9), _when("n_f0_lost", "from", 1)),
         "In {n_f0_lost:.0f} of {n_sources:.0f} recordings the result does not follow the f0 (correlation "
         "below 0.9): {f0_lost}. Look at their f0 in 05_convert, and try another f0 predictor (-f0p) "
         "on them."),
    Rule("octave_errors", "fault", (_when("octave_error_ratio", "from", 0.03),),
         "{octave_error_ratio:.0%} of the voiced frames have an octave error. Either the f0 predictor fails, "
         "or this is outside the target's range: try another predictor (-f0p) or another octave (-t)."),
    Rule("detuned", "fault", (_when("shift_cents", "from", 30),),
         "The results are {shift_cents:.0f} cents off the wanted f0; up to 10 are usual. The key may be "
         "outside the range of the target's recordings: choose another transposition (-t)."),
    Rule("voicing_errors", "fault", (_when("voicing_error_ratio", "from", 0.1),),
         "In {voicing_error_ratio:.0%} of the frames one is voiced and the other is not (2 to 5 % are "
         "usual): this sounds hoarse or buzzing. Raise or lower the voicing threshold (-ft), or try another "
         "f0 predictor (-f0p)."),
    Rule("decoder_undertrained", "fault", (COPY_SYNTHESIS_IS_FAR,),
         "Even copy synthesis of the target's own recordings is {copy_distance_db:.1f} dB away: the decoder "
         "has not learned this voice. Train longer first; if that does not help, check the recordings "
         "(noise, reverb, music, low sample rate)."),
    Rule("decoder_limits_quality", "note",
         (_when("copy_distance_db", "from", 4.5), _when("copy_distance_db", "below", 6.0)),
         "Copy synthesis of the target's own recordings is {copy_distance_db:.1f} dB away (a good decoder: "
         "below 4). No conversion sounds clearer than copy synthesis: longer training or cleaner recordings "
         "raise this limit."),
    Rule("decoder_loses_words", "fault", (_when("copy_words_rise", "from", MORE_WRONG), ENOUGH_COPIED_WORDS),
         "The decoder already makes words unclear: {words_recording:.0%} are wrong in the target's own "
         "recordings, {words_copy:.0%} in their copy synthesis. Train longer, or on cleaner recordings; "
         "conversion settings cannot fix this."),
    Rule("content_distance", "fault", (COPY_SYNTHESIS_IS_NEAR, _when("conversion_distance_rise_db", "from", 2.0)),
         "Copy synthesis is good, conversion of the same recordings {conversion_distance_rise_db:.1f} dB "
         "worse: the cause is before the decoder. Lower cluster_ratio, put ContentVec into pretrain/, or "
         "train longer."),
    Rule("content_loses_words", "fault",
         (_when("copy_words_rise", "below", MORE_WRONG), _when("conversion_words_rise", "from", MORE_WRONG),
          ENOUGH_COPIED_WORDS),
         "Copy synthesis keeps the words ({words_copy:.0%} wrong), conversion of the same recordings does "
         "not ({words_conversion:.0%}): the content encoder loses them. Lower cluster_ratio; ContentVec in "
         "pretrain/ keeps words much better."),
    Rule("words_lost", "fault", (_when("words_rise", "from", MORE_WRONG), _when("n_words", "from", 20)),
         "The recognizer gets {words_result:.0%} of the words wrong, {words_source:.0%} in the sources: hard "
         "to understand. Copy synthesis and conversion of the target's own recordings show which stage loses "
         "words."),
    Rule("words_kept", "good", (_when("words_rise", "below", 0.1), ENOUGH_WORDS),
         "The words are nearly as clear as in the sources ({words_result:.0%} wrong, {words_source:.0%} "
         "before)."),
    Rule("few_words", "note", (_when("n_words", "from", 1), _when("n_words", "below", 40)),
         "Only {n_words:.0f} words were counted: the rate is a rough estimate; add more transcripts."),
    Rule("no_ceiling", "note", (_when("n_references", "below", 2),),
         "One recording of the target does not show how much the voice varies: use five or more."),
)  # fmt: skip
MOST_NAMED = 3
ORDER = ("fault", "note", "good")
LAST_WORD = "Metrics are only a guide: listen to the results before you trust them."


def metrics_of(evaluation: VoiceEvaluation) -> dict[str, float]:
    """The metrics that rules use; NaN where undefined. Means over recordings, rates over all words."""
    sources, copies = evaluation.sources, [copy for copy in evaluation.copies if copy.copy]
    before, after = (
        total_errors([getattr(s, f"words_{kind}") for s in sources]) for kind in ("source", "result")
    )
    recorded, copied = (
        total_errors(words) for words in ([c.words for c in copies], [c.copy.words for c in copies])
    )
    converted = total_errors([c.conversion.words for c in copies])
    return {
        "n_sources": float(len(sources)),
        "n_f0_lost": float(len(_f0_lost(evaluation))),
        "n_references": float(evaluation.target.n_recordings),
        "ceiling": evaluation.target.ceiling,
        "reach_ratio": mean(s.relative_similarity(evaluation.target.ceiling) for s in sources),
        "correlation": mean(s.pitch.correlation for s in sources),
        "octave_error_ratio": mean(s.pitch.octave_error_ratio for s in sources),
        "shift_cents": mean(abs(s.pitch.median_shift_cents) for s in sources),
        "voicing_error_ratio": mean(s.pitch.voicing_error_ratio for s in sources),
        "copy_distance_db": mean(c.copy.distance.mean_db for c in copies),
        "conversion_distance_rise_db": mean(
            c.conversion.distance.mean_db - c.copy.distance.mean_db for c in copies
        ),
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


def _f0_lost(evaluation: VoiceEvaluation) -> list[str]:
    return [f"{s.group}/{s.name}" for s in evaluation.sources if s.pitch.correlation < 0.9]


def _rise(before: WordErrors | None, after: WordErrors | None) -> float:
    return _rate(after) - _rate(before)


def _rate(words: WordErrors | None) -> float:
    return words.rate if words else math.nan


def advise(evaluation: VoiceEvaluation) -> list[Advice]:
    """Advice from the metrics: faults first, then notes, then what is good."""
    metrics = metrics_of(evaluation)
    lost = _f0_lost(evaluation)
    f0_lost = ", ".join(lost[:MOST_NAMED]) + (" ..." if len(lost) > MOST_NAMED else "")
    found = [
        Advice(rule.name, rule.kind, rule.text.format(**metrics, f0_lost=f0_lost))
        for rule in RULES
        if all(condition.holds(metrics) for condition in rule.conditions)
    ]
    return sorted(found, key=lambda advice: ORDER.index(advice.kind))
