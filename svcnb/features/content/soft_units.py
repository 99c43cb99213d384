"""The content encoder that needs no download: soft k-means units on speaker-normalised cepstra.

Each band is levelled by its own loud frames; a frame of 25 ms becomes 13 mel cepstra and their slopes, in
units of the recording's own mean and spread (that takes out the microphone, the level and most of the
voice); then follows the share that each of 200 learned centres has in it. Filters are at least 400 Hz
wide, so that single harmonics (the pitch) do not show. Everything that defines the encoder, filters
included, is in one small safetensors file.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svcnb.features.content.waveform import SAMPLE_RATE_HZ, as_waveform
from svcnb.files.checkpoint import load_weights, read_own, write_own

BLOCK_FRAMES = 16384  # frames analysed at once: bounds memory on long recordings
FILE_VERSION = 1
KIND = "soft-units"
PRIOR_FRAMES = 25.0  # a recording's statistics start from half a second of the average reader's
LOUD_SHARE = 0.98
SILENCE_POWER = 1e-9  # about one step of 16 bits: digital silence is not amplified
FAINTEST_BAND = 1e-6
SMALLEST_SPREAD = 0.3  # of the average reader's: a held note is no reason to amplify noise


@dataclass(frozen=True)
class SoftUnitSettings:
    """What the units are made of. The defaults are those of the bundled file.

    temperature: of softmax(-squared distance / temperature); 2 gives a perplexity of about 17 of 200,
        1 is close to hard units, 8 to the average of all.
    power_floor: relative to the loud frames of each band: noise below it does not count.
    first_weight, last_weight: weights of the first and the last cepstrum, linear in between: fine
        spectral detail tells more about the voice than about the phone.
    """

    n_centres: int = 200
    n_cepstra: int = 13
    n_filters: int = 26
    window_samples: int = 400
    hop_samples: int = 320
    n_fft: int = 512
    fmin_hz: float = 60.0
    fmax_hz: float = 7600.0
    smallest_half_width_hz: float = 200.0
    pre_emphasis: float = 0.97
    power_floor: float = 1e-4
    active_range_db: float = 30.0
    largest_deviation: float = 4.0
    first_weight: float = 1.3
    last_weight: float = 0.7
    slope_frames: int = 3
    slope_weight: float = 3.0
    temperature: float = 2.0


@dataclass(frozen=True)
class VoiceStatistics:
    """Gains [M] that level a voice's bands, mean and spread [C] of its cepstra over frames that are not silent."""

    gain: Tensor
    mean: Tensor
    spread: Tensor


class SoftUnitNetwork(nn.Module):
    """Waveform [B, T] at 16 kHz -> shares [B, N, K], N = T // hop (at least 1); no trained layers, buffers only."""

    def __init__(self, settings: SoftUnitSettings) -> None:
        super().__init__()
        self.settings = s = settings
        self.register_buffer("window", torch.hann_window(s.window_samples))
        self.register_buffer("filters", _wide_mel_filters(s))  # [M, F]
        self.register_buffer("cosines", _cosines(s.n_cepstra, s.n_filters))  # [C, M]
        self.register_buffer("weights", torch.linspace(s.first_weight, s.last_weight, s.n_cepstra))
        self.register_buffer("mean", torch.zeros(s.n_cepstra))
        self.register_buffer("spread", torch.ones(s.n_cepstra))
        self.register_buffer("centres", torch.zeros(s.n_centres, 2 * s.n_cepstra))

    def gain(self, waveforms: list[Tensor]) -> Tensor:
        """Power gains [M] that bring each band of one voice's waveforms, each [1, T], to one in its loud frames.

        A band that is 60 dB below the loudest holds no speech, and is not raised further.
        """
        power = torch.cat([self._bands(waveform)[0] for waveform in waveforms])  # [N, M]
        # quantile takes at most 16 M values
        loud = torch.quantile(power[:: 1 + len(power) // 500_000], LOUD_SHARE, dim=0)
        return 1 / loud.clamp_min(float(loud.max()) * FAINTEST_BAND).clamp_min(SILENCE_POWER)

    def cepstra(self, waveform: Tensor, gain: Tensor) -> Tensor:
        """Mel cepstra [B, N, C] of [B, T]; frame i is centred on sample (i + 0.5) * hop."""
        return torch.log(self._bands(waveform) * gain + self.settings.power_floor) @ self.cosines.T

    def _bands(self, waveform: Tensor) -> Tensor:
        """Band powers [B, N, M]: the mean square of white noise is its power in every band."""
        blocks = self._frames(waveform).split(BLOCK_FRAMES, dim=1)
        spectra = (torch.fft.rfft(block * self.window, self.settings.n_fft).abs().square() for block in blocks)
        return torch.cat([spectrum @ self.filters.T for spectrum in spectra], dim=1) / self.window.square().sum()

    def _frames(self, waveform: Tensor) -> Tensor:
        """Overlapping pieces [B, N, window] of the pre-emphasised waveform; a view."""
        s = self.settings
        missing = max(0, s.hop_samples - waveform.shape[-1])
        margin = (s.window_samples - s.hop_samples) // 2
        padded = F.pad(waveform, (margin + 1, margin + missing))
        emphasised = padded[:, 1:] - s.pre_emphasis * padded[:, :-1]
        return emphasised.unfold(1, s.window_samples, s.hop_samples)

    def statistics(self, waveforms: list[Tensor]) -> VoiceStatistics:
        """Of one voice's waveforms, each [1, T]."""
        gain = self.gain(waveforms)
        return self.moments(gain, [self.cepstra(waveform, gain)[0] for waveform in waveforms])

    def moments(self, gain: Tensor, cepstra: list[Tensor]) -> VoiceStatistics:
        """Statistics of cepstra (each [N, C]), drawn towards the average reader where there is little.

        Frames more than `active_range_db` below the loud ones do not count.
        """
        frames = torch.cat(cepstra)
        nepers = frames[:, 0] / math.sqrt(2 * self.settings.n_filters)  # mean log power of the bands
        loud = torch.quantile(nepers[:: 1 + len(nepers) // 1_000_000], LOUD_SHARE)
        if loud < math.log(self.settings.power_floor) + 1.0:  # nothing but digital silence
            return VoiceStatistics(gain, self.mean, self.spread)
        active = frames[nepers >= loud - self.settings.active_range_db / 10 * math.log(10)]
        own = len(active) / (len(active) + PRIOR_FRAMES)
        mean = own * active.mean(0) + (1 - own) * self.mean
        variance = own * active.var(0, unbiased=False) + (1 - own) * self.spread.square()
        return VoiceStatistics(gain, mean, torch.maximum(variance.sqrt(), SMALLEST_SPREAD * self.spread))

    def normalised(self, cepstra: Tensor, statistics: VoiceStatistics) -> Tensor:
        """[B, N, 2C]: weighted cepstra in units of the voice's spread, and their slopes over a few frames."""
        s = self.settings
        largest = s.largest_deviation
        static = ((cepstra - statistics.mean) / statistics.spread).clamp(-largest, largest) * self.weights
        reach = s.slope_frames
        ramp = torch.arange(-reach, reach + 1, device=static.device, dtype=static.dtype)
        kernel = (ramp / ramp.square().sum()).expand(s.n_cepstra, 1, -1)
        padded = F.pad(static.transpose(1, 2), (reach, reach), mode="replicate")  # [B, C, N + 2 reach]
        slopes = F.conv1d(padded, kernel, groups=s.n_cepstra).transpose(1, 2)
        return torch.cat([static, s.slope_weight * slopes], dim=2)

    def forward(self, waveform: Tensor, statistics: VoiceStatistics) -> Tensor:
        points = self.normalised(self.cepstra(waveform, statistics.gain), statistics)
        # |x|^2 is the same for all centres: softmax does not see it
        closeness = 2 * points @ self.centres.T - self.centres.square().sum(1)
        return torch.softmax(closeness / self.settings.temperature, dim=2)

    def save(self, path: str | Path, *, metadata: dict[str, object]) -> Path:
        about = {**metadata, "kind": KIND, "version": FILE_VERSION, "settings": asdict(self.settings)}
        return write_own(path, self.state_dict(), about)

    @classmethod
    def load(cls, path: str | Path) -> SoftUnitNetwork:
        tensors, about = read_own(path, kind=KIND, version=FILE_VERSION)
        network = cls(SoftUnitSettings(**about["settings"]))
        load_weights(network, tensors)
        return network.eval()


class SoftUnits:
    """Encoder over a `SoftUnitNetwork`; bind it to a voice with `for_recording` for the best units."""

    name = "soft-units"

    def __init__(self, network: SoftUnitNetwork, *, statistics: VoiceStatistics | None = None) -> None:
        self.network = network
        self.statistics = statistics
        self.width = network.settings.n_centres
        self.hop_samples = network.settings.hop_samples

    @torch.no_grad()
    def for_recording(self, *clips: Tensor | np.ndarray) -> SoftUnits:
        """The encoder with the statistics of one voice: all its clips, or the whole recording to convert."""
        return SoftUnits(self.network, statistics=self.network.statistics([self._waveform(clip) for clip in clips]))

    @torch.no_grad()
    def encode(self, samples: Tensor | np.ndarray) -> Tensor:
        """float32 [N, K], rows sum to 1, N = T // 320, at least 1. Unbound, the clip's own statistics are used."""
        waveform = self._waveform(samples)
        statistics = self.statistics or self.network.statistics([waveform])
        return self.network(waveform, statistics)[0]

    def _waveform(self, samples: Tensor | np.ndarray) -> Tensor:
        return as_waveform(samples, self.network.centres.device)[None]


def _wide_mel_filters(settings: SoftUnitSettings) -> Tensor:
    """Triangles [M, F] centred on the mel scale, each at least `smallest_half_width_hz` to either side, sum 1."""
    edges_mel = 2595 * np.log10(1 + np.array([settings.fmin_hz, settings.fmax_hz]) / 700)
    points_hz = 700 * (10 ** (np.linspace(*edges_mel, settings.n_filters + 2) / 2595) - 1)
    bins_hz = np.arange(settings.n_fft // 2 + 1) * SAMPLE_RATE_HZ / settings.n_fft
    centre = points_hz[1:-1, None]
    low = np.minimum(points_hz[:-2, None], centre - settings.smallest_half_width_hz)
    high = np.maximum(points_hz[2:, None], centre + settings.smallest_half_width_hz)
    triangles = np.maximum(0, np.minimum((bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)))
    return torch.from_numpy(triangles / triangles.sum(1, keepdims=True)).float()


def _cosines(n_cepstra: int, n_filters: int) -> Tensor:
    """Rows of the DCT-II [C, M]."""
    order, band = np.arange(n_cepstra)[:, None], np.arange(n_filters)
    return torch.from_numpy(np.cos(np.pi * order * (band + 0.5) / n_filters) * np.sqrt(2 / n_filters)).float()
