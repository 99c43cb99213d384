"""Loudness: integrated (LUFS) and over time, normalization, and matching of loudness envelopes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from svcnb import MissingExtra
from svcnb.audio.audio import Audio, AudioError

PEAK_LIMIT_DB = -0.1  # normalization never raises a sample above this
QUIETEST_RAISED = 1e-3  # -60 dBFS: below it, loudness matching would only amplify the model's noise floor


def level(audio: Audio, *, mode: str, target_db: float) -> Audio:
    """Normalize a recording to a target loudness by one gain, without clipping.

    Args:
        mode: "off" changes nothing; "peak" sets the peak (dBFS); "lufs" the integrated loudness (BS.1770).
        target_db: dBFS or LUFS, below 0. The gain is reduced where the peak would exceed -0.1 dBFS.

    Returns:
        The normalized recording; silence is returned unchanged.
    """
    if mode not in ("off", "peak", "lufs"):
        raise AudioError(f"level is {mode!r}, expected off, peak or lufs")
    if mode == "off" or audio.peak == 0:
        return audio
    peak_db = 20 * np.log10(audio.peak)
    now_db = peak_db if mode == "peak" else loudness_lufs(audio)
    if not np.isfinite(now_db):
        return audio
    gain_db = min(target_db - now_db, PEAK_LIMIT_DB - peak_db)
    return Audio(audio.samples * np.float32(10 ** (gain_db / 20)), audio.sample_rate_hz)


def loudness_lufs(audio: Audio) -> float:
    """Integrated loudness (ITU-R BS.1770), -inf for silence; audio under 0.4 s is repeated to one block."""
    try:
        import pyloudnorm
    except ImportError as error:
        raise MissingExtra('loudness in LUFS needs pyloudnorm: pip install "svcnb[loudness]"') from error
    n_repeats = int(np.ceil(0.41 * audio.sample_rate_hz / max(1, audio.n_samples)))
    samples = np.tile(audio.samples, max(1, n_repeats)).astype(np.float64)
    with np.errstate(divide="ignore"):
        return float(pyloudnorm.Meter(audio.sample_rate_hz).integrated_loudness(samples))


def volume_envelope(waveform: Tensor, hop_samples: int) -> Tensor:
    """Loudness per frame: root mean square over one hop around each frame's start.

    Args:
        waveform: float [T] or [B, T].
        hop_samples: frame distance and window length.

    Returns:
        float32 [T // hop] or [B, T // hop], 0..1 for audio within full scale.
    """
    squares = torch.atleast_2d(waveform.float()).square()
    n_frames = squares.shape[-1] // hop_samples
    if n_frames == 0:
        return squares.new_zeros(waveform.shape[:-1] + (0,))
    padded = F.pad(squares, (hop_samples // 2, (hop_samples + 1) // 2), mode="reflect")
    frames = padded[..., : n_frames * hop_samples].unflatten(-1, (n_frames, hop_samples))  # [B, N, hop]
    return frames.mean(-1).sqrt().reshape(waveform.shape[:-1] + (n_frames,))


def frame_rms(samples: np.ndarray, *, window_samples: int, hop_samples: int) -> np.ndarray:
    """RMS of windows centered on every hop, zero-padded: float32 [1 + T // hop] for even windows.

    Equal to librosa.feature.rms(frame_length=window, hop_length=hop, pad_mode="constant").
    """
    half = window_samples // 2
    padded = np.pad(np.asarray(samples, dtype=np.float32), half)
    windows = np.lib.stride_tricks.sliding_window_view(padded, window_samples)[
        ::hop_samples
    ]  # [N, window], no copy
    step = max(1, 2**22 // window_samples)  # bounds the memory of the squares below
    blocks = [
        np.square(windows[i : i + step], dtype=np.float32).mean(-1) for i in range(0, len(windows), step)
    ]
    return np.sqrt(np.concatenate(blocks))


def match_loudness_envelope(
    source: np.ndarray, source_hz: int, output: np.ndarray, output_hz: int, envelope_ratio: float
) -> np.ndarray:
    """Match the loudness envelope of converted audio (partly) to that of its source.

    Args:
        source, output: float [T] and [T'] of the same duration, at their own rates.
        envelope_ratio: 1 keeps the output's envelope, 0 takes the source's; in between is geometric.

    Returns:
        float32 [T'].

    Source: so-vits-svc 4.1's loudness envelope (half-second steps, one-second windows).
    """
    envelopes = []
    for samples, rate_hz in ((source, source_hz), (output, output_hz)):
        rms = frame_rms(samples, window_samples=rate_hz // 2 * 2, hop_samples=rate_hz // 2)
        envelope = F.interpolate(torch.from_numpy(rms)[None, None], size=len(output), mode="linear")
        envelopes.append(envelope[0, 0])
    target, present = envelopes[0], envelopes[1].clamp(min=1e-6)
    gain = target.pow(1 - envelope_ratio) * present.pow(envelope_ratio - 1)
    return np.asarray(output, dtype=np.float32) * gain.numpy()


def follow_loudness(
    source: np.ndarray, output: np.ndarray, sample_rate_hz: int, envelope_ratio: float
) -> np.ndarray:
    """`match_loudness_envelope` without its time grid: the gain at each sample is from the second around it.

    The loudness at a sample is the RMS of the second around it, limited to the recording. It does not depend
    on the chunk that the sample belongs to, so chunks join without a step. Where the output is almost silent
    it stays so, instead of being raised to the source's loudness.

    Args:
        source, output: float [T] of equal length, at one rate.
        envelope_ratio: 1 keeps the output's envelope, 0 takes the source's; in between is geometric.

    Returns:
        float32 [T].
    """
    target, present = (_rms_around(samples, sample_rate_hz // 2) for samples in (source, output))
    gain = (target / np.maximum(present, QUIETEST_RAISED)) ** (1 - envelope_ratio)
    return (output * gain).astype(np.float32)


def _rms_around(samples: np.ndarray, radius_samples: int) -> np.ndarray:
    """RMS of the samples up to `radius_samples` before and after each one: float64 [T]."""
    sums = np.concatenate([[0.0], np.square(samples, dtype=np.float64).cumsum()])  # [T + 1]
    positions = np.arange(len(samples))
    first = np.maximum(positions - radius_samples, 0)
    last = np.minimum(positions + radius_samples + 1, len(samples))
    return np.sqrt(np.maximum(sums[last] - sums[first], 0.0) / (last - first))
