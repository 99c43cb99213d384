"""Training batches of the learned encoder: each crop of a labelled clip in two speaker-perturbed views.

Perturbation: resampling (shifts f0 and formants), a warp of the frequency axis (formants only), random
equalisation and additive noise, all before the bands are normalized. Both views keep the crop's frames, so
their content must be equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from svcnb import SvcError
from svcnb.features.content.bundled import SAMPLE_RATE_HZ, NormalizedBands, mel_filters

N_WARPS = 41
SYNTHESISERS = ("flite-", "pico-")  # prefixes of their speaker names


@dataclass(frozen=True)
class PerturbSettings:
    """Strength of the speaker perturbation. Ratios are log-uniform between 1/x and x.

    pitch_ratio, formant_ratio: of f0 and of formants, drawn independently.
    pace_ratio: of durations, equal for both views of a crop.
    equaliser_db: largest slope over the whole range, and standard deviation of random bumps.
    noise_db: signal-to-noise ratio, drawn between this and 60 dB.
    mask_share: fraction of frames masked, in spans of up to `mask_frames`; one strip of bands is masked, too.
    """

    pitch_ratio: float = 1.35
    formant_ratio: float = 1.22
    pace_ratio: float = 1.2
    equaliser_db: float = 8.0
    noise_db: float = 20.0
    mask_share: float = 0.08
    mask_frames: int = 12  # of 10 ms
    mask_bands: int = 8


@dataclass(frozen=True)
class Batch:
    """Crops with labels and teacher features, B crops of N content frames."""

    views: Tensor  # [2B, 2N, M] normalized bands: first views of all crops, then second views
    plain: Tensor  # [B, 2N, M] of the unperturbed crops
    labels: Tensor  # [B, N] phone numbers
    trust: Tensor  # [B, N] confidence of the labels, 0..1
    present: Tensor  # [B, N] 1 inside the clip
    teacher: (
        Tensor  # [B, N, H] features of the speech recogniser, normalized to mean 0 and standard deviation 1
    )
    speakers: Tensor  # [B] speaker numbers


class ClipStore:
    """All clips in memory, as 16-bit samples."""

    def __init__(self, folder: Path, *, minimum_s: float = 1.0) -> None:
        self.paths = sorted(folder.rglob("*.npz"))
        if not self.paths:
            raise SvcError(f"no clips in {folder}, expected .npz files: run pretrain.make_encoder_data first")
        self.clips = []
        for path in self.paths:
            with np.load(path) as stored:
                if len(stored["samples"]) >= minimum_s * SAMPLE_RATE_HZ:
                    self.clips.append(
                        {name: stored[name] for name in ("samples", "labels", "trust", "heard", "speaker")}
                    )
        self.speakers = sorted({str(clip["speaker"]) for clip in self.clips})
        teacher = np.concatenate([clip["heard"][::10] for clip in self.clips]).astype(np.float32)
        self.teacher_mean, self.teacher_std = teacher.mean(0), teacher.std(0).clip(1e-6)
        self.n_seconds = np.array([len(clip["samples"]) / SAMPLE_RATE_HZ for clip in self.clips])

    def probabilities(self, synthetic_ratio: float) -> np.ndarray:
        """Sampling probability per clip: proportional to its length; `synthetic_ratio` in total for synthesisers."""
        synthetic = np.array([str(clip["speaker"]).startswith(SYNTHESISERS) for clip in self.clips])
        weights = self.n_seconds.copy()
        for kind, ratio in ((synthetic, synthetic_ratio), (~synthetic, 1 - synthetic_ratio)):
            weights[kind] *= ratio / max(weights[kind].sum(), 1e-9)
        return weights / weights.sum()


class BatchMaker:
    """Draws random batches from one generator."""

    def __init__(
        self, store: ClipStore, bands: NormalizedBands, *, settings: PerturbSettings, seed: int
    ) -> None:
        self.store, self.bands, self.settings = store, bands, settings
        self.random = np.random.default_rng(seed)
        self.warps = np.geomspace(0.65, 1 / 0.65, N_WARPS)
        self.filters = torch.stack([mel_filters(bands.settings, warp) for warp in self.warps])  # [W, M, F]
        self.number = {speaker: i for i, speaker in enumerate(store.speakers)}

    def draw(self, n_clips: int, seconds: float, probabilities: np.ndarray) -> Batch:
        n_frames = round(seconds * 50)
        chosen = [
            self.store.clips[i] for i in self.random.choice(len(probabilities), n_clips, p=probabilities)
        ]
        crops = [self._crop(clip, n_frames) for clip in chosen]
        samples, paces = torch.stack([c[0] for c in crops]), np.array([c[4] for c in crops])
        plain = self._power(samples, n_frames, pitch=np.ones(n_clips), warp=np.ones(n_clips), pace=paces)
        views = torch.cat([self._perturbed(samples, n_frames, paces) for _ in range(2)])
        normalized = [self.bands(power, self.bands.statistics(power)) for power in (views, plain)]
        labels, trust, teacher = (torch.from_numpy(np.stack([c[i] for c in crops])) for i in (1, 2, 3))
        speakers = torch.tensor([self.number[str(clip["speaker"])] for clip in chosen])
        present = (labels >= 0).float()
        return Batch(
            self._masked(normalized[0]), normalized[1], labels.clamp_min(0), trust, present, teacher, speakers
        )

    def _crop(
        self, clip: dict[str, np.ndarray], n_frames: int
    ) -> tuple[Tensor, np.ndarray, np.ndarray, np.ndarray, float]:
        """Samples with 0.5 s margins; labels (-1 outside the clip), trust and teacher features; the pace."""
        pace = self._ratio(self.settings.pace_ratio)
        n_samples = round(n_frames * 320 * pace)
        start = int(self.random.integers(0, max(1, len(clip["samples"]) - n_samples)))
        margin = SAMPLE_RATE_HZ // 2
        longest = margin * 2 + round(n_frames * 320 * self.settings.pace_ratio)
        wave = np.zeros(longest, np.float32)
        first = max(0, start - margin)
        part = clip["samples"][first : start - margin + longest]
        wave[first - start + margin :][: len(part)] = part / 32768
        at = (start + (np.arange(n_frames) + 0.5) * 320 * pace) / 320
        frame = np.minimum(at.astype(int), len(clip["labels"]) - 1)
        inside = at < len(clip["labels"])
        labels = np.where(inside, clip["labels"][frame].astype(np.int64), -1)
        trust = np.where(inside, clip["trust"][frame], 0).astype(np.float32)
        teacher = (clip["heard"][frame].astype(np.float32) - self.store.teacher_mean) / self.store.teacher_std
        return torch.from_numpy(wave), labels, trust, teacher, pace

    def _power(
        self, samples: Tensor, n_frames: int, *, pitch: np.ndarray, warp: np.ndarray, pace: np.ndarray
    ) -> Tensor:
        """Band powers [B, 2N, M] of crops [B, T], resampled and with warped bands."""
        s = self.bands.settings
        half = s.window_samples / 2
        centers = (
            (torch.arange(2 * n_frames) + 0.5) * s.hop_samples * torch.from_numpy(pace).float()[:, None]
        )  # [B, 2N]
        offsets = (torch.arange(s.window_samples) - half) * torch.from_numpy(pitch).float()[:, None]  # [B, W]
        at = centers[:, :, None] + offsets[:, None, :] + SAMPLE_RATE_HZ // 2  # [B, 2N, W]
        at = at.clamp(0, samples.shape[1] - 2)
        floor = at.floor()
        index = floor.long().flatten(1)
        low, high = (torch.gather(samples, 1, index + i).view_as(at) for i in (0, 1))
        spectrum = self.bands.spectrum(torch.lerp(low, high, at - floor))
        nearest = np.abs(np.log(self.warps)[None] - np.log(warp)[:, None]).argmin(1)
        return torch.bmm(spectrum, self.filters[nearest].transpose(1, 2))

    def _perturbed(self, samples: Tensor, n_frames: int, pace: np.ndarray) -> Tensor:
        s, n = self.settings, len(samples)
        pitch = np.array([self._ratio(s.pitch_ratio) for _ in range(n)])
        formants = np.array([self._ratio(s.formant_ratio) for _ in range(n)])
        power = self._power(samples, n_frames, pitch=pitch, warp=formants / pitch, pace=pace)
        bumps = F.interpolate(self._normal(n, 1, 6), power.shape[2], mode="linear")  # [B, 1, M]
        slope = torch.linspace(-1, 1, power.shape[2]) * self._uniform(-1, 1, n)[:, None, None]
        power = power * 10 ** ((bumps * 0.5 + slope) * s.equaliser_db / 10)
        level = power.mean((1, 2), keepdim=True) * 10 ** (
            -self._uniform(s.noise_db, 60, n)[:, None, None] / 10
        )
        grain = (
            self._normal(*power.shape).square() + self._normal(*power.shape).square()
        ) / 2  # chi-squared, as the power of noise
        tint = 10 ** (F.interpolate(self._normal(n, 1, 4), power.shape[2], mode="linear") * 0.5)
        return power + level * tint * grain

    def _masked(self, normalized: Tensor) -> Tensor:
        """SpecAugment: spans of frames and one strip of bands set to 0, the recording's mean."""
        s = self.settings
        n_views, n_frames, n_bands = normalized.shape
        keep = np.ones(normalized.shape, np.float32)
        n_spans = round(s.mask_share * n_frames / (s.mask_frames / 2))
        for view in range(n_views):
            for start in self.random.integers(0, n_frames, n_spans):
                keep[view, start : start + self.random.integers(1, s.mask_frames + 1)] = 0
            first = self.random.integers(0, n_bands)
            keep[view, :, first : first + self.random.integers(0, s.mask_bands + 1)] = 0
        return normalized * torch.from_numpy(keep)

    def _ratio(self, largest: float) -> float:
        return float(np.exp(self.random.uniform(-np.log(largest), np.log(largest))))

    def _normal(self, *shape: int) -> Tensor:
        return torch.from_numpy(self.random.standard_normal(shape, dtype=np.float32))

    def _uniform(self, low: float, high: float, n: int) -> Tensor:
        return torch.from_numpy(self.random.uniform(low, high, n).astype(np.float32))
