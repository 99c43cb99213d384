"""Does a converted voice still say the words, and does it sound like the target?

    python -m tests.benchmarks.measure_words VOICE [VOICE ...] --target LJ_FOLDER --readers FOLDER [FOLDER ...]

One row per voice: word error rate (pocketsphinx) of flite's slt and rms
speaking known sentences and of the target's own sentences that the training did not see, all converted;
Resemblyzer cosine of the converted readers to the target. The first row is the recordings as they are.
Needs flite, and `transcripts.csv` (file|text) in the target's folder for the sentences named by --unseen.
Recordings are moved to the target's middle pitch by whole semitones.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pretrain.phones import SAMPLE_RATE_HZ, speak
from pretrain.sentences import TEST_SENTENCES
from svcnb.audio import Audio, find_audio_files, read_audio
from svcnb.conversion import ConversionSettings
from svcnb.evaluation import SpeakerSimilarity
from svcnb.evaluation_words import WordRecogniser, find_transcript, total_errors
from svcnb.recipes.sovits import Voice, load_voice

N_REFERENCES = 12
FLITE_VOICES = ("slt", "rms")
Change = Callable[[Audio], Audio]


@dataclass(frozen=True)
class Spoken:
    """A recording and its words."""

    audio: Audio
    text: str


def flite_sentences(voice: str, n: int) -> list[Spoken]:
    return [Spoken(Audio(speak(text, voice).samples, SAMPLE_RATE_HZ), text) for text in TEST_SENTENCES[:n]]


def own_sentences(folder: Path, names: Sequence[str]) -> list[Spoken]:
    return [Spoken(read_audio(path), find_transcript(path)) for path in find_audio_files(folder) if path.stem in names]


def converted(voice: Voice, audio: Audio) -> Audio:
    moved = round(voice.suggest_transpose(voice.estimate_f0(audio)) or 0)
    return voice.convert(audio, ConversionSettings(transpose_semitones=moved))


def _unchanged(audio: Audio) -> Audio:
    return audio


def word_error_rate(spoken: Sequence[Spoken], change: Change, recogniser: WordRecogniser) -> float:
    """Word errors of all recordings together, after the change, as a share of their words."""
    return total_errors([recogniser.count_errors(change(one.audio), one.text) for one in spoken]).rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("voices", type=Path, nargs="+")
    parser.add_argument("--target", type=Path, required=True, help="folder with recordings of the target")
    parser.add_argument("--readers", type=Path, nargs="+", required=True, help="folders of recordings to convert")
    parser.add_argument("--unseen", nargs="+", required=True, help="names of the target's sentences kept out of training")
    parser.add_argument("--most", type=int, default=5, help="recordings per reader")
    parser.add_argument("--sentences", type=int, default=len(TEST_SENTENCES), help="that flite speaks")
    options = parser.parse_args()
    similarity, recogniser = SpeakerSimilarity(), WordRecogniser()
    references = find_audio_files(options.target)[-N_REFERENCES:]
    words = {f"words wrong, flite {voice}": flite_sentences(voice, options.sentences) for voice in FLITE_VOICES}
    words["target's own"] = own_sentences(options.target, options.unseen)
    readers = {f"similarity {f.name}": [read_audio(p) for p in find_audio_files(f)[: options.most]] for f in options.readers}
    print("| voice | " + " | ".join([*words, *readers]) + " |\n|" + "---|" * (1 + len(words) + len(readers)))
    for folder in [None, *options.voices]:
        voice = folder and load_voice(folder)
        change = partial(converted, voice) if voice else _unchanged
        figures = [word_error_rate(spoken, change, recogniser) for spoken in words.values()]
        figures += [similarity.compare([change(audio) for audio in own], references) for own in readers.values()]
        name = folder.name if folder else "recordings"
        print(f"| {name} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |", flush=True)



if __name__ == "__main__":
    main()
