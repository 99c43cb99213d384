"""Chunked conversion of long recordings: cut at silence, add context, join at the exact positions.

    splitter = split_recording(audio, settings, sample_rate_hz=44100, hop_samples=512)
    for chunk in splitter.chunks():
        converted = ...  # float32 [len(chunk.samples)], from any voice
        for block in splitter.join(chunk, converted):
            writer.append(block)
    for block in splitter.finish():
        writer.append(block)

This module is independent of the model family. All timing (slices, forced cuts, context, cross-fades,
silence, the exact length) is here, once for all families. Memory use is constant: a chunk is never longer
than the limit, and finished blocks are yielded in order.
"""

from __future__ import annotations

import io
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

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
EDGE_FADE_S = 0.005  # next to silence: a voice's output in a pause is quiet, but not always zero
SHORTEST_CHUNK_S = 0.2  # content encoders need a few frames; shorter chunks are padded with silence
DIGITAL_SILENCE = 1e-4  # -80 dBFS: nothing to convert; a network would only add noise


@dataclass(frozen=True)
class Chunk:
    """A part of a recording that a voice converts in one pass.

    The voice returns float32 at the same rate, one sample for each of `samples` (the number of whole frames
    times the hop; `samples` is a whole number of hops except with `like_original`, where the last frame may
    be incomplete). It does not remove the context, match loudness or handle silence: `Splitter.join` does.

    Attributes:
        samples: float32 [T] at the voice's rate, context included.
        sample_rate_hz: the voice's rate.
        n_pad_samples: context in front of the chunk proper (and at least as much behind).
        start_s: where the chunk proper starts in the whole recording, in seconds.
        duration_s: length of the chunk proper in seconds.
        n_proper_samples: its length at the rate of the recording that was split.
        n_overlap_samples: how many of these overlap with the next chunk, for a cross-fade.
        n_silent_before_samples: silence in front of it that is not converted, at the voice's rate.
        fades_in, fades_out: whether silence is next to its start, its end.
    """

    samples: np.ndarray
    sample_rate_hz: int
    n_pad_samples: int
    start_s: float
    duration_s: float
    n_proper_samples: int = 0
    n_overlap_samples: int = 0
    n_silent_before_samples: int = 0
    fades_in: bool = False
    fades_out: bool = False

    @property
    def audio(self) -> Audio:
        return Audio(self.samples, self.sample_rate_hz)


@dataclass(frozen=True)
class _Span:
    """A chunk before its samples are read: start and end in the recording, overlap and silence around it."""

    start: int
    end: int
    n_overlap: int
    n_silent_before: int
    fades_in: bool
    fades_out: bool


def pad_centered(samples: np.ndarray, length: int) -> np.ndarray:
    """Zero-pad both sides to `length` (an odd zero on the right); unchanged if already as long or longer."""
    missing = max(0, length - len(samples))
    return np.pad(samples, (missing // 2, missing - missing // 2))


def cut_evenly(n_samples: int, length: int, overlap: int, *, even: bool) -> list[tuple[int, int]]:
    """Start and end of forced cuts: each but the first starts `overlap` samples before its predecessor's end.

    With `even` all have equal lengths; otherwise the last one is the rest.
    """
    if even:
        count = max(1, math.ceil(n_samples / length))
        cuts = [round(n_samples * i / count) for i in range(count + 1)]
    else:
        cuts = [*range(0, n_samples, length), n_samples]
    return [(a - overlap if a >= overlap and a > 0 else a, b) for a, b in zip(cuts, cuts[1:], strict=False)]


def split_recording(
    audio: Recording, settings: ConversionSettings, *, sample_rate_hz: int, hop_samples: int = 512
) -> Splitter:
    """Splitter of a recording into chunks for a voice, which also joins the converted chunks.

    Args:
        audio: any rate, any length. With a recording on disk (`open_audio`) memory use is constant.
        settings: slices, forced cuts, cross-fades, padding; `like_original` uses so-vits-svc's timing.
        sample_rate_hz: the voice's rate, of the chunks and of the converted chunks.
        hop_samples: the voice's frame length at that rate; chunks are filled up to whole frames.
    """
    kind = OriginalSplitter if settings.like_original else ExactSplitter
    return kind(audio, settings, sample_rate_hz, hop_samples)


class Splitter(ABC):
    """Slices of one recording, cut into chunks. Subclasses define the timing of a chunk."""

    def __init__(
        self, audio: Recording, settings: ConversionSettings, sample_rate_hz: int, hop_samples: int
    ) -> None:
        self.audio, self.settings = audio, settings
        self.rate_hz, self.hop_samples = sample_rate_hz, hop_samples
        self._held = np.zeros(0, np.float32)  # converted, waiting for the cross-fade with the next chunk
        self._n_silent_at_end = 0

    def chunks(self) -> Iterator[Chunk]:
        """All chunks to convert, in order; each is read when it is requested."""
        for span in self._spans():
            yield self._read(span)

    def join(self, chunk: Chunk, converted: np.ndarray) -> Iterator[np.ndarray]:
        """Blocks of the result that this chunk completes, float32, with the silence before it.

        Args:
            converted: float32 [T], the voice's output for `chunk.samples`.
        """
        yield from _silence(chunk.n_silent_before_samples)
        converted = np.asarray(converted, np.float32).reshape(-1)
        ratio = self.settings.loudness_envelope_ratio
        if ratio != 1:
            converted = self._adjust_loudness(chunk.samples, converted, ratio)
        new = self._without_context(chunk, converted)
        early = max(0, len(self._held) - len(new))  # above 0 only where the original's overlap differs
        yield self._held[:early]
        if early < len(self._held):
            overlapping = len(self._held) - early
            new = join_with_overlap(
                [self._held[early:], new], overlapping, self.settings.crossfade_keep_ratio
            )
        n_ready = max(0, len(new) - chunk.n_overlap_samples)
        self._held = new[n_ready:]
        yield new[:n_ready]

    def finish(self) -> Iterator[np.ndarray]:
        """Silence after the last chunk; to be called after all chunks are joined."""
        return _silence(self._n_silent_at_end)

    def _spans(self) -> Iterator[_Span]:
        slices = find_slices_in(self.audio, SliceSettings(threshold_db=self.settings.slice_db))
        self._check_level(slices)
        n_silent = 0
        for has_sound, run in self._runs([part for part in slices if part.end > part.start]):
            if not has_sound:
                n_silent += sum(self._n_output(part.end - part.start) for part in run)
                continue
            spans = self._cut(run)
            for i, (start, end) in enumerate(spans):
                last = i + 1 == len(spans)
                yield _Span(
                    start,
                    end,
                    0 if last else end - spans[i + 1][0],
                    n_silent,
                    fades_in=i == 0 and start > 0,
                    fades_out=last and end < self.audio.n_samples,
                )
                n_silent = 0
        self._n_silent_at_end = n_silent

    def _has_sound(self, part: Slice) -> bool:
        return not (part.silent or self._is_empty(part))

    def _runs(self, slices: Sequence[Slice]) -> Iterator[tuple[bool, list[Slice]]]:
        """Groups of slices joined without silence, and whether there is anything to convert in them."""
        yield from ((self._has_sound(part), [part]) for part in slices)

    def _cut(self, run: Sequence[Slice]) -> list[tuple[int, int]]:
        """Start and end of every chunk of one run."""
        return [
            (part.start + a, part.start + b) for part in run for a, b in self._split(part.end - part.start)
        ]

    def _chunk(self, span: _Span, samples: np.ndarray, n_pad: int) -> Chunk:
        start_s, n_proper = span.start / self.audio.sample_rate_hz, span.end - span.start
        return Chunk(
            samples,
            self.rate_hz,
            n_pad,
            start_s,
            n_proper / self.audio.sample_rate_hz,
            n_proper,
            span.n_overlap,
            span.n_silent_before,
            span.fades_in,
            span.fades_out,
        )

    @abstractmethod
    def _read(self, span: _Span) -> Chunk:
        """The samples of a chunk with its context, at the voice's rate."""

    @abstractmethod
    def _without_context(self, chunk: Chunk, converted: np.ndarray) -> np.ndarray:
        """The chunk proper, cut from the voice's output."""

    @abstractmethod
    def _adjust_loudness(self, source: np.ndarray, converted: np.ndarray, ratio: float) -> np.ndarray:
        """The output, its loudness envelope blended with the source's."""

    @abstractmethod
    def _split(self, length: int) -> list[tuple[int, int]]:
        """Forced cuts within a slice of that many samples."""

    @abstractmethod
    def _n_output(self, n_samples: int) -> int:
        """Samples of the result for that many samples of silence."""

    @abstractmethod
    def _check_level(self, slices: Sequence[Slice]) -> None:
        """Warn if the threshold leaves nothing to convert."""

    @abstractmethod
    def _is_empty(self, part: Slice) -> bool:
        """Whether a slice that counts as sound is empty all the same."""


class ExactSplitter(Splitter):
    """Exact timing: resampled once, real sound as context, every sample at its position.

    The result has round(duration * sample_rate_hz) samples.
    """

    def __init__(
        self, audio: Recording, settings: ConversionSettings, sample_rate_hz: int, hop_samples: int
    ) -> None:
        super().__init__(audio.resampled(sample_rate_hz), settings, sample_rate_hz, hop_samples)
        self.n_pad = round(settings.pad_seconds * sample_rate_hz)

    def _adjust_loudness(self, source: np.ndarray, converted: np.ndarray, ratio: float) -> np.ndarray:
        n_both = min(len(source), len(converted))
        return follow_loudness(source[:n_both], converted[:n_both], self.rate_hz, ratio)

    def _runs(self, slices: Sequence[Slice]) -> Iterator[tuple[bool, list[Slice]]]:
        """Adjacent slices without silence between them are one run: their joins are cross-faded."""
        yield from ((has_sound, list(run)) for has_sound, run in groupby(slices, key=self._has_sound))

    def _cut(self, run: Sequence[Slice]) -> list[tuple[int, int]]:
        """As above, but each slice after the first starts a little early, for a cross-fade over the cut."""
        spans, cuts = super()._cut(run), {part.start for part in run[1:]}
        overlap = round(AUTOMATIC_CROSSFADE_S * self.rate_hz)
        for i, (start, end) in enumerate(spans):
            if start in cuts and i:
                before = spans[i - 1]
                spans[i] = (start - min(overlap, (before[1] - before[0]) // 2), end)
        return spans

    def _n_output(self, n_samples: int) -> int:
        return n_samples

    def _check_level(self, slices: Sequence[Slice]) -> None:
        """Warn if the threshold makes the whole result silent: the reason is hard to find otherwise."""
        if all(part.silent for part in slices) and not _is_digital_silence(self.audio):
            warnings.warn(
                f"nothing in this recording is louder than {self.settings.slice_db:g} dB, so the result is silent: "
                "lower slice_db (-sd) or make the recording louder",
                stacklevel=4,
            )

    def _is_empty(self, part: Slice) -> bool:
        return _is_digital_silence(self.audio, part.start, part.end)

    def _split(self, length: int) -> list[tuple[int, int]]:
        """Forced cuts within one slice: the user's length if set, else only to stay within the limit."""
        rate_hz, settings = self.rate_hz, self.settings
        limit, per = round(settings.max_chunk_s * rate_hz), round(settings.clip_seconds * rate_hz)
        overlap = round(settings.crossfade_seconds * rate_hz)
        if per and per + overlap <= limit:
            return cut_evenly(length, per, overlap, even=False)
        if length <= limit:
            return [(0, length)]
        overlap = overlap or round(AUTOMATIC_CROSSFADE_S * rate_hz)
        return cut_evenly(length, limit - overlap, overlap, even=True)

    def _read(self, span: _Span) -> Chunk:
        n_wanted = max(span.end - span.start, round(SHORTEST_CHUNK_S * self.rate_hz)) + 2 * self.n_pad
        n_whole = -(-n_wanted // self.hop_samples) * self.hop_samples
        first = span.start - self.n_pad
        inside = self.audio.read(first, first + n_whole)
        source = np.pad(inside, (max(0, -first), n_whole - max(0, -first) - len(inside)))
        return self._chunk(span, source, self.n_pad)

    def _without_context(self, chunk: Chunk, converted: np.ndarray) -> np.ndarray:
        n_pad, n_proper = chunk.n_pad_samples, chunk.n_proper_samples
        if len(converted) < n_pad + n_proper:
            n_given = len(chunk.samples)
            raise ValueError(
                f"the voice returned {len(converted)} samples for a chunk of {n_given}: expected as many"
            )
        return self._faded(converted[n_pad : n_pad + n_proper], chunk)

    def _faded(self, result: np.ndarray, chunk: Chunk) -> np.ndarray:
        """Fade next to silence, to avoid clicks."""
        ramp = np.linspace(0, 1, min(len(result) // 2, round(EDGE_FADE_S * self.rate_hz)), dtype=np.float32)
        result = np.array(result, np.float32)
        if chunk.fades_in and len(ramp):
            result[: len(ramp)] *= ramp
        if chunk.fades_out and len(ramp):
            result[-len(ramp) :] *= ramp[::-1]
        return result


class OriginalSplitter(Splitter):
    """The timing of so-vits-svc 4.1's inference, to compare results sample by sample.

    The length is the original's: every slice and chunk is rounded up, cross-fades are counted at the input's
    rate.

    Source: so-vits-svc 4.1-Stable, slice_inference and infer (16-bit quantization, sinc resampler, zero
        padding of
    chunks; cross-fade lengths count samples at the input's rate, a short output is centered between zeros).
    """

    def __init__(
        self, audio: Recording, settings: ConversionSettings, sample_rate_hz: int, hop_samples: int
    ) -> None:
        super().__init__(audio, settings, sample_rate_hz, hop_samples)
        same_rate = audio.sample_rate_hz == sample_rate_hz
        self.resample = None if same_rate else SincResample(audio.sample_rate_hz, sample_rate_hz)

    def _adjust_loudness(self, source: np.ndarray, converted: np.ndarray, ratio: float) -> np.ndarray:
        return match_loudness_envelope(source, self.rate_hz, converted, self.rate_hz, ratio)

    def _n_output(self, n_samples: int) -> int:
        return math.ceil(n_samples / self.audio.sample_rate_hz * self.rate_hz)

    def _check_level(self, slices: Sequence[Slice]) -> None:
        """The original does not warn."""

    def _is_empty(self, part: Slice) -> bool:
        return False

    def _split(self, length: int) -> list[tuple[int, int]]:
        rate_hz = self.audio.sample_rate_hz
        per, overlap = (
            int(self.settings.clip_seconds * rate_hz),
            int(self.settings.crossfade_seconds * rate_hz),
        )
        return cut_evenly(length, per, overlap, even=False) if per else [(0, length)]

    def _read(self, span: _Span) -> Chunk:
        n_pad = int(self.audio.sample_rate_hz * self.settings.pad_seconds)
        source = _through_pcm16(
            np.pad(self.audio.read(span.start, span.end), n_pad), self.audio.sample_rate_hz
        )
        if self.resample is not None:
            source = self.resample(torch.from_numpy(source)).numpy()
        return self._chunk(span, source, int(self.rate_hz * self.settings.pad_seconds))

    def _without_context(self, chunk: Chunk, converted: np.ndarray) -> np.ndarray:
        n_pad = chunk.n_pad_samples
        return pad_centered(converted[n_pad : len(converted) - n_pad], self._n_output(chunk.n_proper_samples))


def _silence(n_samples: int) -> Iterator[np.ndarray]:
    for start in range(0, n_samples, BLOCK_SAMPLES):
        yield np.zeros(min(BLOCK_SAMPLES, n_samples - start), np.float32)


def _is_digital_silence(recording: Recording, start: int = 0, end: int | None = None) -> bool:
    end = recording.n_samples if end is None else end
    blocks = (
        recording.read(first, min(end, first + BLOCK_SAMPLES)) for first in range(start, end, BLOCK_SAMPLES)
    )
    return all(float(np.abs(block).max(initial=0.0)) < DIGITAL_SILENCE for block in blocks)


def _through_pcm16(samples: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Written to a 16-bit WAV in memory and read back: quantized, clipped beyond +-1."""
    stored = io.BytesIO()
    soundfile.write(stored, samples, sample_rate_hz, format="WAV", subtype="PCM_16")
    stored.seek(0)
    return soundfile.read(stored, dtype="float32")[0]
