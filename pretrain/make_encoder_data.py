"""Make the training data of the learned encoder: labelled clips in one folder, one .npz each.

    python -m pretrain.make_encoder_data DATA --recordings FOLDER [FOLDER ...] [--without 2033 3080] --moonshine FOLDER

1. Every recording is transcribed by Moonshine and aligned by pocketsphinx. If the alignment fails,
pocketsphinx
   aligns its own transcript, and the confidence of a label is the posterior probability of its word.
2. The transcripts and sentences of random words from pocketsphinx's dictionary are synthesized with flite's
voices
   rms, awb and kal16 (male) and Pico's (female, American and British); takes about 0.04 s per second. flite's
   slt is held out for evaluation.

Every clip is stored with Moonshine's encoder features per frame.

An interrupted call resumes where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm.auto import tqdm

from pretrain.moonshine import Moonshine
from pretrain.phones import SAMPLE_RATE_HZ, Aligner, LabelledClip, Pico, split_texts, synthesize
from svcnb import SvcError
from svcnb.audio.audio import find_audio_files, read_audio
from svcnb.files.disk import atomic_path

WORDS_PER_SENTENCE = 12
FLITE_VOICES = ("rms", "awb", "kal16")
FLITE_STRETCH = (0.75, 1.15)  # its default rate is slow
FLITE_PITCH_HZ = (80.0, 280.0)
PICO_PACE = (0.8, 1.25)
PICO_PITCH = (0.65, 1.3)
SpeechSynthesis = Callable[[str, np.random.Generator], LabelledClip]


def save_clip(clip: LabelledClip, teacher: Tensor, path: Path) -> None:
    """Write samples int16 [T], labels uint8 [N], trust float16 [N], "heard" (teacher) float16 [N, H], speaker, text."""
    labels, trust = clip.frame_labels()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        samples = (clip.samples.clip(-1, 1) * 32767).astype(np.int16)
        np.savez(
            file,
            samples=samples,
            labels=labels.astype(np.uint8),
            trust=trust.astype(np.float16),
            heard=teacher.numpy().astype(np.float16),
            speaker=np.array(clip.speaker),
            text=np.array(clip.text),
        )


def speaker_of(path: Path) -> str:
    """LibriSpeech's file names begin with the reader's number; for others the folder is the speaker."""
    return path.stem.split("-")[0] if "-" in path.stem else path.parent.name


def recordings(folders: list[Path], without: list[str]) -> Iterator[tuple[Path, str]]:
    for folder in folders:
        for path in find_audio_files(folder):
            if speaker_of(path) not in without:
                yield path, speaker_of(path)


def align_recordings(found: list[tuple[Path, str]], folder: Path, moonshine: Moonshine) -> list[str]:
    """Label each recording once; returns the transcripts."""
    aligner, texts = Aligner(), []
    for path, speaker in tqdm(found, desc="recordings"):
        target = folder / "speech" / f"{path.stem}.npz"
        if not target.exists():
            samples = read_audio(path, sample_rate_hz=SAMPLE_RATE_HZ).samples
            clip = aligner.align_text(speaker, samples, moonshine.transcribe(samples))
            if not clip.phones:  # alignment failed: pocketsphinx's own transcript, with lower confidence
                clip = aligner.align(speaker, samples)
            save_clip(clip, moonshine.features(samples), target)
        texts.append(str(np.load(target)["text"]))
    return texts


def random_sentences(n: int, *, seed: int) -> list[str]:
    """Sentences of words drawn uniformly from pocketsphinx's dictionary."""
    from pocketsphinx import get_model_path

    lines = Path(get_model_path(), "en-us", "cmudict-en-us.dict").read_text(encoding="utf-8").splitlines()
    words = [line.split()[0] for line in lines if line.split()[0].isalpha()]
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(words, WORDS_PER_SENTENCE * 2 // 3)) for _ in range(n)]


def synthesize_texts(
    texts: list[str], voices: dict[str, SpeechSynthesis], folder: Path, moonshine: Moonshine, *, seed: int
) -> None:
    """Synthesize texts with alternating voices; texts without a phone alignment are left out."""
    for number, text in enumerate(tqdm(texts, desc=folder.name)):
        name = list(voices)[number % len(voices)]
        target = folder / f"{number:05d}_{name}.npz"
        if not target.exists():
            clip = voices[name](text, np.random.default_rng([seed, number]))
            if clip.phones:
                save_clip(clip, moonshine.features(clip.samples), target)


def flite_voices() -> dict[str, SpeechSynthesis]:
    """flite's voices, with random pace and f0 for each text."""

    def with_voice(voice: str) -> SpeechSynthesis:
        return lambda text, generator: synthesize(
            text,
            voice,
            stretch=_between(FLITE_STRETCH, generator),
            pitch_hz=_between(FLITE_PITCH_HZ, generator),
        )

    return {voice: with_voice(voice) for voice in FLITE_VOICES}


def pico_voices() -> dict[str, SpeechSynthesis]:
    """Pico's voices likewise; two of three texts with the American voice."""
    aligner = Aligner()
    us, gb = (Pico(language, aligner) for language in ("en-US", "en-GB"))

    def with_voice(voice: Pico) -> SpeechSynthesis:
        return lambda text, generator: voice.synthesize(
            text, pace=_between(PICO_PACE, generator), pitch=_between(PICO_PITCH, generator)
        )

    return {"us1": with_voice(us), "us2": with_voice(us), "gb": with_voice(gb)}


def _between(limits: tuple[float, float], generator: np.random.Generator) -> float:
    """Log-uniform random number."""
    return float(np.exp(generator.uniform(*np.log(limits))))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder to fill")
    parser.add_argument("--recordings", type=Path, nargs="+", required=True, help="folders of read English")
    parser.add_argument("--without", nargs="*", default=[], help="speakers to leave out")
    parser.add_argument(
        "--moonshine",
        type=Path,
        required=True,
        help="folder of its unpacked packages, see pretrain/moonshine.py",
    )
    parser.add_argument("--n-random", type=int, default=500, help="sentences of random words")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    found = list(recordings(options.recordings, options.without))
    if not found:
        raise SvcError(
            f"no recordings in {', '.join(map(str, options.recordings))}, expected folders with audio files"
        )
    moonshine = Moonshine(options.moonshine)
    texts = split_texts(align_recordings(found, options.data, moonshine), WORDS_PER_SENTENCE)
    for name, voices in (("flite", flite_voices()), ("pico", pico_voices())):
        all_texts = [*random_sentences(options.n_random, seed=options.seed), *texts]
        synthesize_texts(all_texts, voices, options.data / name, moonshine, seed=options.seed)


if __name__ == "__main__":
    main()
