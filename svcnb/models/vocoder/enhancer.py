"""The enhancer: a vocoder resynthesizes a voice's output, which smooths the timbre of weak models."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from svcnb.audio.audio import resample_samples
from svcnb.audio.spectral import SincResample
from svcnb.models.vocoder.network import Vocoder
from svcnb.nn.layers import Noise

FILTER_WIDTH = 128  # zero crossings of the resampling filter for the adaptive key; the original's


class Enhancer:
    """Resynthesizes audio of one sample rate by a vocoder of any sample rate.

    Args:
        vocoder: ready for inference.
        sample_rate_hz, hop_samples: of the voice's audio and f0. If the vocoder's sample rate differs, the
            audio is resampled to it and back.
        adaptive_key: semitones. Above 0 a high voice is shifted down into the vocoder's range, and back.

    Source: so-vits-svc 4.1, modules/enhancer.
    """

    def __init__(
        self, vocoder: Vocoder, *, sample_rate_hz: int, hop_samples: int, adaptive_key: int = 0
    ) -> None:
        self.vocoder = vocoder
        self.sample_rate_hz = sample_rate_hz
        self.hop_s = hop_samples / sample_rate_hz
        rate_hz = vocoder.settings.sampling_rate
        self.shifted_hz = 100 * round(rate_hz * 2 ** (adaptive_key / 12) / 100) if adaptive_key else rate_hz
        device = next(vocoder.parameters()).device
        pairs = (rate_hz, self.shifted_hz), (self.shifted_hz, rate_hz)
        self.stretch, self.shrink = (
            SincResample(*pair, lowpass_filter_width=FILTER_WIDTH).to(device) for pair in pairs
        )

    @torch.inference_mode()
    def __call__(self, samples: np.ndarray, f0_hz: np.ndarray, *, noise: Noise | None = None) -> np.ndarray:
        """Enhance audio.

        Args:
            samples: float32 [T] at the voice's rate.
            f0_hz: [N], one value per frame of the voice, gaps interpolated.
            noise: random numbers of the vocoder's harmonic source.

        Returns:
            float32 [T].
        """
        if not len(samples):
            return np.zeros(0, np.float32)
        rate_hz = self.vocoder.settings.sampling_rate
        resampled = torch.from_numpy(resample_samples(samples, self.sample_rate_hz, rate_hz))
        audio = self._resynthesize(self.stretch(resampled.to(self.stretch.kernel.device)), f0_hz, noise)
        result = resample_samples(self.shrink(audio).cpu().numpy(), rate_hz, self.sample_rate_hz)
        return np.pad(result[: len(samples)], (0, max(0, len(samples) - len(result))))

    def _resynthesize(self, samples: Tensor, f0_hz: np.ndarray, noise: Noise | None) -> Tensor:
        """[T] at the vocoder's rate, stretched -> [T'] of the same duration, at most one frame longer."""
        hop = self.vocoder.settings.hop_size
        whole = F.pad(samples, (0, -len(samples) % hop))
        mel = self.vocoder.mel(whole[None])  # [1, M, N']
        times_s = np.arange(mel.shape[-1]) * hop / self.shifted_hz
        stored_hz = np.asarray(f0_hz, dtype=np.float64)
        f0 = np.interp(times_s, np.arange(len(stored_hz)) * self.hop_s, stored_hz)  # constant beyond the ends
        lowered = torch.from_numpy(f0 * self.vocoder.settings.sampling_rate / self.shifted_hz)
        return self.vocoder(mel, lowered.to(mel)[None], noise=noise)[0, 0].float()
