"""The web page of an evaluation: advice, metrics with plots and explanations, audio players, and a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from svcnb.audio.audio import Audio, AudioError
from svcnb.audio.recording import open_audio
from svcnb.evaluation.advice import LAST_WORD, advise
from svcnb.evaluation.plots import plot_distance, plot_f0_pairs, plot_overview, plot_similarity
from svcnb.evaluation.results import CopyResult, SourceResult, VoiceEvaluation, flat_rows, shown
from svcnb.features.pitch.track import F0Track
from svcnb.plots.page import Page

PAGE_NAME = "evaluation.html"
MOST_PLAYED = 3  # recordings with players: the best, the worst, one between; 0.5 MB of mp3 per minute
MAX_PLAYED_S = 60.0
DIGITS = {"similarity": 2, "f0_correlation": 3, "f0_median_error_cents": 0, "mel_cepstral_distance_db": 1}
KINDS = {"fault": "To fix", "note": "To know", "good": "Good"}
EXPLANATIONS = (
    ("similarity", "speaker similarity: cosine of the embeddings of a speaker verification network "
     "(Resemblyzer): 0.88 to 0.97 for the same speaker, 0.6 to 0.75 for a similar one, 0.4 to 0.6 "
     "for a very different one"),
    ("relative similarity", "0 % is the source's own voice, 100 % the mean of the target's own recordings"),
    ("f0 correlation", "correlation of log f0 with the wanted f0; usually 0.95 or more"),
    ("f0 error", "median distance from the wanted f0; 100 cents are a semitone, 20 are hardly audible"),
    ("voicing differs", "ratio of frames in which one is voiced and the other is not; 2 to 5 % are usual"),
    ("distance", "mel-cepstral distance in dB, without level and silence: 0.8 after mp3, 2.2 after a good "
     "vocoder, 4 to 5 after half an hour of training on a CPU, 8 and more from untrained networks"),
    ("words wrong", "word error rate of an old offline recognizer (English, speech); compare only before and "
     "after. Here 22 % in clean sentences of a reader, 31 to 33 % in the bundled synthetic voices"),
)  # fmt: skip


def write_page(
    evaluation: VoiceEvaluation, folder: Path | str, *, estimate_f0: Callable[[Audio], F0Track] | None = None
) -> Path:
    """Write evaluation.html into the evaluation's folder: a single self-contained file.

    Args:
        estimate_f0: the voice's f0 estimator; if given, f0 is plotted.
    """
    folder = Path(folder)
    after = f" after {evaluation.step} steps" if evaluation.step else ""
    page = Page(f"How good is the voice {evaluation.voice} ({evaluation.speaker}){after}?")
    for item in advise(evaluation):
        page.paragraph(f"{KINDS[item.kind]}: {item.text}")
    page.paragraph(LAST_WORD)
    _add_metrics(page, evaluation)
    _add_sources(page, evaluation, folder, estimate_f0)
    _add_copies(page, evaluation, folder)
    page.heading("Every recording")
    page.table(*_all_rows(evaluation))
    _add_remarks(page, evaluation)
    return page.write(folder / PAGE_NAME)


def _add_metrics(page: Page, evaluation: VoiceEvaluation) -> None:
    if not (evaluation.sources or evaluation.copies):
        return
    page.heading("Metrics")
    headings, rows = evaluation.table()
    page.table([*headings, ""], [[*map(str, row), ""] for row in rows])
    page.picture(
        plot_similarity(evaluation),
        "Each arrow leads from a source's similarity to the result's. The green band is the range of the "
        "target's own recordings: no conversion can be expected beyond it.",
    )
    caption = "All metrics: a point per recording, the mean as a line, the range of good voices in green."
    page.picture(plot_overview(evaluation), caption)
    page.table(["", "", "what it means"], [[name, "", text] for name, text in EXPLANATIONS])


def choose_examples(sources: Sequence[SourceResult]) -> list[SourceResult]:
    """The most similar to the target, the least similar, and one between: at most three."""
    ranked = sorted(sources, key=lambda source: -source.similarity_result)
    if len(ranked) <= MOST_PLAYED:
        return ranked
    return [ranked[0], ranked[len(ranked) // 2], ranked[-1]]


def _add_sources(
    page: Page, evaluation: VoiceEvaluation, folder: Path, estimate_f0: Callable[[Audio], F0Track] | None
) -> None:
    examples = choose_examples(evaluation.sources)
    for number, source in enumerate(examples):
        remark = ", the most similar" if number == 0 and len(examples) > 1 else ""
        page.heading(f"{source.group}: {source.name}{remark}")
        before, after = _read(source.recording), _read(folder / source.file)
        if before is None or after is None:
            page.paragraph("The recording or its result is missing: evaluate again to hear it.")
            continue
        shift = source.transpose_semitones
        moved = f"transposed by {shift:+g} semitones" if shift else "not transposed"
        page.players(
            [
                ("Source", f"similarity {shown(source.similarity_source)}", before),
                ("Result", f"similarity {shown(source.similarity_result)}, {moved}", after),
            ]
        )
        if estimate_f0 is not None:
            wanted = estimate_f0(before).transposed(shift)
            page.picture(plot_f0_pairs(wanted, estimate_f0(after)), "The wanted f0 and the result's.")


def _add_copies(page: Page, evaluation: VoiceEvaluation, folder: Path) -> None:
    if not evaluation.copies:
        return
    page.heading("The target's own recordings")
    page.paragraph(
        "Copy synthesis uses posterior encoder and decoder only, the conversion all stages. Errors in copy "
        "synthesis come from training and recordings; errors in the conversion only, from content encoder "
        "and settings."
    )
    for copy in evaluation.copies[:MOST_PLAYED]:
        _add_reconstructions(page, copy, folder)


def _add_reconstructions(page: Page, copy: CopyResult, folder: Path) -> None:
    recording = _read(copy.recording)
    both = ("copy synthesis", copy.copy), ("conversion", copy.conversion)
    reconstructions = [
        (name, reconstruction, _read(folder / reconstruction.file))
        for name, reconstruction in both
        if reconstruction
    ]
    remade = [(name, audio) for name, _, audio in reconstructions if audio is not None]
    if recording is None or len(remade) < len(reconstructions):
        page.paragraph(f"{copy.name}: its audio files are missing: evaluate again to hear them.")
        return
    players = [
        (
            name.capitalize(),
            f"similarity {shown(reconstruction.similarity)}, MCD {reconstruction.distance.mean_db:.1f} dB",
            audio,
        )
        for name, reconstruction, audio in reconstructions
    ]
    page.players([(f"Recording {copy.name}", f"similarity {shown(copy.similarity)}", recording), *players])
    page.picture(plot_distance(recording, remade), "Distance of copy synthesis and conversion.")


def _read(path: Path | str) -> Audio | None:
    """The start of a recording; None if the file is gone."""
    try:
        with open_audio(path) as recording:
            return recording.slice_s(0.0, MAX_PLAYED_S)
    except AudioError:
        return None


def _all_rows(evaluation: VoiceEvaluation) -> tuple[list[str], list[list[str]]]:
    headings = ["recording", "similarity", "f0 correlation", "f0 error (cents)", "distance (dB)"]
    headings += ["words wrong", "version"]
    rows = []
    for row in flat_rows(evaluation):
        metrics = [_cell(row, name, digits) for name, digits in DIGITS.items()]
        rate = row.get("word_error_rate")
        words = "-" if rate is None else f"{100 * rate:.0f} % of {row['n_words']}"
        rows.append([f"{row['group']}: {row['recording']}", *metrics, words, str(row["version"])])
    return headings, rows


def _cell(row: dict, name: str, digits: int) -> str:
    value = row.get(name)
    return "-" if value is None else f"{value:.{digits}f}"


def _add_remarks(page: Page, evaluation: VoiceEvaluation) -> None:
    target = evaluation.target
    page.heading("How it was measured")
    own = f" with a mean similarity of {shown(target.ceiling)}" if target.similarities else ""
    page.paragraph(
        f"Compared with {target.n_recordings} recordings of the target{own}, median f0 "
        f"{target.median_f0_hz:.0f} Hz."
    )
    for note in evaluation.notes:
        page.paragraph(f"{note[0].upper()}{note[1:]}.")
    if evaluation.skipped:
        page.heading("Not measured")
        page.file_list([f"{skipped.name}: {skipped.reason}" for skipped in evaluation.skipped])
