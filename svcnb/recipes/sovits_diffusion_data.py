"""What a diffusion model learns from: crops of clips with their mel spectra, half of them in another key.

The mel spectra are computed from the stored recordings whenever a crop is drawn. So there is nothing on disk that
could belong to another vocoder or to another draw, and every epoch hears every clip in a new key and loudness.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from svcnb.audio import resample_samples
from svcnb.dataset import BucketBatches, FeatureStore, Item, VoiceDataset, VoiceLoader
from svcnb.models.denoiser import SHIFT_SCALE
from svcnb.recipes.sovits_diffusion_config import DiffusionConfig
from svcnb.spectral import VocoderMel, volume_envelope

CHANCE = 0.5  # part of the crops that are heard in another key and loudness
QUIETEST_EXPONENT = -1.0  # 10^-1 of the amplitude: -20 dB
MARGIN_FRAMES = 4  # heard on both sides of a crop: as far as a mel window reaches, key shift included
WHOLE_CLIP_FRAMES = 10**9


@dataclass
class Crop:
    """Part of a clip: N frames, and the sound of `MARGIN_FRAMES` more on both sides."""

    content: Tensor  # [D, N]
    f0_hz: Tensor  # [N], gaps interpolated, in the key of the crop
    volume: Tensor  # [N]
    audio: Tensor  # [(N + 2 * margin) * hop] at the vocoder's rate, -1..1
    speaker: int
    shift_semitones: float = 0.0  # of the mel spectrum, by VocoderMel's key shift

    @property
    def n_frames(self) -> int:
        return len(self.f0_hz)


@dataclass
class DiffusionBatch:
    """Crops padded with zeros to the longest."""

    content: Tensor  # [B, N, D]
    f0_hz: Tensor  # [B, N, 1]
    volume: Tensor  # [B, N, 1]
    audio: Tensor  # [B, (N + 2 * margin) * hop]
    speaker: Tensor  # [B, 1] long
    shift_semitones: Tensor  # [B, 1, 1]
    lengths: Tensor  # [B] long, frames

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device | str) -> DiffusionBatch:
        return DiffusionBatch(*(getattr(self, field.name).to(device) for field in fields(self)))

    def pin_memory(self) -> DiffusionBatch:
        return DiffusionBatch(*(getattr(self, field.name).pin_memory() for field in fields(self)))

    def mel(self, transform: VocoderMel) -> Tensor:
        """The crops' log mel [B, N, M], each with its own key shift; exact also at the crops' ends."""
        shifts = self.shift_semitones[:, 0, 0].tolist()
        parts = [transform(row[None], key_shift_semitones=shift) for row, shift in zip(self.audio, shifts, strict=True)]
        return torch.cat(parts)[:, :, MARGIN_FRAMES:-MARGIN_FRAMES].transpose(1, 2)


class DiffusionClips(Dataset):
    """Crops of the clips of a store, indexed by (epoch, index); a long clip is drawn from more often than a short one.

    Everything random follows from (seed, epoch, index).
    """

    def __init__(
        self, store: FeatureStore, names: Sequence[str], config: DiffusionConfig, *, augment: bool, seed: int = 1234,
        in_memory: bool = True,
    ) -> None:  # fmt: skip
        self.n_frames = max(1, int(config.data.duration * config.data.sampling_rate / config.data.block_size))
        self.rate_hz, self.hop_samples = config.data.sampling_rate, config.data.block_size
        self.stored_hz, self.stored_hop = store.settings.sample_rate_hz, store.settings.hop_samples
        self.augment = augment and config.model.use_pitch_aug
        self.seed = seed
        self.in_memory = in_memory
        repeated = [name for name in names for _ in range(max(1, round(store.record(name).n_frames / self.n_frames)))]
        self._lengths = [min(store.record(name).n_frames, self.n_frames) for name in repeated]
        self._whole = VoiceDataset(
            store, repeated, config.spk, max_frames=WHOLE_CLIP_FRAMES, in_memory=in_memory,
            unit_interpolate_mode=config.data.unit_interpolate_mode,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self._lengths)

    def lengths(self) -> list[int]:
        """Frames of each crop."""
        return self._lengths

    def __getitem__(self, key: tuple[int, int]) -> Crop:
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        clip = self._whole[index]
        start = int(rng.integers(max(0, clip.n_frames - self.n_frames) + 1))
        crop = self._cut(clip, start, min(clip.n_frames, self.n_frames))
        if self.augment and rng.random() < CHANCE:
            crop = shift_crop(crop, rng)
        return crop

    def _cut(self, clip: Item, start: int, n_frames: int) -> Crop:
        volume = volume_envelope(clip.audio, self.stored_hop) if clip.volume is None else clip.volume
        span = slice(start, start + n_frames)
        margin = MARGIN_FRAMES * self.stored_hop
        padded = np.pad(clip.audio.numpy(), margin, mode="reflect")  # as the mel of the whole clip has it
        heard = padded[start * self.stored_hop : (start + n_frames) * self.stored_hop + 2 * margin]
        audio = resample_samples(heard, self.stored_hz, self.rate_hz)
        n_samples = (n_frames + 2 * MARGIN_FRAMES) * self.hop_samples
        audio = np.pad(audio[:n_samples], (0, max(0, n_samples - len(audio))))
        return Crop(clip.content[:, span], clip.f0_hz[span], volume[span], torch.from_numpy(audio), clip.speaker)


def shift_crop(crop: Crop, rng: np.random.Generator) -> Crop:
    """The crop in another key, up to 5 semitones away, and of another loudness, up to full scale.

    Source: so-vits-svc 4.1, aug_mel, aug_vol and the f0 that goes with them.
    """
    peak = float(crop.audio.abs().max()) + 1e-5
    gain = float(10.0 ** rng.uniform(QUIETEST_EXPONENT, min(1.0, -math.log10(peak))))
    semitones = float(rng.uniform(-SHIFT_SCALE, SHIFT_SCALE))
    return replace(
        crop,
        audio=crop.audio * gain,
        volume=crop.volume * gain,
        f0_hz=crop.f0_hz * 2 ** (semitones / 12),
        shift_semitones=semitones,
    )


def collate_crops(crops: Sequence[Crop]) -> DiffusionBatch:
    """Pad crops to the longest of them."""
    longest = max(crop.n_frames for crop in crops)
    n_samples = max(len(crop.audio) for crop in crops)

    def padded(rows: list[Tensor], length: int) -> Tensor:
        return torch.stack([F.pad(row, (0, length - row.shape[-1])) for row in rows])

    return DiffusionBatch(
        content=padded([crop.content for crop in crops], longest).transpose(1, 2),
        f0_hz=padded([crop.f0_hz for crop in crops], longest)[..., None],
        volume=padded([crop.volume for crop in crops], longest)[..., None],
        audio=padded([crop.audio for crop in crops], n_samples),
        speaker=torch.tensor([[crop.speaker] for crop in crops]),
        shift_semitones=torch.tensor([[[crop.shift_semitones]] for crop in crops]),
        lengths=torch.tensor([crop.n_frames for crop in crops]),
    )


def crop_loader(clips: DiffusionClips, batch_size: int, *, n_workers: int = 0) -> VoiceLoader:
    """Batches of crops, reshuffled every epoch; smaller ones where there are not so many crops."""
    batches = BucketBatches(clips.lengths(), min(batch_size, len(clips)), seed=clips.seed)
    n_workers = 0 if clips.in_memory else n_workers
    return VoiceLoader(clips, batches, collate_items=collate_crops, n_workers=n_workers)
