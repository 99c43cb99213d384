"""The bundled learned content encoder: a small convolutional network over normalized mel bands."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svcnb.features.content.waveform import as_waveform
from svcnb.files.checkpoint import load_weights, read_own, write_own
from svcnb.nn.frame_decoder import FrameBlock

FILE_VERSION = 1
KIND = "svcnb-units"
SAMPLE_RATE_HZ = 16000
BLOCK_FRAMES = 16384  # frames per block of the analysis: bounds memory on long recordings
MOST_FRAMES = 100_000  # used for statistics
PRIOR_FRAMES = 50.0  # weight of the prior (the training speakers' average) in a recording's statistics: 0.5 s
LOUD_RATIO = 0.98
SILENCE_POWER = 1e-9  # about one step of 16 bits: digital silence is not amplified
FAINTEST_BAND = 1e-6
SMALLEST_STD = 0.3  # relative to the prior: otherwise a sustained note would amplify noise
LARGEST_DEVIATION = 5.0


class LearnedUnits:
    """Content encoder with a `ContentNetwork`; best with the statistics of a speaker, see `for_recording`."""

    name = "svcnb-units"

    def __init__(self, network: ContentNetwork, *, statistics: BandStatistics | None = None) -> None:
        self.network = network.eval().requires_grad_(False)
        self.statistics = statistics
        self.width = network.settings.n_content
        self.hop_samples = 2 * network.settings.hop_samples

    @torch.no_grad()
    def for_recording(self, *clips: Tensor | np.ndarray) -> LearnedUnits:
        """The encoder with one speaker's statistics, from all clips or the whole recording to convert."""
        bands = self.network.bands
        power = torch.cat([bands.power(self._waveform(clip)) for clip in clips], dim=1)
        return LearnedUnits(self.network, statistics=bands.statistics(power))

    @torch.no_grad()
    def encode(self, samples: Tensor | np.ndarray) -> Tensor:
        """float32 [N, D], N = T // 320, at least 1; mean 0 and variance 1 in each frame.

        Without `for_recording` the clip's own statistics are used.
        """
        bands = self.network.bands
        power = bands.power(self._waveform(samples))
        normalized = bands(power, self.statistics or bands.statistics(power))
        blocks = _overlapping(normalized, self.network.context_frames)
        return torch.cat([self.network(block)[0, first:last] for block, first, last in blocks])

    def _waveform(self, samples: Tensor | np.ndarray) -> Tensor:
        return as_waveform(samples, self.network.narrow.weight.device)[None]


def _overlapping(normalized: Tensor, n_context: int) -> list[tuple[Tensor, int, int]]:
    """Blocks of normalized bands [1, 2N, M] with `n_context` frames on both sides, and the frames to keep."""
    n_frames = normalized.shape[1] // 2
    blocks = []
    for start in range(0, n_frames, READ_FRAMES):
        first, end = max(0, start - n_context), min(n_frames, start + READ_FRAMES)
        block = normalized[:, 2 * first : 2 * min(n_frames, end + n_context)]
        blocks.append((block, start - first, end - first))
    return blocks


def save_network(network: ContentNetwork, path: str | Path, *, metadata: dict[str, object]) -> Path:
    """Write the weights in float16 (the front end in float32), with the settings."""
    about = {**metadata, "kind": KIND, "version": FILE_VERSION, "settings": asdict(network.settings)}
    float16_state = {n: v if n.startswith("bands.") else v.half() for n, v in network.state_dict().items()}
    return write_own(path, float16_state, about)


def load_network(path: str | Path) -> ContentNetwork:
    """Load a file of `save_network`, in float32.

    Raises:
        CheckpointError: another kind of file, or another version.
    """
    tensors, about = read_own(path, kind=KIND, version=FILE_VERSION)
    network = ContentNetwork(ContentNetworkSettings(**about["settings"]))
    load_weights(network, {name: value.float() for name, value in tensors.items()})
    return network.eval()


@dataclass(frozen=True)
class ContentNetworkSettings:
    """Sizes; the defaults are those of the bundled file.

    smallest_half_width_hz: of a band; wide enough that single harmonics (f0) are hardly resolved.
    power_floor: relative to the loud frames of each band: masks noise below it.
    n_content: output width, values per frame.
    """

    n_bands: int = 60
    window_samples: int = 400
    hop_samples: int = 160
    n_fft: int = 512
    fmin_hz: float = 60.0
    fmax_hz: float = 7600.0
    smallest_half_width_hz: float = 180.0
    power_floor: float = 1e-4
    active_range_db: float = 30.0
    channels: int = 256
    n_blocks: int = 9
    kernel_size: int = 9
    expansion: int = 3
    n_content: int = 96


@dataclass(frozen=True)
class BandStatistics:
    """Gain per band, mean and standard deviation of the log bands over active frames; each [B, M]."""

    gain: Tensor
    mean: Tensor
    std: Tensor


class NormalizedBands(nn.Module):
    """Waveform to log-mel bands at 100 frames per second, normalized by the recording's statistics."""

    def __init__(self, settings: ContentNetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("window", torch.hann_window(settings.window_samples))
        self.register_buffer("filters", mel_filters(settings))  # [M, F]
        self.register_buffer("mean", torch.zeros(settings.n_bands))  # prior: average of the training speakers
        self.register_buffer("spread", torch.ones(settings.n_bands))

    def power(self, waveform: Tensor) -> Tensor:
        """Band powers [B, 2N, M] of [B, T], N = T // 320 (at least 1).

        Frame j is centered on sample (j + 0.5) * 160. For white noise the power in every band is its mean
        square.
        """
        s = self.settings
        n_frames = 2 * max(1, waveform.shape[-1] // (2 * s.hop_samples))
        margin = (s.window_samples - s.hop_samples) // 2
        missing = max(0, n_frames * s.hop_samples - waveform.shape[-1])
        frames = F.pad(waveform, (margin, margin + missing)).unfold(1, s.window_samples, s.hop_samples)[
            :, :n_frames
        ]
        return torch.cat(
            [self.filtered(self.spectrum(block)) for block in frames.split(BLOCK_FRAMES, dim=1)], dim=1
        )

    def spectrum(self, frames: Tensor) -> Tensor:
        """Power spectra [..., F] of frames [..., window]."""
        return (
            torch.fft.rfft(frames * self.window, self.settings.n_fft).abs().square()
            / self.window.square().sum()
        )

    def filtered(self, spectrum: Tensor) -> Tensor:
        return spectrum @ self.filters.T

    def statistics(self, power: Tensor) -> BandStatistics:
        """Band statistics of each item of [B, N, M], shrunk towards the prior for short recordings.

        Frames more than `active_range_db` below the loud ones are ignored. A band that is 60 dB below the
        loudest contains no speech and is not amplified further.
        """
        s = self.settings
        power = power[:, :: 1 + power.shape[1] // MOST_FRAMES]
        loud = torch.quantile(power, LOUD_RATIO, dim=1)
        gain = 1 / torch.maximum(loud, loud.amax(1, keepdim=True) * FAINTEST_BAND).clamp_min(SILENCE_POWER)
        logs = torch.log(power * gain[:, None] + s.power_floor)
        level = logs.mean(2)  # [B, N], mean log power of the bands
        loud_level = torch.quantile(level, LOUD_RATIO, dim=1, keepdim=True)
        not_silent = loud_level > math.log(s.power_floor) + 1.0
        loud_enough = level >= loud_level - s.active_range_db / 10 * math.log(10)
        active = (not_silent & loud_enough).float()[..., None]  # [B, N, 1]
        n_active = active.sum(1)  # [B, 1]
        mean = (logs * active).sum(1) / n_active.clamp_min(1)
        variance = ((logs - mean[:, None]).square() * active).sum(1) / n_active.clamp_min(1)
        weight = n_active / (n_active + PRIOR_FRAMES)
        mean = weight * mean + (1 - weight) * self.mean
        std = (weight * variance + (1 - weight) * self.spread.square()).sqrt()
        return BandStatistics(gain, mean, torch.maximum(std, SMALLEST_STD * self.spread))

    def forward(self, power: Tensor, statistics: BandStatistics) -> Tensor:
        """Normalized bands [B, N, M], mostly between -2 and 2."""
        logs = torch.log(power * statistics.gain[:, None] + self.settings.power_floor)
        normalized = (logs - statistics.mean[:, None]) / statistics.std[:, None]
        return normalized.clamp(-LARGEST_DEVIATION, LARGEST_DEVIATION)


class ContentNetwork(nn.Module):
    """Normalized bands [B, 2N, M] -> content [B, N, D]; ConvNeXt blocks."""

    def __init__(self, settings: ContentNetworkSettings) -> None:
        super().__init__()
        self.settings = s = settings
        self.bands = NormalizedBands(s)
        self.stem = nn.Conv1d(s.n_bands, s.channels, 4, stride=2, padding=1)
        self.stem_norm = nn.LayerNorm(s.channels)
        block = {"kernel_size": s.kernel_size, "expansion": s.expansion}
        self.blocks = nn.ModuleList(FrameBlock(s.channels, **block) for _ in range(s.n_blocks))
        self.norm = nn.LayerNorm(s.channels)
        self.narrow = nn.Linear(s.channels, s.n_content)

    @property
    def context_frames(self) -> int:
        """Receptive field to either side, in content frames of 20 ms."""
        return self.settings.n_blocks * (self.settings.kernel_size // 2) + 1

    def _states(self, normalized: Tensor) -> Iterator[Tensor]:
        """Input of the blocks and output of each block, [B, C, N]."""
        x = self.stem(normalized.transpose(1, 2))
        x = self.stem_norm(x.transpose(1, 2)).transpose(1, 2)
        yield x
        for block in self.blocks:
            x = block(x)
            yield x

    def hidden(self, normalized: Tensor) -> Tensor:
        """Output of the last block, [B, N, C]."""
        for last in self._states(normalized):
            pass
        return self.norm(last.transpose(1, 2))

    def forward(self, normalized: Tensor) -> Tensor:
        content = self.narrow(self.hidden(normalized))
        return F.layer_norm(content.float(), content.shape[-1:])

    def maps(self, normalized: Tensor, after: Sequence[int]) -> list[Tensor]:
        """Activations [B, N, C] after the given numbers of blocks (0: their input), and content [B, N, D]."""
        states = [x.transpose(1, 2) for x in self._states(normalized)]
        return [*(states[number] for number in after), self.narrow(self.norm(states[-1]))]


def mel_filters(settings: ContentNetworkSettings, warp: float = 1.0) -> Tensor:
    """Triangular mel filters [M, F], half width at least `smallest_half_width_hz`, each with sum 1.

    warp: vocal tract length perturbation: energy at f appears at f * warp; above 1 simulates a shorter vocal
    tract. Above 6 kHz (before or after the warp) the scale is piecewise linear, so that Nyquist is fixed.
    """
    edges_mel = 2595 * np.log10(1 + np.array([settings.fmin_hz, settings.fmax_hz]) / 700)
    points_hz = 700 * (10 ** (np.linspace(*edges_mel, settings.n_bands + 2) / 2595) - 1)
    nyquist_hz = SAMPLE_RATE_HZ / 2
    bins_hz = np.linspace(0, nyquist_hz, settings.n_fft // 2 + 1)
    knee_hz = 6000.0 / max(1.0, warp)
    bins_hz = np.interp(bins_hz, [0, knee_hz, nyquist_hz], [0, knee_hz * warp, nyquist_hz])
    center = points_hz[1:-1, None]
    low = np.minimum(points_hz[:-2, None], center - settings.smallest_half_width_hz)
    high = np.maximum(points_hz[2:, None], center + settings.smallest_half_width_hz)
    triangles = np.maximum(
        0, np.minimum((bins_hz - low) / (center - low), (high - bins_hz) / (high - center))
    )
    return torch.from_numpy(triangles / triangles.sum(1, keepdims=True).clip(1e-9)).float()


READ_FRAMES = 3000  # block of one minute: bounds memory on long recordings
