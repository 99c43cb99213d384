"""How good a voice is, in figures: convert recordings of other people and compare with the target's own.

    python -m tests.benchmarks.measure_voice data/models/lj --target LJ_FOLDER --sources FOLDER [FOLDER ...]

Prints one row per source folder, means over its recordings: Resemblyzer cosine of source and result to the mean of
the target's recordings, correlation of log f0 in frames voiced in both, share of frames that differ in voicing.
Every recording is moved to the target's middle pitch, by whole semitones; --octaves moves by whole octaves only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from svcnb.audio import find_audio_files, read_audio
from svcnb.conversion import ConversionSettings
from svcnb.evaluation import ConversionReport, Melodies, SpeakerSimilarity, evaluate_conversion
from svcnb.recipes.sovits import Voice, load_voice

N_REFERENCES = 12


def measure(voice: Voice, path: Path, references: list[Path], *, similarity: SpeakerSimilarity, step: int) -> ConversionReport:
    """One recording converted and compared."""
    source = read_audio(path)
    melody = voice.estimate_f0(source)
    moved = step * round((voice.suggest_transpose(melody) or 0) / step)
    result = voice.convert(source, ConversionSettings(transpose_semitones=moved))
    melodies = Melodies(melody, voice.estimate_f0(result))
    return evaluate_conversion(source, result, references, melodies=melodies, similarity=similarity)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("voice", type=Path)
    parser.add_argument("--target", type=Path, required=True, help="folder with recordings of the target")
    parser.add_argument("--sources", type=Path, nargs="+", required=True, help="folders of recordings to convert")
    parser.add_argument("--most", type=int, default=10, help="recordings per folder")
    parser.add_argument("--octaves", action="store_true", help="move by whole octaves, as songs need it")
    options = parser.parse_args()
    voice, similarity = load_voice(options.voice), SpeakerSimilarity()
    own = find_audio_files(options.target)
    references = own[-N_REFERENCES:]
    print("| source | n | similarity of source | of result | f0 correlation | voicing differs |\n|---|---|---|---|---|---|")
    for folder in options.sources:
        paths = find_audio_files(folder)[: options.most]
        step = 12 if options.octaves else 1
        done = [measure(voice, path, references, similarity=similarity, step=step) for path in paths]
        source, result = (np.mean([getattr(r, f"similarity_{kind}") for r in done]) for kind in ("source", "result"))
        pitch = [(r.pitch.correlation, r.pitch.voicing_error_ratio) for r in done]
        correlation, voicing = np.nanmean(pitch, axis=0)
        print(f"| {folder.name} | {len(done)} | {source:.2f} | {result:.2f} | {correlation:.3f} | {voicing:.0%} |", flush=True)


if __name__ == "__main__":
    main()
