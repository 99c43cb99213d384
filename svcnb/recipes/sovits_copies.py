"""Copy-synthesis: a recording through the posterior encoder and the decoder, without content, prior and flow.

What is bad in a copy is the decoder's fault, or the data's; what is bad in a conversion only is the content's.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from svcnb.audio import Audio
from svcnb.conversion import ConversionSettings, PieceInput, convert_long
from svcnb.models.layers import Noise, sample_latents
from svcnb.models.sovits import SynthesizerTrn
from svcnb.pitch import F0Track, PitchEstimator
from svcnb.recipes.sovits_config import Config
from svcnb.spectral import Stft


def copy_recording(
    audio: Audio, generator: SynthesizerTrn, config: Config, *, estimator: PitchEstimator, speaker_id: int
) -> Audio:
    """The recording as the decoder gives it back, exactly as long, at the voice's rate.

    Cut into the same pieces as a conversion, so that the two can be compared. The posterior's latents are drawn, as in
    training, not taken at their mean.
    """
    data, settings = config.data, ConversionSettings()
    device = next(generator.parameters()).device
    stft = Stft(n_fft=data.filter_length, hop_samples=data.hop_length, win_samples=data.win_length).to(device)
    speaker = torch.tensor([[speaker_id]], device=device)

    def copy_piece(piece: PieceInput) -> np.ndarray:
        spec = stft(torch.from_numpy(piece.samples)[None].to(device))
        noise = Noise(torch.Generator().manual_seed(settings.seed))
        return _decode_posterior(generator, spec, estimator(piece.samples), speaker, noise=noise)

    return convert_long(audio, copy_piece, settings, output_hz=data.sampling_rate, hop_samples=data.hop_length)


@torch.inference_mode()
def _decode_posterior(
    generator: SynthesizerTrn, spec: Tensor, track: F0Track, speaker: Tensor, *, noise: Noise
) -> np.ndarray:
    """Spectrogram [1, F, N] and melody of N frames -> latents of the posterior -> float32 [N * hop]."""
    rows = np.stack([track.interpolated(), track.voiced])
    f0_hz, voiced = torch.as_tensor(rows, dtype=torch.float32, device=spec.device)[:, None]  # [1, N] each
    mask = torch.ones_like(f0_hz)[:, None]
    g = generator.embed_speaker(speaker)
    latents = sample_latents(*generator.enc_q(spec, mask, g), mask, noise)
    audio = generator.dec(latents, generator.source_f0(f0_hz, voiced), g, noise=noise)
    return audio[0, 0].float().cpu().numpy()
