"""Make the demo voices: two synthetic speakers and one synthetic song, as small FLAC files.

Needs the Debian package flite, and pyworld (`pip install "svcnb[f0,loudness]"`). Users of svcnb need neither:
the files are in the repository. Run from the checkout's root:

    python data/demo/make_demo_voices.py [--folder data/demo]

flite synthesizes the sentences of transcripts.csv; WORLD analyses this speech into f0, spectral envelope and
aperiodicity, and resynthesizes it as another speaker: another vocal tract length, another median f0, larger
f0 movements. The song is speech whose vowels are stretched to notes.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import tempfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from svcnb.audio.audio import Audio, read_audio, write_audio
from svcnb.audio.loudness import level

RATE_HZ = 22050
FRAME_S = 0.005
LOUDNESS_LUFS = -20.0
ROOM_TONE = 10 ** (-66 / 20)  # pauses are quiet, not digital zero
SPEECH_BAND_HZ = 7300.0  # flite's voices end at 8 kHz: the band above is filled by mirroring
VOWELS = frozenset("aa ae ah ao aw ax ay eh er ey ih iy ow oy uh uw".split())


@dataclass(frozen=True)
class Speaker:
    """How a flite voice is changed into a speaker."""

    flite_voice: str
    floor_hz: float  # lower limit of f0 estimation
    f0_hz: float  # wanted median
    tract_ratio: float  # above 1: formants move up, as in a shorter vocal tract
    movement_ratio: float  # factor on the f0 movements, in semitones
    wander_semitones: float  # slow random f0 movement, added


SPEAKERS = {
    "ada": Speaker("slt", 120.0, f0_hz=205.0, tract_ratio=0.97, movement_ratio=1.4, wander_semitones=0.8),
    "bruno": Speaker("rms", 60.0, f0_hz=97.0, tract_ratio=0.93, movement_ratio=1.4, wander_semitones=1.0),
}
# The singer's f0 comes from the notes.
SINGER = Speaker("awb", 70.0, f0_hz=220.0, tract_ratio=1.03, movement_ratio=0.0, wander_semitones=0.0)

BEAT_S = 0.5
# One line per phrase: the words, and for each syllable (MIDI note, beats).
SONG = (
    (
        "Morning light is on the water",
        ((55, 1), (59, 0.5), (62, 1), (62, 0.5), (64, 1), (62, 0.5), (59, 1), (57, 1.5)),
    ),
    ("All the boats are coming home", ((57, 1), (60, 0.5), (64, 1), (62, 0.5), (60, 1), (59, 0.5), (57, 2))),
    (
        "Sing it low and sing it longer",
        ((59, 1), (59, 0.5), (55, 1.5), (57, 0.5), (59, 1), (62, 0.5), (64, 1), (62, 1)),
    ),
    ("No one has to sing alone", ((66, 1), (64, 0.5), (62, 1), (59, 0.5), (60, 1), (57, 0.5), (55, 2.5))),
)


@dataclass(frozen=True)
class Voice:
    """WORLD's analysis of a recording: f0 [N] in Hz (0 = unvoiced), envelope and aperiodicity [N, bins]."""

    f0_hz: np.ndarray
    envelope: np.ndarray
    aperiodicity: np.ndarray

    def sound(self) -> np.ndarray:
        import pyworld

        parts = (self.f0_hz, self.envelope, self.aperiodicity)
        return pyworld.synthesize(*(np.ascontiguousarray(part) for part in parts), RATE_HZ, FRAME_S * 1000)


def synthesize(text: str, flite_voice: str) -> tuple[Audio, list[tuple[str, float]]]:
    """flite's speech at RATE_HZ, and its phones with their end times (s)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "speech.wav")
        command = ["flite", "-voice", flite_voice, "-psdur", "-t", text, "-o", str(path)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        speech = read_audio(path, sample_rate_hz=RATE_HZ)
    phones = [(name, float(end)) for name, _, end in (item.partition(":") for item in printed.split())]
    return speech, phones


def analyse(speech: Audio, floor_hz: float) -> Voice:
    import pyworld

    samples = speech.samples.astype(np.float64)
    f0_hz, times_s = pyworld.harvest(
        samples, RATE_HZ, f0_floor=floor_hz, f0_ceil=400, frame_period=FRAME_S * 1000
    )
    f0_hz = pyworld.stonemask(samples, f0_hz, times_s, RATE_HZ)
    envelope = pyworld.cheaptrick(samples, f0_hz, times_s, RATE_HZ)
    return Voice(f0_hz, envelope, pyworld.d4c(samples, f0_hz, times_s, RATE_HZ))


def widen_band(voice: Voice) -> Voice:
    """Fill the empty band above flite's 8 kHz with the mirrored band below it, attenuated and noisy."""
    n_bins = voice.envelope.shape[1]
    bins_hz = np.arange(n_bins) * RATE_HZ / 2 / (n_bins - 1)
    first = int(np.searchsorted(bins_hz, SPEECH_BAND_HZ))
    mirrored = 2 * first - np.arange(first, n_bins)
    fall_db = 4 + 3 * (bins_hz[first:] - SPEECH_BAND_HZ) / 1000
    envelope, aperiodicity = voice.envelope.copy(), voice.aperiodicity.copy()
    envelope[:, first:] = envelope[:, mirrored] * 10 ** (-fall_db / 10)
    aperiodicity[:, first:] = np.maximum(aperiodicity[:, mirrored], 0.9)
    return replace(voice, envelope=envelope, aperiodicity=aperiodicity)


def change_tract(voice: Voice, ratio: float) -> Voice:
    """Stretch the spectral envelope along frequency: ratio 1.1 moves every formant up by 10 %."""
    n_bins = voice.envelope.shape[1]
    positions = np.arange(n_bins) / ratio
    low = np.minimum(positions.astype(int), n_bins - 2)
    fraction = np.minimum(positions - low, 1.0)
    logs = np.log(voice.envelope)
    warped = np.exp(logs[:, low] * (1 - fraction) + logs[:, low + 1] * fraction)
    return replace(voice, envelope=warped)


def change_f0(voice: Voice, speaker: Speaker, generator: np.random.Generator) -> Voice:
    """Move the median f0, enlarge its movements, add a slow random one; unvoiced frames stay unvoiced."""
    voiced = voice.f0_hz > 0
    semitones = 12 * np.log2(np.where(voiced, voice.f0_hz, 1.0))
    movement = (semitones - np.median(semitones[voiced])) * speaker.movement_ratio
    times_s = np.arange(len(voiced)) * FRAME_S
    for rate_hz in (0.3, 0.7, 1.3):
        phase, size = generator.uniform(0, 2 * np.pi), generator.uniform(0.3, 1.0)
        movement = movement + size * speaker.wander_semitones / 1.5 * np.sin(
            2 * np.pi * rate_hz * times_s + phase
        )
    movement = np.clip(movement, -8, 9)
    return replace(voice, f0_hz=np.where(voiced, speaker.f0_hz * 2 ** (movement / 12), 0.0))


def read_aloud(text: str, speaker: Speaker, generator: np.random.Generator) -> np.ndarray:
    """A recording of several sentences with pauses of 0.35-1.1 s."""
    sentences = [
        part.strip() for part in text.replace("?", "?|").replace(".", ".|").split("|") if part.strip()
    ]
    parts = [pause(0.3)]
    for sentence in sentences:
        speech, _ = synthesize(sentence, speaker.flite_voice)
        voice = change_tract(widen_band(analyse(speech, speaker.floor_hz)), speaker.tract_ratio)
        sound = change_f0(voice, speaker, generator).sound()
        parts += [trim_ends(sound), pause(generator.uniform(0.35, 1.1))]
    return np.concatenate(parts)


def trim_ends(sound: np.ndarray) -> np.ndarray:
    """Remove the quiet ends of flite's output; pauses are added separately."""
    loud = np.flatnonzero(np.abs(sound) > 0.01 * np.abs(sound).max())
    margin = int(0.03 * RATE_HZ)
    return sound[max(0, loud[0] - margin) : loud[-1] + margin]


def pause(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE_HZ))


# ------------------------------------------------------------------------------------------------ song


def synthesize_phrase(words: str, notes: tuple[tuple[int, float], ...]) -> np.ndarray:
    """One phrase: the vowel of every syllable is stretched until the syllable fills its note."""
    speech, phones = synthesize(words, SINGER.flite_voice)
    voice = change_tract(widen_band(analyse(speech, SINGER.floor_hz)), SINGER.tract_ratio)
    vowels = [index for index, (name, _) in enumerate(phones) if name in VOWELS]
    if len(vowels) != len(notes):
        raise ValueError(f"{words!r} has {len(vowels)} vowels and {len(notes)} notes: {phones}")
    starts_s = np.array([0.0, *(end for _, end in phones)])
    bounds_s = note_bounds(phones, vowels, starts_s, notes)
    n_frames = round(bounds_s[-1] / FRAME_S)
    times_s = np.arange(n_frames) * FRAME_S
    source_s = np.interp(times_s, bounds_s, starts_s)
    positions = np.clip(source_s / FRAME_S, 0, len(voice.f0_hz) - 1.001)
    low, fraction = positions.astype(int), (positions % 1)[:, None]
    logs = np.log(voice.envelope[low]) * (1 - fraction) + np.log(voice.envelope[low + 1]) * fraction
    envelope = np.exp(logs)
    aperiodicity = voice.aperiodicity[low] * (1 - fraction) + voice.aperiodicity[low + 1] * fraction
    in_vowel = np.isin(np.searchsorted(starts_s, source_s, side="right") - 1, vowels)
    voiced = (voice.f0_hz[low] > 0) | in_vowel
    aperiodicity = np.where(in_vowel[:, None], np.minimum(aperiodicity, 0.7), aperiodicity)
    f0_hz = note_curve(times_s, bounds_s[np.array(vowels)], notes)
    return Voice(np.where(voiced, f0_hz, 0.0), envelope, aperiodicity).sound()


def note_bounds(
    phones: list[tuple[str, float]],
    vowels: list[int],
    starts_s: np.ndarray,
    notes: tuple[tuple[int, float], ...],
) -> np.ndarray:
    """Start of each phone in the song, and end of the last; only the vowels are stretched."""
    durations_s = np.diff(starts_s)
    for number, (vowel, (_, beats)) in enumerate(zip(vowels, notes, strict=True)):
        following = vowels[number + 1] if number + 1 < len(vowels) else len(phones)
        consonants_s = durations_s[vowel + 1 : following].sum()
        durations_s[vowel] = max(0.08, beats * BEAT_S - consonants_s)
    return np.concatenate(([0.0], np.cumsum(durations_s)))


def note_curve(times_s: np.ndarray, onsets_s: np.ndarray, notes: tuple[tuple[int, float], ...]) -> np.ndarray:
    """f0 in Hz: notes joined by glides of 90 ms, vibrato of 5.5 Hz that grows on long notes."""
    number = np.clip(np.searchsorted(onsets_s, times_s, side="right") - 1, 0, len(notes) - 1)
    midi = np.array([note for note, _ in notes], dtype=float)
    age_s = times_s - onsets_s[number]
    glide = np.clip((age_s + 0.03) / 0.09, 0.0, 1.0)  # starts just before the onset of the vowel
    glide = glide * glide * (3 - 2 * glide)
    curve = midi[np.maximum(number - 1, 0)] * (1 - glide) + midi[number] * glide
    vibrato = 0.35 * np.clip((age_s - 0.25) / 0.3, 0.0, 1.0) * np.sin(2 * np.pi * 5.5 * age_s)
    return 440.0 * 2 ** ((curve + vibrato - 69) / 12)


def synthesize_song() -> np.ndarray:
    parts = [pause(0.3)]
    for words, notes in SONG:
        parts += [synthesize_phrase(words, notes), pause(0.35)]
    return np.concatenate(parts)


def save(path: Path, sound: np.ndarray, generator: np.random.Generator) -> None:
    """Write audio at a common loudness, with quiet room noise added."""
    audio = level(Audio(sound, RATE_HZ), mode="lufs", target_db=LOUDNESS_LUFS)
    room = generator.standard_normal(audio.n_samples) * ROOM_TONE
    write_audio(path, Audio(audio.samples + room.astype(np.float32), RATE_HZ))
    print(f"{path}: {audio.duration_s:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, default=Path(__file__).parent, help="where raw/ and song/ are written"
    )
    folder = parser.parse_args().folder
    table = Path(__file__).with_name("transcripts.csv")
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="|"))
    for row in rows:
        if row["file"].startswith("song/"):
            continue
        generator = np.random.default_rng(zlib.crc32(row["file"].encode()))
        speaker = SPEAKERS[row["file"].split("/")[1]]
        save(folder / row["file"], read_aloud(row["text"], speaker, generator), generator)
    save(folder / "song" / "melody.flac", synthesize_song(), np.random.default_rng(0))


if __name__ == "__main__":
    main()
