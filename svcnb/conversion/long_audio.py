"""Long recordings, piece by piece: slice at silence, convert each piece, put it back exactly where it was.

Nothing here knows a model family. A voice hands in one function, `convert_piece`, and everything about time
(slices, forced pieces, context, cross-fades, silence, the exact length) happens here, once for all families.
Memory stays flat: a piece is never longer than the cap, and finished pieces are yielded in order.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import soundfile
import torch

from svcnb.audio.audio import Audio
from svcnb.audio.loudness import follow_loudness, match_loudness_envelope
from svcnb.audio.recording import BLOCK_SAMPLES, Recording
from svcnb.audio.slicing import Slice, SliceSettings, find_slices_in, join_with_overlap
from svcnb.audio.spectral import SincResample
from svcnb.conversion.settings import ConversionSettings

AUTOMATIC_CROSSFADE_S = 0.05
EDGE_FADE_S = 0.005  # at silence: what a voice makes of a pause is quiet, but it need not be zero there
SHORTEST_PIECE_S = 0.2  # content encoders need a handful of frames; shorter pieces get silence behind them
DIGITAL_SILENCE = 1e-4  # -80 dBFS: nothing to convert, and a network would only add its own noise


@dataclass(frozen=True)
class PieceInput:
    """What a voice converts at once.

    The voice returns float32 at the same rate, one sample for each of `samples` (its whole frames times the hop;
    `samples` is a whole number of hops except with `like_original`, where the last part of a frame may be missing).
    It does not cut the context, match loudness or care about silence: that is done here.

    Attributes:
        samples: float32 [T] at the voice's rate, context included.
        sample_rate_hz: the voice's rate.
        n_pad_samples: context in front of the piece proper (and at least as much behind).
        start_s: where the piece proper starts in the whole recording, in seconds.
        duration_s: length of the piece proper in seconds.
    """

    samples: np.ndarray
    sample_rate_hz: int
    n_pad_samples: int
    start_s: float
    duration_s: float


ConvertPiece = Callable[[PieceInput], np.ndarray]


class _Frames(NamedTuple):
    """The voice's time grid."""

    rate_hz: int
    hop_samples: int


def pad_centred(samples: np.ndarray, length: int) -> np.ndarray:
    """Zeros on both sides up to `length` (an odd zero goes right); unchanged if already as long or longer."""
    missing = max(0, length - len(samples))
    return np.pad(samples, (missing // 2, missing - missing // 2))


def convert_long(
    audio: Audio,
    convert_piece: ConvertPiece,
    settings: ConversionSettings,
    *,
    output_hz: int,
    hop_samples: int = 512,
    show_progress: bool = False,
) -> Audio:
    """The whole recording converted, exactly as long as it came in.

    Args:
        audio: any rate, any length.
        convert_piece: the voice's function (see PieceInput).
        settings: slices, pieces, cross-fades, padding.
        output_hz: the voice's rate; pieces come and go at this rate.
        hop_samples: the voice's frame length at `output_hz`; pieces are filled up to whole frames.
        show_progress: a tqdm bar over the seconds of the recording.

    Returns:
        round(duration * output_hz) samples at `output_hz`. With `like_original` the length is the original
        program's: every slice and piece rounded up, cross-fades between pieces counted at the input's rate.
    """
    pieces = iter_converted(
        audio, convert_piece, settings, output_hz=output_hz, hop_samples=hop_samples, show_progress=show_progress
    )
    done = list(pieces)
    return Audio(np.concatenate(done) if done else np.zeros(0, np.float32), output_hz)


def iter_converted(
    audio: Recording,
    convert_piece: ConvertPiece,
    settings: ConversionSettings,
    *,
    output_hz: int,
    hop_samples: int = 512,
    show_progress: bool = False,
) -> Iterator[np.ndarray]:
    """The finished result in order, as float32 blocks to be appended to a file (arguments as in `convert_long`).

    With a recording on disk (`open_audio`) memory stays flat: only the pieces at work are in it.
    """
    from tqdm.auto import tqdm

    engine = _LikeOriginal if settings.like_original else _Exact
    blocks = engine(audio, convert_piece, settings, _Frames(output_hz, hop_samples)).blocks()
    look = {"bar_format": "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"}
    with tqdm(total=audio.duration_s, desc="convert", mininterval=0.5, disable=not show_progress, **look) as bar:
        for block in blocks:
            yield block
            bar.update(min(len(block) / output_hz, bar.total - bar.n))


def split_piece(n_samples: int, length: int, overlap: int, *, even: bool) -> list[tuple[int, int]]:
    """Start and end of forced pieces: each but the first starts `overlap` samples before its predecessor's end.

    `even` spreads the cuts so that the last piece is not a short rest.
    """
    if even:
        count = max(1, math.ceil(n_samples / length))
        cuts = [round(n_samples * i / count) for i in range(count + 1)]
    else:
        cuts = [*range(0, n_samples, length), n_samples]
    return [(a - overlap if a >= overlap and a > 0 else a, b) for a, b in zip(cuts, cuts[1:], strict=False)]


def _join_pieces(
    pieces: list[tuple[int, int]], convert: Callable[[int, int], np.ndarray], keep_ratio: float
) -> Iterator[np.ndarray]:
    """Converted pieces in order; the end of each is kept back until the piece that overlaps it is known."""
    held = np.zeros(0, np.float32)
    for i, (start, end) in enumerate(pieces):
        new = convert(start, end)
        early = max(0, len(held) - len(new))  # above 0 only where like_original counts overlaps at another rate
        yield held[:early]
        if early < len(held):
            new = join_with_overlap([held[early:], new], len(held) - early, keep_ratio)
        overlap = end - pieces[i + 1][0] if i + 1 < len(pieces) else 0
        n_ready = max(0, len(new) - overlap)
        held = new[n_ready:]
        yield new[:n_ready]


def _silence(n_samples: int) -> Iterator[np.ndarray]:
    for start in range(0, n_samples, BLOCK_SAMPLES):
        yield np.zeros(min(BLOCK_SAMPLES, n_samples - start), np.float32)


def _is_digital_silence(recording: Recording, start: int = 0, end: int | None = None) -> bool:
    end = recording.n_samples if end is None else end
    blocks = (recording.read(first, min(end, first + BLOCK_SAMPLES)) for first in range(start, end, BLOCK_SAMPLES))
    return all(float(np.abs(block).max(initial=0.0)) < DIGITAL_SILENCE for block in blocks)


class _Engine:
    """Slices of one recording, each converted in pieces. What differs: the sub-classes' timing of a piece."""

    def __init__(self, audio: Recording, convert_piece: ConvertPiece, settings: ConversionSettings, frames: _Frames):
        self.audio, self.convert_piece, self.settings, self.frames = audio, convert_piece, settings, frames

    def blocks(self) -> Iterator[np.ndarray]:
        """The whole result in order, float32."""
        threshold = SliceSettings(threshold_db=self.settings.slice_db)
        slices = find_slices_in(self.audio, threshold)
        self.check_level(slices)
        slices = [part for part in slices if part.end > part.start]
        for sounding, group in self.runs(slices):
            if sounding:
                yield from _join_pieces(self.pieces(group), self.convert, self.settings.crossfade_keep_ratio)
            else:
                yield from (zeros for part in group for zeros in _silence(self.n_output(part.end - part.start)))

    def is_sounding(self, part: Slice) -> bool:
        return not (part.silent or self.is_empty(part))

    def runs(self, slices: Sequence[Slice]) -> Iterator[tuple[bool, list[Slice]]]:
        """Slices that belong together, and whether there is anything to convert in them."""
        yield from ((self.is_sounding(part), [part]) for part in slices)

    def pieces(self, group: Sequence[Slice]) -> list[tuple[int, int]]:
        """Start and end of everything that is converted at once within one run."""
        return [(part.start + a, part.start + b) for part in group for a, b in self.split(part.end - part.start)]

    def run_voice(self, source: np.ndarray, start: int, end: int, n_pad: int) -> np.ndarray:
        """The voice's answer for a padded piece, loudness adjusted, context still on it."""
        rate_hz, ratio = self.frames.rate_hz, self.settings.loudness_envelope_ratio
        begin_s, length_s = start / self.audio.sample_rate_hz, (end - start) / self.audio.sample_rate_hz
        answer = self.convert_piece(PieceInput(source, rate_hz, n_pad, begin_s, length_s))
        result = np.asarray(answer, np.float32).reshape(-1)
        return self.adjust_loudness(source, result, ratio) if ratio != 1 else result


class _Exact(_Engine):
    """Our own timing: resampled once, real sound as context, every sample at its place."""

    def __init__(self, audio: Recording, convert_piece: ConvertPiece, settings: ConversionSettings, frames: _Frames):
        super().__init__(audio.resampled(frames.rate_hz), convert_piece, settings, frames)
        self.n_pad = round(settings.pad_seconds * frames.rate_hz)
        self.edges: set[int] = set()  # samples at which sound borders on silence

    def adjust_loudness(self, source: np.ndarray, result: np.ndarray, ratio: float) -> np.ndarray:
        n_both = min(len(source), len(result))
        return follow_loudness(source[:n_both], result[:n_both], self.frames.rate_hz, ratio)

    def runs(self, slices: Sequence[Slice]) -> Iterator[tuple[bool, list[Slice]]]:
        """Neighbours without silence between them are one run: their joins are cross-faded."""
        for sounding, group in groupby(slices, key=self.is_sounding):
            run = list(group)
            if sounding:
                self.edges = {run[0].start, run[-1].end} - {0, self.audio.n_samples}
            yield sounding, run

    def pieces(self, group: Sequence[Slice]) -> list[tuple[int, int]]:
        """As cut, but each slice after the first starts a little early, for a cross-fade over the cut."""
        pieces, cuts = super().pieces(group), {part.start for part in group[1:]}
        overlap = round(AUTOMATIC_CROSSFADE_S * self.frames.rate_hz)
        for i, (start, end) in enumerate(pieces):
            if start in cuts and i:
                before = pieces[i - 1]
                pieces[i] = (start - min(overlap, (before[1] - before[0]) // 2), end)
        return pieces

    def n_output(self, n_samples: int) -> int:
        return n_samples

    def check_level(self, slices: Sequence[Slice]) -> None:
        """Say so when the threshold makes the whole result silent: people look for hours for the reason."""
        if all(part.silent for part in slices) and not _is_digital_silence(self.audio):
            warnings.warn(
                f"nothing in this recording is louder than {self.settings.slice_db:g} dB, so the result is silent: "
                "lower slice_db (-sd) or make the recording louder",
                stacklevel=4,
            )

    def is_empty(self, part: Slice) -> bool:
        return _is_digital_silence(self.audio, part.start, part.end)

    def split(self, length: int) -> list[tuple[int, int]]:
        """Forced pieces within one slice: the user's where asked for, else only under the cap."""
        rate_hz, settings = self.frames.rate_hz, self.settings
        cap, per = round(settings.max_piece_s * rate_hz), round(settings.clip_seconds * rate_hz)
        overlap = round(settings.crossfade_seconds * rate_hz)
        if per and per + overlap <= cap:
            return split_piece(length, per, overlap, even=False)
        if length <= cap:
            return [(0, length)]
        overlap = overlap or round(AUTOMATIC_CROSSFADE_S * rate_hz)
        return split_piece(length, cap - overlap, overlap, even=True)

    def convert(self, start: int, end: int) -> np.ndarray:
        """One piece: float32 [end - start]."""
        rate_hz, hop = self.frames
        n_wanted = max(end - start, round(SHORTEST_PIECE_S * rate_hz)) + 2 * self.n_pad
        n_whole = -(-n_wanted // hop) * hop
        first = start - self.n_pad
        inside = self.audio.read(first, first + n_whole)
        source = np.pad(inside, (max(0, -first), n_whole - max(0, -first) - len(inside)))
        result = self.run_voice(source, start, end, self.n_pad)
        if len(result) < self.n_pad + end - start:
            raise ValueError(f"the voice returned {len(result)} samples for a piece of {n_whole}: expected as many")
        return self.faded(result[self.n_pad : self.n_pad + end - start], start, end)

    def faded(self, result: np.ndarray, start: int, end: int) -> np.ndarray:
        """No step where a run begins after silence or ends in it."""
        ramp = np.linspace(0, 1, min(len(result) // 2, round(EDGE_FADE_S * self.frames.rate_hz)), dtype=np.float32)
        result = np.array(result, np.float32)
        if start in self.edges and len(ramp):
            result[: len(ramp)] *= ramp
        if end in self.edges and len(ramp):
            result[-len(ramp) :] *= ramp[::-1]
        return result


class _LikeOriginal(_Engine):
    """The timing of so-vits-svc 4.1's inference, to compare results sample by sample.

    Source: so-vits-svc 4.1-Stable, slice_inference and infer (16-bit steps, sinc resampler, zeros around pieces;
    cross-fade lengths count samples of the input's rate, a piece that came out short is centred between zeros).
    """

    def __init__(self, audio: Recording, convert_piece: ConvertPiece, settings: ConversionSettings, frames: _Frames):
        super().__init__(audio, convert_piece, settings, frames)
        same_rate = audio.sample_rate_hz == frames.rate_hz
        self.resample = None if same_rate else SincResample(audio.sample_rate_hz, frames.rate_hz)

    def adjust_loudness(self, source: np.ndarray, result: np.ndarray, ratio: float) -> np.ndarray:
        return match_loudness_envelope(source, self.frames.rate_hz, result, self.frames.rate_hz, ratio)

    def n_output(self, n_samples: int) -> int:
        return math.ceil(n_samples / self.audio.sample_rate_hz * self.frames.rate_hz)

    def check_level(self, slices: Sequence[Slice]) -> None:
        """The original says nothing."""

    def is_empty(self, part: Slice) -> bool:
        return False

    def split(self, length: int) -> list[tuple[int, int]]:
        rate_hz = self.audio.sample_rate_hz
        per, overlap = int(self.settings.clip_seconds * rate_hz), int(self.settings.crossfade_seconds * rate_hz)
        return split_piece(length, per, overlap, even=False) if per else [(0, length)]

    def convert(self, start: int, end: int) -> np.ndarray:
        n_pad = int(self.audio.sample_rate_hz * self.settings.pad_seconds)
        source = _through_pcm16(np.pad(self.audio.read(start, end), n_pad), self.audio.sample_rate_hz)
        if self.resample is not None:
            source = self.resample(torch.from_numpy(source)).numpy()
        n_pad = int(self.frames.rate_hz * self.settings.pad_seconds)
        result = self.run_voice(source, start, end, n_pad)
        return pad_centred(result[n_pad : len(result) - n_pad], self.n_output(end - start))


def _through_pcm16(samples: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Written to a 16-bit WAV in memory and read back: quantised, clipped beyond +-1."""
    stored = io.BytesIO()
    soundfile.write(stored, samples, sample_rate_hz, format="WAV", subtype="PCM_16")
    stored.seek(0)
    return soundfile.read(stored, dtype="float32")[0]
