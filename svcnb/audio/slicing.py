"""Positions at which to cut a recording at silences: slices for conversion, clips for a training set.

Computes positions only; data.clips cuts the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from svcnb import SvcError
from svcnb.audio.audio import Audio
from svcnb.audio.loudness import frame_rms
from svcnb.audio.recording import BLOCK_SAMPLES, Recording
from svcnb.audio.settings import CutSettings

CLIP_HOP_S = 0.01  # loudness grid of clip cutting
CLIP_WINDOW_S = 0.04
QUIET_SPAN_S = 0.15  # a forced cut is at the quietest span of this length: pauses, not stop consonants


class SlicingError(SvcError):
    """Invalid settings, or nothing to cut."""


@dataclass(frozen=True)
class SliceSettings:
    """Settings of find_slices; the defaults are so-vits-svc's.

    Args:
        threshold_db: frames below this RMS level (dBFS) are silent.
        min_length_ms: no cut within this time after the last one.
        min_interval_ms: shorter silences are not cut.
        hop_ms: resolution of the cuts.
        max_kept_silence_ms: silence kept on either side of a cut; only the rest becomes a silent slice.
    """

    threshold_db: float = -40.0
    min_length_ms: float = 5000.0
    min_interval_ms: float = 300.0
    hop_ms: float = 20.0
    max_kept_silence_ms: float = 5000.0

    def __post_init__(self) -> None:
        if not self.min_length_ms >= self.min_interval_ms >= self.hop_ms > 0:
            raise SlicingError(
                f"min_length_ms {self.min_length_ms}, min_interval_ms {self.min_interval_ms}, hop_ms {self.hop_ms}: "
                "expected min_length >= min_interval >= hop > 0"
            )
        if self.max_kept_silence_ms < self.hop_ms:
            raise SlicingError(
                f"max_kept_silence_ms is {self.max_kept_silence_ms}, expected at least {self.hop_ms}"
            )


@dataclass(frozen=True)
class Slice:
    """Samples start..end (end excluded) of a recording."""

    start: int
    end: int
    silent: bool = False

    @property
    def n_samples(self) -> int:
        return self.end - self.start


def find_slices(
    samples: np.ndarray, sample_rate_hz: int, settings: SliceSettings | None = None
) -> list[Slice]:
    """Slices between long silences, in order; together they are the whole input, without gaps or overlaps.

    Args:
        samples: float [T].
        sample_rate_hz: of the samples.

    Returns:
        Non-silent slices with up to 5 s of silence at their ends (defaults), and the silent ones between
        them.

    Source: the slicer of so-vits-svc 4.1, without its slices of length 0.
    """
    return find_slices_in(Audio(samples, sample_rate_hz), settings)


def find_slices_in(recording: Recording, settings: SliceSettings | None = None) -> list[Slice]:
    """`find_slices` for a recording on disk or in memory, read in blocks."""
    settings = settings or SliceSettings()
    sample_rate_hz, n_samples = recording.sample_rate_hz, recording.n_samples
    hop = max(1, round(sample_rate_hz * settings.hop_ms / 1000))
    frames = {
        name: round(sample_rate_hz * milliseconds / 1000 / hop)
        for name, milliseconds in (
            ("length", settings.min_length_ms),
            ("interval", settings.min_interval_ms),
            ("kept", settings.max_kept_silence_ms),
        )
    }
    if n_samples <= frames["length"]:  # the original compares samples with frames here; harmless, kept
        return [Slice(0, n_samples)] if n_samples else []
    window = min(round(sample_rate_hz * settings.min_interval_ms / 1000), 4 * hop)
    rms = _loudness(recording, window, hop)
    cuts = _silent_spans(rms, 10 ** (settings.threshold_db / 20), **frames)
    slices, position = [], 0
    for first, last in cuts:
        start, end = (min(n_samples, frame * hop) for frame in (first, last))
        slices += [Slice(position, start), Slice(start, end, silent=True)]
        position = end
    slices.append(Slice(position, n_samples))
    return [part for part in slices if part.n_samples > 0]


def _loudness(recording: Recording, window: int, hop: int) -> np.ndarray:
    """RMS of `window` samples around every hop: `frame_rms` of the whole recording, read in blocks."""
    margin = -(-window // 2 // hop)  # frames whose window overlaps a neighbouring block
    step = max(1, BLOCK_SAMPLES // hop)
    n_hops = recording.n_samples // hop + 1
    parts = []
    for first in range(0, n_hops, step):
        before = min(first, margin)
        samples = recording.read((first - before) * hop, (first + step + margin) * hop)
        rms = frame_rms(samples, window_samples=window, hop_samples=hop)
        parts.append(rms[before : before + step])
    return np.concatenate(parts)


def _silent_spans(
    rms: np.ndarray, threshold: float, *, length: int, interval: int, kept: int
) -> list[tuple[int, int]]:
    """Frames (first, last) of the silences to remove; first == last is a cut that removes nothing."""
    spans: list[tuple[int, int]] = []
    clip_start = 0
    for start, end in _runs(rms < threshold):
        if end == len(rms):  # silence up to the end
            if end - start >= interval:
                spans.append((_quietest(rms, start, min(end, start + kept)), end + 1))
            continue
        leading = start == 0 and end > kept
        middle = end - start >= interval and end - clip_start >= length
        if leading or middle:
            spans.append(_cut_silence(rms, start, end, kept))
            clip_start = spans[-1][1]
    return spans


def _cut_silence(rms: np.ndarray, start: int, end: int, kept: int) -> tuple[int, int]:
    """Span to remove from one silence [start, end): a short one is cut once, a long one loses its middle."""
    if end - start <= kept:
        left = right = _quietest(rms, start, end)
    else:
        left, right = _quietest(rms, start, start + kept), _quietest(rms, end - kept, end)
        if end - start <= 2 * kept:
            middle = _quietest(rms, end - kept, start + kept)
            left, right = min(left, middle), max(right, middle)
    return (0 if start == 0 else left), right


def _quietest(rms: np.ndarray, first: int, last: int) -> int:
    """Index of the smallest value in first..last, both included."""
    return first + int(rms[first : last + 1].argmin())


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Half-open index ranges where a boolean array is true."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


# ------------------------------------------------------------------------------------- training clips


@dataclass(frozen=True)
class ClipPlan:
    """Clips of one recording and the duration outside them."""

    clips: list[Slice]
    silent_s: float
    dropped_s: float  # not silent, but too short


def find_clips(samples: np.ndarray, settings: CutSettings) -> ClipPlan:
    """Non-silent spans of min_clip_s to max_clip_s with some silence at both ends.

    Args:
        samples: float [T] at settings.sample_rate_hz.

    Returns:
        Clips in order; they never overlap.
    """
    rate_hz = settings.sample_rate_hz
    hop = round(rate_hz * CLIP_HOP_S)
    rms = frame_rms(samples, window_samples=2 * round(rate_hz * CLIP_WINDOW_S / 2), hop_samples=hop)
    active = _runs(rms >= 10 ** (settings.threshold_db / 20))
    spans = [Slice(start * hop, min(end * hop, len(samples))) for start, end in active]
    spans = _merge_close(spans, round(settings.min_silence_s * rate_hz))
    padded = _keep_silence(spans, round(settings.keep_silence_s * rate_hz), len(samples))
    smooth = np.convolve(rms, np.ones(round(QUIET_SPAN_S / CLIP_HOP_S)), mode="same")
    capped = [part for span in padded for part in _split_long(span, smooth, hop, settings)]
    joined = _join_short(capped, settings)
    clips = [span for span in joined if span.n_samples >= settings.min_clip_s * rate_hz]
    kept = sum(span.n_samples for span in clips)
    dropped = sum(span.n_samples for span in joined) - kept
    return ClipPlan(clips, (len(samples) - kept - dropped) / rate_hz, dropped / rate_hz)


def _merge_close(spans: list[Slice], min_gap: int) -> list[Slice]:
    merged: list[Slice] = []
    for span in spans:
        if merged and span.start - merged[-1].end < min_gap:
            merged[-1] = Slice(merged[-1].start, span.end)
        else:
            merged.append(span)
    return merged


def _keep_silence(spans: list[Slice], keep: int, n_samples: int) -> list[Slice]:
    """Extend each span by `keep` samples, at most to the middle of the silence between two."""
    middles = [(a.end + b.start) // 2 for a, b in zip(spans, spans[1:], strict=False)]
    lows, highs = [0, *middles], [*middles, n_samples]
    return [
        Slice(max(span.start - keep, low), min(span.end + keep, high))
        for span, low, high in zip(spans, lows, highs, strict=False)
    ]


def _split_long(span: Slice, loudness: np.ndarray, hop: int, settings: CutSettings) -> list[Slice]:
    """Cut to at most max_clip_s, each time at the quietest point of the clip's second half."""
    longest, shortest = (int(s * settings.sample_rate_hz) for s in (settings.max_clip_s, settings.min_clip_s))
    parts, start = [], span.start
    while span.end - start > longest:
        first = start + longest // 2
        last = max(first, min(start + longest, span.end - shortest))
        first_frame = -(-first // hop)
        candidates = loudness[first_frame : last // hop + 1]
        cut = (first_frame + int(candidates.argmin())) * hop if len(candidates) else last
        parts.append(Slice(start, cut))
        start = cut
    return [*parts, Slice(start, span.end)]


def _join_short(spans: list[Slice], settings: CutSettings) -> list[Slice]:
    """Join each span under min_clip_s to its nearer neighbour, if max_join_gap_s and max_clip_s allow it."""
    shortest, longest, gap = (
        int(s * settings.sample_rate_hz)
        for s in (settings.min_clip_s, settings.max_clip_s, settings.max_join_gap_s)
    )
    spans, index = list(spans), 0
    while index < len(spans):
        if spans[index].n_samples >= shortest:
            index += 1
            continue
        pairs = [(left, left + 1) for left in (index - 1, index) if left >= 0 and left + 1 < len(spans)]
        gaps = {
            left: spans[right].start - spans[left].end
            for left, right in pairs
            if spans[right].start - spans[left].end <= gap and spans[right].end - spans[left].start <= longest
        }
        if not gaps:
            index += 1
            continue
        left = min(gaps, key=gaps.get)
        spans[left : left + 2] = [Slice(spans[left].start, spans[left + 1].end)]
        index = left
    return spans


def crossfade_join(old_tail: np.ndarray, new_head: np.ndarray) -> np.ndarray:
    """Linear cross-fade from the end of one chunk to the start of the next; all float [R]."""
    if len(old_tail) != len(new_head):
        raise ValueError(f"chunks of {len(old_tail)} and {len(new_head)} samples cannot be cross-faded")
    ramp = np.linspace(0.0, 1.0, len(old_tail))
    return (old_tail * (1.0 - ramp) + new_head * ramp).astype(np.float32)


# ---------------------------------------------------------------------------------------- fixed chunks


def join_with_overlap(chunks: Sequence[np.ndarray], overlap: int, keep_ratio: float = 1.0) -> np.ndarray:
    """Join overlapping chunks by linear cross-fades.

    Args:
        chunks: float [T_i]; each but the first repeats the last `overlap` samples of the one before.
        keep_ratio: 0..1, the part of the overlap (its middle) that is cross-faded.

    Source: the cross-fade of so-vits-svc (its -lg and -lgr); a fade that ends at the chunk's end works here
    too.
    """
    if not 0 <= keep_ratio <= 1:
        raise SlicingError(f"keep_ratio is {keep_ratio}, expected 0 to 1")
    n_fade = int(overlap * keep_ratio)
    before = (overlap - n_fade) // 2
    after = overlap - n_fade - before
    joined: list[np.ndarray] = []
    for index, chunk in enumerate(chunks):
        if index == 0:
            joined.append(np.asarray(chunk, dtype=np.float32))
            continue
        old = joined[-1]
        keep = len(old) - after - n_fade
        faded = crossfade_join(old[keep : keep + n_fade], chunk[before : before + n_fade])
        joined[-1] = old[:keep]
        joined.append(np.concatenate([faded, chunk[before + n_fade :]]).astype(np.float32))
    return np.concatenate(joined) if joined else np.zeros(0, dtype=np.float32)
