"""Where to cut a recording at its silences: slices for conversion, clips for a training set.

Works on samples and returns positions; slicing.py does the cutting.
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
QUIET_SPAN_S = 0.15  # a forced cut looks for the quietest stretch of this length: pauses, not stop consonants


class SlicingError(SvcError):
    """Settings that cannot work, or nothing to cut."""


@dataclass(frozen=True)
class SliceSettings:
    """How find_slices cuts; the defaults are so-vits-svc's.

    Args:
        threshold_db: frames below this RMS level (dBFS) are silent.
        min_length_ms: no cut earlier than this after the last one.
        min_interval_ms: silences shorter than this are not cut at.
        hop_ms: resolution of the cuts.
        max_kept_silence_ms: silence kept on either side of a cut; only what lies between becomes a silent slice.
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
            raise SlicingError(f"max_kept_silence_ms is {self.max_kept_silence_ms}, expected at least {self.hop_ms}")


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
        sample_rate_hz: its rate.

    Returns:
        Sounding slices with up to 5 s of silence at their sides (defaults), and the silent ones between them.

    Source: the slicer of so-vits-svc 4.1, without its slices of length 0.
    """
    return find_slices_in(Audio(samples, sample_rate_hz), settings)


def find_slices_in(recording: Recording, settings: SliceSettings | None = None) -> list[Slice]:
    """`find_slices` for a recording that need not be in memory: it is read in blocks."""
    settings = settings or SliceSettings()
    sample_rate_hz, n_samples = recording.sample_rate_hz, recording.n_samples
    hop = max(1, round(sample_rate_hz * settings.hop_ms / 1000))
    frames = {
        name: round(sample_rate_hz * milliseconds / 1000 / hop)
        for name, milliseconds in (("length", settings.min_length_ms), ("interval", settings.min_interval_ms),
                                   ("kept", settings.max_kept_silence_ms))
    }  # fmt: skip
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
    return [piece for piece in slices if piece.n_samples > 0]


def _loudness(recording: Recording, window: int, hop: int) -> np.ndarray:
    """RMS of `window` samples around every hop: what `frame_rms` gives for the whole, read in blocks."""
    margin = -(-window // 2 // hop)  # frames that a neighbouring block's samples reach into
    step = max(1, BLOCK_SAMPLES // hop)
    n_hops = recording.n_samples // hop + 1
    parts = []
    for first in range(0, n_hops, step):
        before = min(first, margin)
        samples = recording.read((first - before) * hop, (first + step + margin) * hop)
        rms = frame_rms(samples, window_samples=window, hop_samples=hop)
        parts.append(rms[before : before + step])
    return np.concatenate(parts)


def _silent_spans(rms: np.ndarray, threshold: float, *, length: int, interval: int, kept: int) -> list[tuple[int, int]]:
    """Frames (first, last) of the silences to cut out; first == last is a cut without loss."""
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
    """The span to take out of one silence [start, end): a short one is cut once, a long one loses its middle."""
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
    """Clips of one recording and the seconds that are in none of them."""

    clips: list[Slice]
    silent_s: float
    dropped_s: float  # sounding, but too short


def find_clips(samples: np.ndarray, settings: CutSettings) -> ClipPlan:
    """Sounding stretches of min_clip_s to max_clip_s with a little silence at both ends.

    Args:
        samples: float [T] at settings.sample_rate_hz.

    Returns:
        Clips in order; they never overlap.
    """
    rate_hz = settings.sample_rate_hz
    hop = round(rate_hz * CLIP_HOP_S)
    rms = frame_rms(samples, window_samples=2 * round(rate_hz * CLIP_WINDOW_S / 2), hop_samples=hop)
    sounding = _runs(rms >= 10 ** (settings.threshold_db / 20))
    stretches = [Slice(start * hop, min(end * hop, len(samples))) for start, end in sounding]
    stretches = _merge_close(stretches, round(settings.min_silence_s * rate_hz))
    padded = _keep_silence(stretches, round(settings.keep_silence_s * rate_hz), len(samples))
    smooth = np.convolve(rms, np.ones(round(QUIET_SPAN_S / CLIP_HOP_S)), mode="same")
    capped = [part for piece in padded for part in _split_long(piece, smooth, hop, settings)]
    joined = _join_short(capped, settings)
    clips = [piece for piece in joined if piece.n_samples >= settings.min_clip_s * rate_hz]
    kept = sum(piece.n_samples for piece in clips)
    dropped = sum(piece.n_samples for piece in joined) - kept
    return ClipPlan(clips, (len(samples) - kept - dropped) / rate_hz, dropped / rate_hz)


def _merge_close(stretches: list[Slice], min_gap: int) -> list[Slice]:
    merged: list[Slice] = []
    for piece in stretches:
        if merged and piece.start - merged[-1].end < min_gap:
            merged[-1] = Slice(merged[-1].start, piece.end)
        else:
            merged.append(piece)
    return merged


def _keep_silence(stretches: list[Slice], keep: int, n_samples: int) -> list[Slice]:
    """Widen each stretch by `keep` samples, at most to the middle of the silence between two."""
    middles = [(a.end + b.start) // 2 for a, b in zip(stretches, stretches[1:], strict=False)]
    lows, highs = [0, *middles], [*middles, n_samples]
    return [
        Slice(max(piece.start - keep, low), min(piece.end + keep, high))
        for piece, low, high in zip(stretches, lows, highs, strict=False)
    ]


def _split_long(piece: Slice, loudness: np.ndarray, hop: int, settings: CutSettings) -> list[Slice]:
    """Cut until nothing is longer than max_clip_s, each time where it is quietest in the clip's second half."""
    longest, shortest = (int(s * settings.sample_rate_hz) for s in (settings.max_clip_s, settings.min_clip_s))
    parts, start = [], piece.start
    while piece.end - start > longest:
        first = start + longest // 2
        last = max(first, min(start + longest, piece.end - shortest))
        first_frame = -(-first // hop)
        candidates = loudness[first_frame : last // hop + 1]
        cut = (first_frame + int(candidates.argmin())) * hop if len(candidates) else last
        parts.append(Slice(start, cut))
        start = cut
    return [*parts, Slice(start, piece.end)]


def _join_short(pieces: list[Slice], settings: CutSettings) -> list[Slice]:
    """Join each piece under min_clip_s to its nearer neighbour where the gap and the cap allow it."""
    shortest, longest, gap = (
        int(s * settings.sample_rate_hz) for s in (settings.min_clip_s, settings.max_clip_s, settings.max_join_gap_s)
    )
    pieces, index = list(pieces), 0
    while index < len(pieces):
        if pieces[index].n_samples >= shortest:
            index += 1
            continue
        pairs = [(left, left + 1) for left in (index - 1, index) if left >= 0 and left + 1 < len(pieces)]
        gaps = {
            left: pieces[right].start - pieces[left].end
            for left, right in pairs
            if pieces[right].start - pieces[left].end <= gap and pieces[right].end - pieces[left].start <= longest
        }
        if not gaps:
            index += 1
            continue
        left = min(gaps, key=gaps.get)
        pieces[left : left + 2] = [Slice(pieces[left].start, pieces[left + 1].end)]
        index = left
    return pieces


def crossfade_join(old_tail: np.ndarray, new_head: np.ndarray) -> np.ndarray:
    """Fade linearly from the end of one piece to the start of the next; both float [R], so is the result."""
    if len(old_tail) != len(new_head):
        raise ValueError(f"pieces of {len(old_tail)} and {len(new_head)} samples cannot be cross-faded")
    ramp = np.linspace(0.0, 1.0, len(old_tail))
    return (old_tail * (1.0 - ramp) + new_head * ramp).astype(np.float32)


# ---------------------------------------------------------------------------------------- fixed pieces


def join_with_overlap(pieces: Sequence[np.ndarray], overlap: int, keep_ratio: float = 1.0) -> np.ndarray:
    """Join overlapping pieces by linear cross-fades.

    Args:
        pieces: float [T_i]; each but the first repeats the last `overlap` samples of the one before.
        keep_ratio: 0..1, share of the overlap (its middle) that is faded over.

    Source: the cross-fade of so-vits-svc (its -lg and -lgr); a fade that ends at the piece's end works here too.
    """
    if not 0 <= keep_ratio <= 1:
        raise SlicingError(f"keep_ratio is {keep_ratio}, expected 0 to 1")
    n_fade = int(overlap * keep_ratio)
    before = (overlap - n_fade) // 2
    after = overlap - n_fade - before
    joined: list[np.ndarray] = []
    for index, piece in enumerate(pieces):
        if index == 0:
            joined.append(np.asarray(piece, dtype=np.float32))
            continue
        old = joined[-1]
        keep = len(old) - after - n_fade
        faded = crossfade_join(old[keep : keep + n_fade], piece[before : before + n_fade])
        joined[-1] = old[:keep]
        joined.append(np.concatenate([faded, piece[before + n_fade :]]).astype(np.float32))
    return np.concatenate(joined) if joined else np.zeros(0, dtype=np.float32)
