"""Speaker similarity, f0 correlation and intelligibility of converted recordings.

    python -m tests.benchmarks.measure_voices VOICE [VOICE ...] --target FOLDER --readers FOLDER [FOLDER ...] \
        --unseen NAME [NAME ...] [--song FILE] [--trackers auto crepe]

Per voice, means over recordings:
- readers, converted: speaker similarity to the target (Resemblyzer cosine), correlation of log f0, fraction
  of frames that are voiced in only one of source and result;
- the target's own sentences that were not in the training data, converted, and resynthesized by posterior and
  decoder (copy synthesis): similarity and word error rate (pocketsphinx);
- flite's slt and rms speaking known sentences, converted: word error rate;
- the song: similarity and correlation.
Each f0 tracker is used for recordings and results alike; crepe (Viterbi) is the most reliable here, and takes
minutes. The first column has the unconverted recordings. Recordings are transposed to the target's median f0
by whole semitones, the song by whole octaves. Needs flite, and transcripts (see evaluation.words) for the
sentences named by --unseen.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pretrain.phones import SAMPLE_RATE_HZ, synthesize
from pretrain.sentences import TEST_SENTENCES
from svcnb.audio.audio import Audio, find_audio_files, read_audio
from svcnb.conversion.settings import ConversionSettings
from svcnb.conversion.voice import LoadedVoice
from svcnb.evaluation.metrics import SpeakerSimilarity, compare_pitch
from svcnb.evaluation.run import choose_transposition
from svcnb.evaluation.words import WordRecogniser, find_transcript, total_errors
from svcnb.models.auto import load_any_voice

N_REFERENCES = 12
FLITE_VOICES = ("slt", "rms")
Change = Callable[[Audio], Audio]


@dataclass(frozen=True)
class Spoken:
    """A recording and its words."""

    audio: Audio
    text: str


@dataclass
class Recordings:
    """All recordings to convert, read once."""

    readers: dict[str, list[Audio]]
    own: list[Spoken]
    flite: dict[str, list[Spoken]]
    song: Audio | None = None


@dataclass
class Metrics:
    """The loaded metrics."""

    references: list[Path]
    similarity: SpeakerSimilarity = field(default_factory=SpeakerSimilarity)
    recogniser: WordRecogniser = field(default_factory=WordRecogniser)

    def speaker_similarity(self, clips: Sequence[Audio]) -> float:
        return self.similarity.compare(clips, self.references)

    def word_error_rate(self, clips: Sequence[Audio], spoken: Sequence[Spoken]) -> float:
        """Word error rate over all recordings together."""
        pairs = zip(clips, spoken, strict=True)
        return total_errors([self.recogniser.count_errors(clip, one.text) for clip, one in pairs]).rate


def converted(voice: LoadedVoice, audio: Audio, *, sung: bool = False) -> Audio:
    suggested = voice.suggest_transpose(voice.estimate_f0(audio))
    return voice.convert(
        audio, ConversionSettings(transpose_semitones=choose_transposition(suggested, sung=sung))
    )


def f0_metrics(
    voice: LoadedVoice, name: str, sources: Sequence[Audio], results: Sequence[Audio], trackers: Sequence[str]
) -> dict[str, float]:
    """By tracker: mean correlation of log f0, and mean fraction of frames voiced in only one of the two."""
    found = {}
    for tracker in trackers:
        tracks = [[voice.estimate_f0(audio, tracker) for audio in sounds] for sounds in (sources, results)]
        pairs = [compare_pitch(*pair) for pair in zip(*tracks, strict=True)]
        found[f"{name} f0 corr, {tracker}"] = float(np.nanmean([pair.correlation for pair in pairs]))
        found[f"{name} voicing, {tracker}"] = float(np.mean([pair.voicing_error_ratio for pair in pairs]))
    return found


def measure(
    voice: LoadedVoice | None,
    recordings: Recordings,
    metrics: Metrics,
    *,
    trackers: Sequence[str] = ("auto",),
) -> dict[str, float]:
    """Metrics by name; of the recordings themselves if there is no voice."""
    change: Change = (lambda audio: converted(voice, audio)) if voice else (lambda audio: audio)
    found: dict[str, float] = {}
    for name, sources in recordings.readers.items():
        results = [change(audio) for audio in sources]
        found[f"{name} similarity"] = metrics.speaker_similarity(results)
        if voice:
            found |= f0_metrics(voice, name, sources, results, trackers)
    own = [change(one.audio) for one in recordings.own]
    found["own similarity"] = metrics.speaker_similarity(own)
    found["own word error rate"] = metrics.word_error_rate(own, recordings.own)
    if voice and voice.has_posterior:
        resynthesized = [voice.resynthesise(one.audio) for one in recordings.own]
        found["copy synthesis similarity"] = metrics.speaker_similarity(resynthesized)
        found["copy synthesis word error rate"] = metrics.word_error_rate(resynthesized, recordings.own)
    for name, spoken in recordings.flite.items():
        results = [change(one.audio) for one in spoken]
        found[f"{name} word error rate"] = metrics.word_error_rate(results, spoken)
    if recordings.song is not None:
        song = converted(voice, recordings.song, sung=True) if voice else recordings.song
        found["song similarity"] = metrics.speaker_similarity([song])
        if voice:
            found |= f0_metrics(voice, "song", [recordings.song], [song], trackers)
    return found


def read_recordings(options: argparse.Namespace) -> Recordings:
    own = [path for path in find_audio_files(options.target) if path.stem in options.unseen]
    return Recordings(
        readers={
            f.name: [read_audio(path) for path in find_audio_files(f)[: options.most]]
            for f in options.readers
        },
        own=[Spoken(read_audio(path), find_transcript(path)) for path in own],
        flite={
            name: [
                Spoken(Audio(synthesize(text, name).samples, SAMPLE_RATE_HZ), text)
                for text in TEST_SENTENCES[: options.sentences]
            ]
            for name in FLITE_VOICES
        },
        song=read_audio(options.song) if options.song else None,
    )


def as_table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown, one column per voice."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = ["| | " + " | ".join(rows) + " |", "|---" * (1 + len(rows)) + "|"]
    for name in names:
        cells = (f"{row[name]:.3f}" if name in row else "" for row in rows.values())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("voices", type=Path, nargs="+")
    parser.add_argument("--target", type=Path, required=True, help="folder with recordings of the target")
    parser.add_argument(
        "--readers", type=Path, nargs="+", required=True, help="folders of recordings to convert"
    )
    parser.add_argument("--unseen", nargs="+", required=True, help="names of sentences not trained on")
    parser.add_argument("--song", type=Path, help="a sung recording")
    parser.add_argument("--most", type=int, default=10, help="recordings per reader")
    parser.add_argument("--sentences", type=int, default=len(TEST_SENTENCES), help="number of them, by flite")
    parser.add_argument("--trackers", nargs="+", default=["auto"], help="f0 methods to measure with")
    options = parser.parse_args()
    recordings = read_recordings(options)
    metrics = Metrics(find_audio_files(options.target)[-N_REFERENCES:])
    rows = {"recordings": measure(None, recordings, metrics)}
    for folder in options.voices:
        rows[folder.name] = measure(load_any_voice(folder), recordings, metrics, trackers=options.trackers)
    print(as_table(rows))


if __name__ == "__main__":
    main()
