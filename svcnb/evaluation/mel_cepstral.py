"""Mel-cepstral distance (MCD): the difference in timbre of two recordings of the same words, in dB.

    mel_cepstral_distance(recording, reconstruction, align=False)   of equal length: frame by frame
    mel_cepstral_distance(recording, another_reading)               other timing: aligned by dynamic time warping

Level is ignored (coefficient 0 is left out), and so is silence. Everything is compared at 16 kHz.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from svcnb import SvcError
from svcnb.audio.audio import Audio, resample_samples

RATE_HZ = 16000  # the lowest rate of common corpora: a missing band above must not count
WINDOW_SAMPLES = 512
N_FFT = 1024
HOP_SAMPLES = 160
HOP_S = HOP_SAMPLES / RATE_HZ
N_MELS = 40
N_COEFFICIENTS = 13
MAX_ALIGNED_S = 30.0  # the alignment's cost matrix grows quadratically: 200 MB for this
SILENT_BELOW_DB = -40.0  # relative to loud frames (95th percentile)
FLOOR_DB = -70.0  # likewise; lower limit of the spectrum, so that digital silence has one
TO_DB = 10 / np.log(10) * np.sqrt(2)


@dataclass(frozen=True)
class SpectralDistance:
    """Mel-cepstral distance of two recordings.

    Attributes:
        mean_db: over the compared frames.
        n_frames: frames compared (10 ms each), without silence; with alignment, steps of its path.
        n_coefficients: number of cepstral coefficients, from coefficient 1.
        aligned: True after dynamic time warping.
    """

    mean_db: float
    n_frames: int
    n_coefficients: int
    aligned: bool


@dataclass(frozen=True)
class MelCepstra:
    """Coefficients 1..n for every 10 ms: float64 [N, n]; non_silent is bool [N]."""

    coefficients: np.ndarray
    non_silent: np.ndarray


def mel_cepstra(audio: Audio, *, n_coefficients: int = N_COEFFICIENTS) -> MelCepstra:
    """Mel cepstrum of every frame, scaled so that ln|H| = c0 + sum c_m cos(m w) on the mel scale.

    Args:
        audio: any rate; compared at 16 kHz (40 bands from 0 to 8 kHz).
        n_coefficients: 13 describe formants; from about 24 on the harmonics of high voices count as well.

    Raises:
        SvcError: shorter than one window (32 ms), or completely silent.
    """
    if not 1 <= n_coefficients < N_MELS:
        raise ValueError(f"{n_coefficients} cepstral coefficients: expected 1 to {N_MELS - 1}")
    from librosa.filters import mel
    from scipy.fft import dct

    samples = resample_samples(audio.samples, audio.sample_rate_hz, RATE_HZ)
    if len(samples) < WINDOW_SAMPLES:
        raise SvcError(
            f"a recording of {audio.duration_s:.3f} s is too short for a spectrum: use one of 0.1 s or more"
        )
    if audio.peak == 0:
        raise SvcError("the recording is silent: there is no timbre to compare")
    magnitude = _magnitude(samples)  # [N, F]
    energy_db = 10 * np.log10(np.mean(magnitude**2, axis=1) + 1e-20)
    loud_db = np.percentile(energy_db, 95)
    filters = mel(sr=RATE_HZ, n_fft=N_FFT, n_mels=N_MELS, norm=None)
    bands = magnitude @ filters.T / filters.sum(axis=1)  # [N, M], mean magnitude of each band
    bands = np.maximum(bands, 10 ** ((loud_db + FLOOR_DB) / 20))
    cepstra = dct(np.log(bands), type=2, axis=1) / N_MELS  # type 2 sums 2 x cos: factor 2 / M in total
    return MelCepstra(cepstra[:, 1 : 1 + n_coefficients], energy_db > loud_db + SILENT_BELOW_DB)


def mel_cepstral_distance(
    reference: Audio, candidate: Audio, *, align: bool = True, n_coefficients: int = N_COEFFICIENTS
) -> SpectralDistance:
    """Mel-cepstral distance of the candidate to the reference in dB; 0 = identical.

    The distance of two frames is 10 / ln 10 * sqrt(2 * sum of (c_m - c'_m)^2), m = 1..n: the root mean square
    difference of the two smoothed log mel spectra in dB, without level.

    Args:
        reference, candidate: the same words, at any rates.
        align: find corresponding frames by dynamic time warping, after removing silence from both; at most
            the first 30 s are compared. False compares frame by frame where the reference is not silent;
            needs equal lengths.
        n_coefficients: see mel_cepstra.

    Typical values, measured on sentences of LJ Speech and LibriSpeech with 13 coefficients:

    - 0.8 after mp3, 2.1 for 8-bit telephone coding, 2.2 for copy synthesis by the vocoder WORLD; - 2.8 with
    another f0 (3 to 4 semitones), 4.7 with a vocal tract 10 % shorter, 7.3 with 20 %; - 5.1 with 20 ms delay
    frame by frame, 0.0 aligned; 5 to 10 for different sentences, aligned: the words must match.

    Published values differ in envelope (often WORLD's), sample rate and number of coefficients (often 24):
    compare with values of this function only. With 24 coefficients, recordings that differ in f0 alone are 4
    to 6 dB apart, with 13 they are not.

    Raises:
        SvcError: silent, too short, or, without alignment, lengths that differ by more than 50 ms.

    Source: Kubichek, Mel-cepstral distance measure for objective speech quality assessment, 1993.
    """
    first, second = (
        mel_cepstra(audio, n_coefficients=n_coefficients) for audio in _shortened(reference, candidate, align)
    )
    if not align:
        frames_db = _frame_distances(reference, candidate, first, second)
        frames_db = frames_db[first.non_silent[: len(frames_db)]]
    else:
        frames_db = _aligned_distances(*(x.coefficients[x.non_silent] for x in (first, second)))
    return SpectralDistance(float(np.mean(frames_db)), len(frames_db), n_coefficients, align)


def distance_over_time(
    reference: Audio, candidate: Audio, *, n_coefficients: int = N_COEFFICIENTS
) -> tuple[np.ndarray, np.ndarray]:
    """Times in s and MCD in dB of every frame, float64 [N] each; NaN where the reference is silent.

    For recordings of equal length (see mel_cepstral_distance without alignment).
    """
    first, second = (mel_cepstra(audio, n_coefficients=n_coefficients) for audio in (reference, candidate))
    frames_db = _frame_distances(reference, candidate, first, second)
    non_silent = first.non_silent[: len(frames_db)]
    return np.arange(len(frames_db)) * HOP_S, np.where(non_silent, frames_db, np.nan)


def _shortened(reference: Audio, candidate: Audio, align: bool) -> tuple[Audio, Audio]:
    if not align:
        return reference, candidate
    return reference.slice_s(0, MAX_ALIGNED_S), candidate.slice_s(0, MAX_ALIGNED_S)


def _magnitude(samples: np.ndarray) -> np.ndarray:
    """float32 [T] -> [N, F], frame n centered on sample n * hop."""
    from scipy.signal import get_window

    window = get_window("hann", WINDOW_SAMPLES).astype(np.float32)
    padded = np.pad(samples, WINDOW_SAMPLES // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[::HOP_SAMPLES]
    return np.abs(np.fft.rfft(windows * window, N_FFT, axis=1))


def _frame_distances(reference: Audio, candidate: Audio, first: MelCepstra, second: MelCepstra) -> np.ndarray:
    if abs(reference.duration_s - candidate.duration_s) > 0.05:
        raise SvcError(
            f"recordings of {reference.duration_s:.2f} and {candidate.duration_s:.2f} s cannot be compared frame by "
            "frame: expected equal lengths; compare with align=True"
        )
    n_frames = min(len(first.coefficients), len(second.coefficients))
    difference = first.coefficients[:n_frames] - second.coefficients[:n_frames]
    return TO_DB * np.sqrt((difference**2).sum(axis=1))


def _aligned_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """MCD in dB at every step of the optimal alignment path of two sequences [N, n] and [N', n]."""
    from librosa.sequence import dtw

    _, path = dtw(first.T, second.T, metric="euclidean")
    return TO_DB * np.linalg.norm(first[path[:, 0]] - second[path[:, 1]], axis=1)
