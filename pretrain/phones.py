"""Speech with phone labels: from flite's timings, or pocketsphinx's alignment of a transcript.

The phones are the 39 of the CMU dictionary (American English) and silence. Labels are per frame of 20 ms,
frame i centered on sample (i + 0.5) * 320 at 16 kHz, the encoders' frame grid.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from svcnb import SvcError
from svcnb.audio.audio import read_audio

SAMPLE_RATE_HZ = 16000
FRAME_S = 0.02
SPHINX_FRAME_S = 0.01
PHONES = tuple(
    "SIL AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH".split()
)
SILENCE = PHONES.index("SIL")
VOWELS = frozenset("AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split())
# The dictionary is American: these phones are unreliable for a British voice.
GUESSED = {"en-US": frozenset[str](), "en-GB": VOWELS | {"R"}}
PICO_VOLUME = 40  # percent: at 100 it clips
# names beyond the 39: flite's schwa and pause, pocketsphinx's noises (breath, cough, other)
ALIASES = {"AX": "AH", "PAU": "SIL", "H#": "SIL", "BRTH": "SIL", "+SPN+": "SIL", "+NSN+": "SIL"}


@dataclass(frozen=True)
class Phone:
    """One phone: its number in PHONES, end time, and confidence of its label, 0..1."""

    index: int
    end_s: float
    trust: float = 1.0


@dataclass(frozen=True)
class LabelledClip:
    """One clip: text, speaker, float32 samples [T] at 16 kHz, and phones in order from 0 s on (maybe none)."""

    text: str
    speaker: str
    samples: np.ndarray
    phones: tuple[Phone, ...]

    def frame_labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Phone number int64 [N] and trust float32 [N] per frame, N = T // 320; trust is 0 after the last phone."""
        n_frames = max(1, len(self.samples) // round(FRAME_S * SAMPLE_RATE_HZ))
        labels, trust = np.full(n_frames, SILENCE), np.zeros(n_frames, np.float32)
        ends = np.array([phone.end_s for phone in self.phones])
        which = np.searchsorted(ends, (np.arange(n_frames) + 0.5) * FRAME_S, side="right")
        inside = which < len(ends)
        labels[inside] = np.array([phone.index for phone in self.phones], int)[which[inside]]
        trust[inside] = np.array([phone.trust for phone in self.phones], np.float32)[which[inside]]
        return labels, trust


def phone_index(name: str) -> int:
    """Number of a phone by flite's or pocketsphinx's name.

    Raises:
        SvcError: unknown name.
    """
    plain = name.upper()
    plain = ALIASES.get(plain, plain)
    if plain not in PHONES:
        raise SvcError(
            f"phone {name!r} is not known, expected one of {' '.join(PHONES)} or {' '.join(ALIASES)}"
        )
    return PHONES.index(plain)


def synthesize(text: str, voice: str, *, stretch: float = 1.0, pitch_hz: float | None = None) -> LabelledClip:
    """Synthesize a text with a flite voice, with the exact phone timings.

    Args:
        voice: rms, awb, slt (statistical), kal16 or kal (diphones, 16 and 8 kHz).
        stretch: factor of all durations; 1 is the voice's default.
        pitch_hz: mean f0 instead of the voice's default (no effect on rms).
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        options = ["--setf", f"duration_stretch={stretch}"]
        if pitch_hz is not None:
            options += ["--setf", f"int_f0_target_mean={pitch_hz}"]
        printed = _flite("-voice", voice, *options, "-psdur", "-t", f"{text} ", "-o", str(path))
        samples = read_audio(path, sample_rate_hz=SAMPLE_RATE_HZ).samples
    pairs = [word.rsplit(":", 1) for word in printed.split()]
    return LabelledClip(
        text, f"flite-{voice}", samples, tuple(Phone(phone_index(name), float(end)) for name, end in pairs)
    )


def pronounce(word: str) -> list[int]:
    """Phones of a word, from flite's dictionary and its letter-to-sound rules.

    Raises:
        SvcError: no phones.
    """
    printed = _flite("-voice", "kal", "-ps", "-t", word, "none")
    phones = [index for name in printed.split() if (index := phone_index(name)) != SILENCE]
    if not phones:
        raise SvcError(f"{word!r} cannot be pronounced, expected a word of letters")
    return phones


class Pico:
    """SVOX Pico, Android's former speech synthesiser (female voices); without timings, so pocketsphinx aligns it.

    Args:
        language: en-US or en-GB.
        aligner: shared by several voices.
    """

    def __init__(self, language: str, aligner: Aligner) -> None:
        try:
            from ttspico import TtsEngine
        except ImportError as error:
            raise SvcError("Pico's voices need the program's module: pip install ttspico") from error
        self.speaker = f"pico-{language}"
        self._engine = TtsEngine(language)
        self._engine.volume = PICO_VOLUME
        self._aligner, self._guessed = aligner, {PHONES.index(name) for name in GUESSED[language]}

    def synthesize(self, text: str, *, pace: float = 1.0, pitch: float = 1.0) -> LabelledClip:
        """Synthesize a text; pace (0.2 to 5) and pitch (0.5 to 2) are relative to the voice's defaults."""
        self._engine.rate, self._engine.pitch = round(100 * pace), round(100 * pitch)
        # TtsEngine.speak is ttspico's own name
        samples = np.frombuffer(self._engine.speak(text), np.int16).astype(np.float32) / 32768
        clip = self._aligner.align_text(self.speaker, samples, text)
        phones = (
            replace(phone, trust=0.0) if phone.index in self._guessed else phone for phone in clip.phones
        )
        return replace(clip, phones=tuple(phones))


class Aligner:
    """pocketsphinx with the English model of its package: transcription and phone alignment."""

    def __init__(self) -> None:
        try:
            from pocketsphinx import Decoder
        except ImportError as error:
            raise SvcError("aligning speech needs pocketsphinx: pip install pocketsphinx") from error
        self._decoder = Decoder(samprate=SAMPLE_RATE_HZ, loglevel="ERROR")

    def align(self, speaker: str, samples: np.ndarray) -> LabelledClip:
        """Clip with the phones of the best hypothesis; trust is the posterior probability of the word."""
        decoder = self._decoder
        self._decode(samples)
        if decoder.hyp() is None:
            return LabelledClip("", speaker, samples, ())
        trust = [float(min(1.0, segment.prob)) for segment in decoder.seg()]
        transcript = decoder.hyp().hypstr
        phones = self._phones(samples, trust)
        decoder.activate_search("_default")
        return LabelledClip(transcript, speaker, samples, phones)

    def align_text(self, speaker: str, samples: np.ndarray, text: str) -> LabelledClip:
        """Clip with the phones of a known text, trust 1; no phones if the alignment fails.

        Words that are not in pocketsphinx's dictionary get flite's pronunciation.

        Raises:
            SvcError: a word that flite cannot pronounce either.
        """
        words = text.lower().split()
        for word in words:
            if self._decoder.lookup_word(word) is None:
                self._decoder.add_word(word, " ".join(PHONES[index] for index in pronounce(word)), True)
        self._decoder.set_align_text(" ".join(words))
        try:
            self._decode(samples)
            found = list(self._decoder.seg() or ())
            complete = [plain for segment in found if (plain := segment.word.split("(")[0]) in words] == words
            phones = self._phones(samples, [1.0] * len(found)) if complete else ()
        except RuntimeError:  # no alignment up to the end of the audio
            phones = ()
        self._decoder.activate_search("_default")
        return LabelledClip(text, speaker, samples, phones)

    def _phones(self, samples: np.ndarray, trust: list[float]) -> tuple[Phone, ...]:
        """Phones of the last decoded words, with a trust per word."""
        decoder = self._decoder
        decoder.set_alignment()
        self._decode(samples)
        phones: list[Phone] = []
        for word, word_trust in zip(decoder.get_alignment(), trust, strict=True):
            for phone in word:
                end_s = (phone.start + phone.duration) * SPHINX_FRAME_S
                phones.append(Phone(phone_index(phone.name), end_s, word_trust))
        return tuple(phones)

    def _decode(self, samples: np.ndarray) -> None:
        self._decoder.reinit_feat()  # reset the level estimates of the previous recording
        self._decoder.start_utt()
        self._decoder.process_raw((samples * 32767).astype(np.int16).tobytes(), full_utt=True)
        self._decoder.end_utt()


def _flite(*arguments: str) -> str:
    """Run flite and return its output."""
    try:
        return subprocess.run(["flite", *arguments], check=True, capture_output=True, text=True).stdout
    except FileNotFoundError as error:
        raise SvcError(
            "flite is not installed, expected the program in PATH: apt-get install flite"
        ) from error


def split_texts(texts: Sequence[str], n_words: int) -> list[str]:
    """Split texts into parts of at most `n_words` words."""
    parts: list[str] = []
    for text in texts:
        words = text.split()
        parts += [" ".join(words[start : start + n_words]) for start in range(0, len(words), n_words)]
    return parts
