"""The web page of an evaluation: advice first, then players, pictures, the table and what each number means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from svcnb.audio.audio import Audio, AudioError
from svcnb.audio.recording import open_audio
from svcnb.evaluation.advice import LAST_WORD, advise
from svcnb.evaluation.plots import plot_distance, plot_melodies, plot_overview, plot_similarity
from svcnb.evaluation.results import CopyResult, SourceResult, VoiceEvaluation, flat_rows, shown
from svcnb.features.pitch.track import F0Track
from svcnb.plots.page import Page

PAGE_NAME = "evaluation.html"
MOST_PLAYED = 3  # recordings with players: the best, the worst, one between; mp3 adds 0.5 MB per minute
MAX_PLAYED_S = 60.0
KINDS = {"fault": "To mend", "note": "To know", "good": "Good"}
EXPLANATIONS = (
    ("similarity", "how much two recordings sound like one person to a network that was trained to tell voices apart "
     "(Resemblyzer): the same voice 0.88 to 0.97, a similar one 0.6 to 0.75, a very different one 0.4 to 0.6"),
    ("of the way", "0 % is the source's own voice, 100 % what the target's own recordings reach among each other"),
    ("melody correlation", "1 = every turn of the wanted melody is followed; usual are 0.95 and more"),
    ("melody error", "typical distance from the wanted pitch; 100 cents are a semitone, 20 are hardly heard"),
    ("voicing differs", "share of the time in which one is voiced and the other is not; 2 to 5 % are usual"),
    ("distance", "mel-cepstral distance in dB, level and silence left out: 0.8 after mp3, 2.2 after a good vocoder, "
     "4 to 5 after half an hour of training on a processor, 8 and more from networks that have learnt nothing yet"),
    ("words wrong", "word error rate of an old offline recogniser (English, speech); compare before and after only. "
     "Here 22 % in clean sentences of a reader, 31 to 33 % in the bundled synthetic voices"),
)  # fmt: skip


def write_page(
    evaluation: VoiceEvaluation, folder: Path | str, *, estimate_f0: Callable[[Audio], F0Track] | None = None
) -> Path:
    """Write evaluation.html into the evaluation's folder: one file that can be mailed.

    Args:
        estimate_f0: the voice's; melodies are drawn where it is given.
    """
    folder = Path(folder)
    after = f" after {evaluation.step} steps" if evaluation.step else ""
    page = Page(f"How good is the voice {evaluation.voice} ({evaluation.speaker}){after}?")
    for item in advise(evaluation):
        page.paragraph(f"{KINDS[item.kind]}: {item.text}")
    page.paragraph(LAST_WORD)
    _add_figures(page, evaluation)
    _add_sources(page, evaluation, folder, estimate_f0)
    _add_copies(page, evaluation, folder)
    page.heading("Every recording")
    page.table(*_all_rows(evaluation))
    _add_remarks(page, evaluation)
    return page.write(folder / PAGE_NAME)


def _add_figures(page: Page, evaluation: VoiceEvaluation) -> None:
    if not (evaluation.sources or evaluation.copies):
        return
    page.heading("Figures")
    headings, rows = evaluation.table()
    page.table([*headings, ""], [[*map(str, row), ""] for row in rows])
    page.picture(
        plot_similarity(evaluation),
        "Each arrow leads from a source's voice to the result's. The green band is where the target's own recordings lie: "
        "no conversion can be expected beyond it.",
    )
    page.picture(plot_overview(evaluation), "All measures: a point per recording, the mean as a line, green where good voices lie.")
    page.table(["", "", "what it means"], [[name, "", text] for name, text in EXPLANATIONS])


def choose_examples(sources: Sequence[SourceResult]) -> list[SourceResult]:
    """The nearest to the target, the farthest, and those between, at most three."""
    ranked = sorted(sources, key=lambda source: -source.similarity_result)
    if len(ranked) <= MOST_PLAYED:
        return ranked
    return [ranked[0], ranked[len(ranked) // 2], ranked[-1]]


def _add_sources(
    page: Page, evaluation: VoiceEvaluation, folder: Path, estimate_f0: Callable[[Audio], F0Track] | None
) -> None:
    examples = choose_examples(evaluation.sources)
    for number, source in enumerate(examples):
        page.heading(f"{source.group}: {source.name}" + (", the nearest" if number == 0 and len(examples) > 1 else ""))
        before, after = _listen(source.recording), _listen(folder / source.file)
        if before is None or after is None:
            page.paragraph("The recording or its result is no longer where it was: evaluate again to hear it.")
            continue
        shift = f"moved by {source.transpose_semitones:+g} semitones" if source.transpose_semitones else "key as it was"
        page.players([
            ("Source", f"similarity {shown(source.similarity_source)}", before),
            ("Result", f"similarity {shown(source.similarity_result)}, {shift}", after),
        ])  # fmt: skip
        if estimate_f0 is not None:
            wanted = estimate_f0(before).transposed(source.transpose_semitones)
            page.picture(plot_melodies(wanted, estimate_f0(after)), "The melody that was wanted, and the one that is sung.")


def _add_copies(page: Page, evaluation: VoiceEvaluation, folder: Path) -> None:
    if not evaluation.copies:
        return
    page.heading("The target's own recordings")
    page.paragraph(
        "The copy passes the decoder only, the conversion the whole way. What is bad in the copy already is a matter of "
        "training and of the recordings; what is bad in the conversion only, of the content encoder and the settings."
    )
    for copy in evaluation.copies[:MOST_PLAYED]:
        _add_ladder(page, copy, folder)


def _add_ladder(page: Page, copy: CopyResult, folder: Path) -> None:
    recording = _listen(copy.recording)
    rungs = [(name, rung, _listen(folder / rung.file))
             for name, rung in (("copy", copy.copy), ("conversion", copy.conversion)) if rung]  # fmt: skip
    remade = [(name, audio) for name, _, audio in rungs if audio is not None]
    if recording is None or len(remade) < len(rungs):
        page.paragraph(f"{copy.name}: its sounds are no longer where they were: evaluate again to hear them.")
        return
    told = [(name.capitalize(), f"similarity {shown(rung.similarity)}, {rung.distance.mean_db:.1f} dB away", audio)
            for name, rung, audio in rungs]  # fmt: skip
    page.players([(f"Recording {copy.name}", f"similarity {shown(copy.similarity)}", recording), *told])
    page.picture(plot_distance(recording, remade), "Where copy and conversion differ from the recording.")


def _listen(path: Path | str) -> Audio | None:
    """The beginning of a recording; None where the file is gone."""
    try:
        with open_audio(path) as recording:
            return recording.slice_s(0.0, MAX_PLAYED_S)
    except AudioError:
        return None


def _all_rows(evaluation: VoiceEvaluation) -> tuple[list[str], list[list[str]]]:
    headings = ["recording", "similarity", "correlation", "error (cents)", "distance (dB)", "words wrong", "version"]
    rows = []
    for row in flat_rows(evaluation):
        figures = [_cell(row, "similarity", 2), _cell(row, "f0_correlation", 3), _cell(row, "f0_median_error_cents", 0),
                   _cell(row, "mel_cepstral_distance_db", 1)]  # fmt: skip
        rate = row.get("word_error_rate")
        words = "-" if rate is None else f"{100 * rate:.0f} % of {row['n_words']}"
        rows.append([f"{row['group']}: {row['recording']}", *figures, words, str(row["version"])])
    return headings, rows


def _cell(row: dict, name: str, digits: int) -> str:
    value = row.get(name)
    return "-" if value is None else f"{value:.{digits}f}"


def _add_remarks(page: Page, evaluation: VoiceEvaluation) -> None:
    target = evaluation.target
    page.heading("How it was measured")
    own = f", resembling each other at {shown(target.ceiling)}" if target.similarities else ""
    page.paragraph(
        f"Compared with {target.n_recordings} recordings of the target{own}, middle pitch {target.middle_pitch_hz:.0f} Hz."
    )
    for note in evaluation.notes:
        page.paragraph(f"{note[0].upper()}{note[1:]}.")
    if evaluation.skipped:
        page.heading("Not measured")
        page.file_list([f"{skipped.name}: {skipped.reason}" for skipped in evaluation.skipped])
