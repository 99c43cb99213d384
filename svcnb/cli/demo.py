"""The whole way in one call: bundled recordings in, a trained voice, two conversions and a web page out."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from svcnb import SvcError
from svcnb.audio.audio import Audio, find_audio_files, read_audio
from svcnb.audio.settings import CutSettings
from svcnb.conversion.settings import ConversionSettings
from svcnb.data.clips import CutReport, cut_folder
from svcnb.evaluation.metrics import ConversionReport, F0Pair, SpeakerSimilarity, evaluate_conversion
from svcnb.evaluation.run import choose_transposition
from svcnb.features.pitch.track import looks_sung
from svcnb.files.disk import write_json
from svcnb.models import sovits
from svcnb.plots.audio import plot_clip_lengths, plot_comparison, plot_cuts
from svcnb.plots.page import Page
from svcnb.plots.training import plot_losses
from svcnb.training.checkpoints import read_progress
from svcnb.training.settings import TrainSettings

N_REFERENCES = 12  # more sentences hardly move the mean of the embeddings
WITHOUT_BASE = "without_base.json"  # report.json of a demo that started from nothing


@dataclass(frozen=True)
class DemoSettings:
    """What the demo uses.

    Attributes:
        demo_folder: has raw/<speaker>/ and, beside it, recordings to convert.
        target: the speaker whose voice is trained.
        n_jobs: processes for the features.
        device: auto, cpu or cuda.
        base: model to start the training from (see recipes.sovits.train).
    """

    demo_folder: Path = Path("data/demo")
    target: str = "ada"
    n_jobs: int = 2
    device: str = "auto"
    base: Path | str = "auto"


@dataclass(frozen=True)
class Conversion:
    """One recording before and after."""

    name: str
    settings: ConversionSettings
    source: Audio
    result: Audio
    melodies: F0Pair
    sung: bool
    path: Path
    figures: ConversionReport


@dataclass(frozen=True)
class Training:
    """What the training took."""

    steps: int
    minutes: float
    history_path: Path


def run_demo(
    folder: Path | str = Path("data/demo-run"), *, minutes: float = 5.0, settings: DemoSettings | None = None
) -> Path:
    """Train the bundled voice and convert a spoken and a sung recording with it.

    Finished steps are reused: a second call with the same minutes only converts and writes the page again.

    Args:
        folder: everything goes below this: clips, features, voice, converted, report.html, report.json.
        minutes: training time; the rest takes about two minutes on two CPU cores.

    Returns:
        report.html.
    """
    started, folder, settings = time.monotonic(), Path(folder), settings or DemoSettings()
    if not minutes > 0:
        raise SvcError(f"minutes is {minutes:g}: training needs more than 0 minutes")
    config = sovits.Config.small()
    sources = _find_sources(settings)
    cuts = _cut(settings, folder, config.data.sampling_rate)
    sovits.prepare(
        config, folder / "clips", folder / "features", sovits.PrepareSettings(n_jobs=settings.n_jobs)
    )
    training = _train(folder, minutes, settings)
    voice = sovits.load_voice(folder / "voice", device="cpu")
    references = find_audio_files(folder / "clips" / settings.target)[:N_REFERENCES]
    similarity = SpeakerSimilarity()
    conversions = [_convert(voice, path, folder, references, similarity=similarity) for path in sources]
    report = _figures(conversions, training, time.monotonic() - started)
    report["command"] = f"svcnb demo --minutes {minutes:g} --base {settings.base}"
    page = _write_page(folder, settings, cuts, training, conversions)
    report["files"] = [_from_project(path) for path in _made_files(folder)] + [
        _from_project(folder / "report.json")
    ]
    write_json(folder / "report.json", report)
    print(f"{page}: {report['seconds']:.0f} s, speaker similarity {report['speaker_similarity']}")
    return page


def _find_sources(settings: DemoSettings) -> list[Path]:
    """One spoken recording of another speaker, and the first sung one outside raw/."""
    raw = settings.demo_folder / "raw"
    if not (raw / settings.target).is_dir():
        raise SvcError(f"no recordings of {settings.target} in {raw}: run the demo in the project's folder")
    others = [path for path in find_audio_files(raw) if path.relative_to(raw).parts[0] != settings.target]
    melodies = [path for path in find_audio_files(settings.demo_folder) if raw not in path.parents]
    if not others and not melodies:
        raise SvcError(f"nothing to convert in {settings.demo_folder}: add a recording beside raw/")
    return others[:1] + melodies[:1]


def _cut(settings: DemoSettings, folder: Path, sample_rate_hz: int) -> CutReport:
    """Clips of the target only: the voice must not know the recordings it will convert."""
    cut_settings = CutSettings(sample_rate_hz=sample_rate_hz)
    return cut_folder(settings.demo_folder / "raw" / settings.target, folder / "clips", cut_settings)


def _train(folder: Path, minutes: float, settings: DemoSettings) -> Training:
    """Train until `minutes` are full, those of earlier calls counted."""
    limits = TrainSettings(max_minutes=minutes, device=settings.device, log_every_steps=10)
    report = sovits.train(folder / "features", folder / "voice", limits, resume=True, base=settings.base)
    progress = read_progress(folder / "voice")
    return Training(report.step, progress.seconds / 60 if progress else 0.0, report.history_path)


def _convert(
    voice: sovits.Voice,
    path: Path,
    folder: Path,
    references: Sequence[Path],
    *,
    similarity: SpeakerSimilarity,
) -> Conversion:
    source = read_audio(path)
    melody = voice.estimate_f0(source)
    sung = looks_sung(melody)
    shift = choose_transposition(voice.suggest_transpose(melody), sung=sung)
    settings = ConversionSettings(transpose_semitones=shift)
    result_path = voice.convert_file(path, folder / "converted", settings)
    result = read_audio(result_path)
    melodies = F0Pair(melody, voice.estimate_f0(result))
    figures = evaluate_conversion(source, result, references, melodies=melodies, similarity=similarity)
    return Conversion(path.stem, settings, source, result, melodies, sung, result_path, figures)


# ----------------------------------------------------------------------------------------------- report


def _figures(conversions: Sequence[Conversion], training: Training, seconds: float) -> dict[str, Any]:
    """report.json without its list of files; similarities and correlation are means over the conversions."""
    correlations = [
        c.figures.pitch.correlation for c in conversions if not math.isnan(c.figures.pitch.correlation)
    ]
    return {
        "seconds": round(seconds, 1),
        "speaker_similarity": {
            "result": round(float(np.mean([c.figures.similarity_result for c in conversions])), 4),
            "source": round(float(np.mean([c.figures.similarity_source for c in conversions])), 4),
        },
        "f0_correlation": round(float(np.mean(correlations)), 4) if correlations else None,
        "files": [],
        "training": {"minutes": round(training.minutes, 2), "steps": training.steps},
        "conversions": [
            {
                "name": c.name,
                "file": _from_project(c.path),
                "sung": c.sung,
                "transpose_semitones": c.settings.transpose_semitones,
            }
            | c.figures.to_dict()
            for c in conversions
        ],
    }


def _write_page(
    folder: Path,
    settings: DemoSettings,
    cuts: CutReport,
    training: Training,
    conversions: Sequence[Conversion],
) -> Path:
    clips = [read_audio(path) for path in find_audio_files(folder / "clips" / settings.target)]
    page = Page(f"Two recordings in the voice of {settings.target}")
    seconds_of_voice = sum(clip.duration_s for clip in clips)
    page.paragraph(
        f"This voice was trained for {training.minutes:.1f} minutes ({training.steps} steps) on {seconds_of_voice:.0f} "
        f"seconds of recordings. It had never heard the sources below. Words, melody and timing come from the "
        f"source, the timbre should come from {settings.target}."
    )
    for conversion in conversions:
        _add_conversion(page, conversion, settings.target, max(clips, key=lambda clip: clip.duration_s))
    page.heading("Figures")
    _add_table(page, conversions, settings)
    page.heading("How the voice was made")
    _add_making(page, settings, cuts, clips, training)
    page.heading("What to expect")
    page.paragraph(_verdict(min(conversion.figures.similarity_result for conversion in conversions)))
    page.paragraph(
        "The small networks of this demo are made for a processor and a few minutes: expect muffled consonants, some "
        "buzzing and a blurred timbre. The same notebooks on a graphics card train the full-size networks at "
        "44.1 kHz, on ten minutes or more of clean recordings, for some hours. Cleaner recordings help more than "
        "more steps."
    )
    page.heading("Files")
    page.file_list([_from_project(path) for path in _made_files(folder)])
    return page.write(folder / "report.html")


def _verdict(similarity: float) -> str:
    """What the weaker conversion's similarity to the target means, in words."""
    if similarity >= 0.8:
        return f"A similarity of {similarity:.2f}: the target's voice is recognisable."
    if similarity >= 0.7:
        return f"A similarity of {similarity:.2f}: on the way to the target's voice; longer training (--minutes) helps."
    return (
        f"A similarity of {similarity:.2f}: this is not the target's voice yet. Call the demo again with more "
        "--minutes; it goes on from here."
    )


def _add_conversion(page: Page, conversion: Conversion, target: str, sample: Audio) -> None:
    kind = "sung" if conversion.sung else "spoken"
    page.heading(f"{conversion.name} ({kind})")
    shift = conversion.settings.transpose_semitones
    moved = f"melody moved by {shift:+g} semitones" if shift else "melody as it was"
    page.players(
        [
            ("Source", f"{conversion.name}, {conversion.source.duration_s:.1f} s", conversion.source),
            ("Result", f"in the voice of {target}, {moved}", conversion.result),
            ("For comparison", f"{target}, one of the training clips", sample),
        ]
    )
    tracks = (conversion.melodies.source, conversion.melodies.result)
    page.picture(
        plot_comparison(conversion.source, conversion.result, tracks),
        "Source above, result below. The bright horizontal stripes are harmonics of the voice, the line is the melody. "
        "Words stand at the same time in both; the stripes' brightness from bottom to top is the timbre.",
    )


def _add_table(page: Page, conversions: Sequence[Conversion], settings: DemoSettings) -> None:
    figures, target = [conversion.figures for conversion in conversions], settings.target
    page.table(
        ["", *(conversion.name for conversion in conversions), "what it means"],
        [
            [
                "Speaker similarity, result",
                *(f"{f.similarity_result:.2f}" for f in figures),
                f"the result's voice against {target}'s recordings; from 0.85 on it passes for the same person",
            ],
            [
                "Speaker similarity, source",
                *(f"{f.similarity_source:.2f}" for f in figures),
                "the same for the source: where it started",
            ],
            *_rows_without_base(conversions, settings),
            [
                "Melody correlation",
                *(f"{f.pitch.correlation:.3f}" for f in figures),
                "1 = the result follows every turn of the source's melody",
            ],
            [
                "Melody error (cents)",
                *(f"{f.pitch.median_error_cents:.0f}" for f in figures),
                "typical distance; 100 are a semitone, 20 are hardly heard",
            ],
            [
                "Voicing differs (%)",
                *(f"{100 * f.pitch.voicing_error_ratio:.0f}" for f in figures),
                "of the time one is voiced and the other is not",
            ],
        ],
    )


def _rows_without_base(conversions: Sequence[Conversion], settings: DemoSettings) -> list[list[str]]:
    """The figures of an earlier demo that started from nothing, where they are stored and this one did not."""
    path = settings.demo_folder / WITHOUT_BASE
    if settings.base != "auto" or not path.is_file():
        return []
    stored = json.loads(path.read_text(encoding="utf-8"))
    known = {made["name"]: made["similarity_result"] for made in stored["conversions"]}
    cells = [f"{known[c.name]:.2f}" if c.name in known else "" for c in conversions]
    minutes, steps = stored["training"]["minutes"], stored["training"]["steps"]
    meaning = f"stored: {minutes:.0f} minutes, {steps} steps from nothing, by {stored['command']}"
    return [["The same without the base voice", *cells, meaning]]


def _add_making(
    page: Page, settings: DemoSettings, cuts: CutReport, clips: Sequence[Audio], training: Training
) -> None:
    longest = max(cuts.files, key=lambda file: file.duration_s)
    page.picture(
        plot_cuts(read_audio(longest.source), longest.clips, title=longest.source.name),
        "One recording, cut at its pauses: the tinted pieces became training clips.",
    )
    lengths = {settings.target: [clip.duration_s for clip in clips]}
    page.picture(plot_clip_lengths(lengths), "Length of the training clips.")
    if training.history_path.is_file():
        page.picture(
            plot_losses(training.history_path),
            "Losses while training: each should fall steeply first, then slowly. mel is the one to watch.",
        )


def _made_files(folder: Path) -> list[Path]:
    """What a person may want to open; shards and optimiser states are named by their folders."""
    patterns = ("converted/*", "voice/G_*.pth", "voice/config.json", "voice/history.jsonl", "report.html")
    return [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]


def _from_project(path: Path) -> str:
    """Path as seen from the project's folder, which is the current one."""
    full, here = path.resolve(), Path.cwd().resolve()
    return full.relative_to(here).as_posix() if here in full.parents else full.as_posix()
