"""Collect what the learned encoder is trained on: labelled clips in one folder, one .npz each.

    python -m pretrain.make_encoder_data DATA --recordings FOLDER [FOLDER ...] [--without 2033 3080]

1. Every recording is understood and aligned by pocketsphinx (about 0.3 s per second of speech on one core);
   a label is trusted as far as the word's posterior probability goes.
2. flite's voices rms, awb and kal16 (men) and Pico's (women, American and British) speak what was understood and
   sentences of random words of pocketsphinx's dictionary (about 0.04 s per second); flite's slt is kept out, for
   measuring.

Stopped and started again, it continues.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from pretrain.phones import SAMPLE_RATE_HZ, Aligner, LabelledClip, Pico, pieces, speak
from svcnb import SvcError
from svcnb.audio import find_audio_files, read_audio
from svcnb.checkpoint import atomic_path

VOICES = ("rms", "awb", "kal16")
WORDS_PER_SENTENCE = 12
STRETCH = (0.75, 1.15)  # flite speaks slowly
PITCH_HZ = (80.0, 280.0)
PICO_LANGUAGES = ("en-US", "en-US", "en-GB")  # taking turns
PICO_PACE = (0.8, 1.25)
PICO_PITCH = (0.65, 1.3)


def save_clip(clip: LabelledClip, path: Path) -> None:
    """samples int16 [T], labels uint8 [N], trust float16 [N], speaker, text."""
    labels, trust = clip.frame_labels()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        samples = (clip.samples.clip(-1, 1) * 32767).astype(np.int16)
        np.savez(
            file,
            samples=samples,
            labels=labels.astype(np.uint8),
            trust=trust.astype(np.float16),
            speaker=np.array(clip.speaker),
            text=np.array(clip.text),
        )


def speaker_of(path: Path) -> str:
    """LibriSpeech's file names begin with the reader's number; other recordings count as their folder's voice."""
    return path.stem.split("-")[0] if "-" in path.stem else path.parent.name


def recordings(folders: list[Path], without: list[str]) -> Iterator[tuple[Path, str]]:
    for folder in folders:
        for path in find_audio_files(folder):
            if speaker_of(path) not in without:
                yield path, speaker_of(path)


def align_recordings(found: list[tuple[Path, str]], folder: Path) -> list[str]:
    """Label each recording once; the texts that were understood."""
    aligner, texts = None, []
    for path, speaker in tqdm(found, desc="aligning"):
        target = folder / "speech" / f"{path.stem}.npz"
        if not target.exists():
            aligner = aligner or Aligner()
            samples = read_audio(path, sample_rate_hz=SAMPLE_RATE_HZ).samples
            save_clip(aligner.align(speaker, samples), target)
        texts.append(str(np.load(target)["text"]))
    return texts


def random_sentences(n: int, *, seed: int) -> list[str]:
    """Words of pocketsphinx's dictionary, each as likely as any other."""
    from pocketsphinx import get_model_path

    lines = Path(get_model_path(), "en-us", "cmudict-en-us.dict").read_text(encoding="utf-8").splitlines()
    words = [line.split()[0] for line in lines if line.split()[0].isalpha()]
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(words, WORDS_PER_SENTENCE * 2 // 3)) for _ in range(n)]


def speak_all(texts: list[str], folder: Path, *, seed: int) -> None:
    """flite's voices take turns, each text at another pace and pitch."""
    generator = np.random.default_rng(seed)
    for number, text in enumerate(tqdm(texts, desc="flite")):
        voice = VOICES[number % len(VOICES)]
        stretch, pitch_hz = float(generator.uniform(*STRETCH)), _between(PITCH_HZ, generator)
        target = folder / "flite" / f"{number:05d}_{voice}.npz"
        if not target.exists():
            save_clip(speak(text, voice, stretch=stretch, pitch_hz=pitch_hz), target)


def speak_pico(texts: list[str], folder: Path, *, seed: int) -> None:
    """The same by Pico's voices; where pocketsphinx finds no way through the words, the text is left out."""
    aligner = Aligner()
    voices = {language: Pico(language, aligner) for language in PICO_LANGUAGES}
    generator = np.random.default_rng(seed)
    for number, text in enumerate(tqdm(texts, desc="Pico")):
        language = PICO_LANGUAGES[number % len(PICO_LANGUAGES)]
        pace, pitch = _between(PICO_PACE, generator), _between(PICO_PITCH, generator)
        target = folder / "pico" / f"{number:05d}_{language}.npz"
        if not target.exists():
            clip = voices[language].speak(text, pace=pace, pitch=pitch)
            if clip.phones:
                save_clip(clip, target)


def _between(limits: tuple[float, float], generator: np.random.Generator) -> float:
    """Any ratio as likely as any other."""
    return float(np.exp(generator.uniform(*np.log(limits))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder to fill")
    parser.add_argument("--recordings", type=Path, nargs="+", required=True, help="folders of read English")
    parser.add_argument("--without", nargs="*", default=[], help="readers to leave out")
    parser.add_argument("--n-random", type=int, default=500, help="sentences of random words")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    found = list(recordings(options.recordings, options.without))
    if not found:
        raise SvcError(f"no recordings in {', '.join(map(str, options.recordings))}, expected folders with audio files")
    texts = pieces(align_recordings(found, options.data), WORDS_PER_SENTENCE)
    speak_all([*random_sentences(options.n_random, seed=options.seed), *texts], options.data, seed=options.seed)
    speak_pico([*random_sentences(options.n_random, seed=options.seed + 1), *texts], options.data, seed=options.seed)


if __name__ == "__main__":
    main()
