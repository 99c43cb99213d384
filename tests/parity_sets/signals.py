"""Test signals from formulas: a glide like singing with known pauses, and noise with known silences."""

from __future__ import annotations

import numpy as np

GLIDE_SECONDS = 4.0
SILENCES = (  # (level, seconds)
    *((0.2, 2.0), (1e-5, 0.5), (0.1, 6.0), (1e-5, 1.2), (0.3, 3.0)),
    *((1e-5, 0.2), (0.05, 7.0), (1e-5, 3.0), (0.2, 1.0)),
)


def glide_f0(times_s: np.ndarray) -> np.ndarray:
    """f0 in Hz: 110 to 440 on an exponential, with 5.5 Hz vibrato of 30 cents."""
    return 110.0 * 4.0 ** (times_s / GLIDE_SECONDS) * 2 ** (30 / 1200 * np.sin(2 * np.pi * 5.5 * times_s))


def glide(sample_rate_hz: int) -> np.ndarray:
    """float32 [4 s]: harmonics 1-8 at 1/k on glide_f0; silent at 0-0.2, 1.5-1.8 and 3.8-4 s; peak 0.5, 16 bit."""
    times_s = np.arange(int(sample_rate_hz * GLIDE_SECONDS)) / sample_rate_hz
    phase = 2 * np.pi * np.cumsum(glide_f0(times_s)) / sample_rate_hz
    tone = sum(np.sin(k * phase) / k for k in range(1, 9))
    audible = ((times_s > 0.2) & (times_s < 1.5)) | ((times_s > 1.8) & (times_s < GLIDE_SECONDS - 0.2))
    ramp = np.hanning(int(sample_rate_hz * 0.02))
    tone = tone * np.convolve(audible.astype(float), ramp / ramp.sum(), mode="same")
    return (np.round(tone / np.abs(tone).max() * 0.5 * 32767) / 32768).astype(np.float32)


def silences(sample_rate_hz: int) -> np.ndarray:
    """float32: bursts of noise (level, seconds) as in SILENCES, one fixed seed."""
    noise = np.random.default_rng(12345)
    bursts = [noise.standard_normal(int(sample_rate_hz * seconds)) * level for level, seconds in SILENCES]
    return np.clip(np.concatenate(bursts), -1, 1).astype(np.float32)
