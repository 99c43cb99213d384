"""Training dataset over a feature store: validation split and clips as tensors.

Every random choice is drawn from (seed, epoch, clip), never from a running state: a resumed run gets the same
examples as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from svcnb import SvcError
from svcnb.data.feature_store import INT16_SCALE, Arrays, FeatureStore
from svcnb.features.content.encoders import align_to_frames
from svcnb.features.pitch.track import F0Track
from svcnb.files.disk import write_text

MIN_CLIPS_TO_HOLD_OUT = 5
MAX_VALIDATION_RATIO = 0.2
MIN_VALIDATION_CLIPS = 2
MIN_VALIDATION_S = 25.0
log = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------- split


@dataclass(frozen=True)
class Split:
    """Names of training clips and of clips held out for validation."""

    training: list[str]
    validation: list[str]


def split_clips(
    names: Sequence[str],
    *,
    validation_ratio: float = 0.05,
    durations_s: Mapping[str, float] | None = None,
    seed: int = 1234,
) -> Split:
    """Hold out some clips of every speaker (the part of a name before the first "/").

    `validation_ratio` of each speaker's clips, at most a fifth, and none of fewer than 5 clips. If the
    durations are known it is also at least two clips and 25 s, up to a fifth: a mean over less is too noisy.
    The choice depends on the seed and on each name only, not on the order of the names.
    """
    by_speaker: dict[str, list[str]] = {}
    for name in names:
        by_speaker.setdefault(name.split("/")[0], []).append(name)
    held_out: set[str] = set()
    for own in by_speaker.values():
        if len(own) >= MIN_CLIPS_TO_HOLD_OUT and validation_ratio > 0:
            drawn = sorted(own, key=lambda name: _draw(seed, name))
            wanted = max(1, round(validation_ratio * len(own)))
            if durations_s is not None:
                reached_s = np.cumsum([durations_s[name] for name in drawn])
                wanted = max(
                    wanted, MIN_VALIDATION_CLIPS, 1 + int(np.searchsorted(reached_s, MIN_VALIDATION_S))
                )
            held_out.update(drawn[: min(wanted, int(MAX_VALIDATION_RATIO * len(own)))])
    return Split(
        [name for name in names if name not in held_out], [name for name in names if name in held_out]
    )


def _draw(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()


def load_split(store: FeatureStore, *, validation_ratio: float = 0.05, seed: int = 1234) -> Split:
    """Load the split stored with the features; it is made at the first call.

    A training clip never becomes a validation clip: new clips of known speakers are used for training, only
    new speakers are split.
    """
    path = store.folder / "split.json"
    known = (
        json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"training": [], "validation": []}
    )
    seen = {name.split("/")[0] for name in known["training"] + known["validation"]}
    new = [name for name in store.names() if name.split("/")[0] not in seen]
    durations_s = {name: store.duration_s(name) for name in new}
    drawn = split_clips(new, validation_ratio=validation_ratio, durations_s=durations_s, seed=seed)
    held_out = set(known["validation"]) | set(drawn.validation)
    split = Split(
        training=[name for name in store.names() if name not in held_out],
        validation=[name for name in store.names() if name in held_out],
    )
    if not split.training:
        raise SvcError(
            f"every clip of {store.folder} is held out for validation: delete {path} to split anew"
        )
    content = json.dumps({"seed": seed} | split.__dict__, indent=1, ensure_ascii=False) + "\n"
    if (
        not path.exists() or path.read_text(encoding="utf-8") != content
    ):  # processes that train together all come here
        write_text(path, content)
    return split


# ---------------------------------------------------------------------------------------------- clips


@dataclass
class Item:
    """One clip, or a crop of it, on the frame grid (N frames, N * hop samples)."""

    name: str
    speaker: int
    content: Tensor  # [D, N]
    f0_hz: Tensor  # [N], gaps interpolated
    voiced: Tensor  # [N], 1 = voiced
    audio: Tensor  # [N * hop], -1..1
    volume: Tensor | None = None  # [N]

    @property
    def n_frames(self) -> int:
        return len(self.f0_hz)


@dataclass(eq=False)
class VoiceDataset(Dataset):
    """Clips of a store as items; indexed by (epoch, index), or by index alone for epoch 0.

    Attributes:
        names: clips to use, e.g. `load_split(store).training`.
        speakers: speaker name -> id.
        max_frames: longer clips are cropped to this, at a random position from (seed, epoch, index).
        unit_interpolate_mode: how content is stretched to the frame grid; as the checkpoint requires.
        augment: augments an item, given a generator seeded like the crop; None: no augmentation.
        in_memory: keep the arrays in memory after the first read.
    """

    store: FeatureStore
    names: Sequence[str]
    speakers: dict[str, int]
    max_frames: int = field(default=790, kw_only=True)
    unit_interpolate_mode: str = field(default="nearest", kw_only=True)
    augment: Callable[[Item, np.random.Generator], Item] | None = field(default=None, kw_only=True)
    seed: int = field(default=1234, kw_only=True)
    in_memory: bool = field(default=False, kw_only=True)
    _kept: dict[str, Arrays] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.names:
            raise SvcError("no clips to train on: extract features of at least one clip first")
        found = {self.store.record(name).speaker for name in self.names}
        if unknown := sorted(found - set(self.speakers)):
            known = ", ".join(self.speakers)
            raise SvcError(f"speakers {', '.join(unknown)} have features but no id: known are {known}")

    def __len__(self) -> int:
        return len(self.names)

    def lengths(self) -> list[int]:
        """Frames of each item."""
        return [min(self.store.record(name).n_frames, self.max_frames) for name in self.names]

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        epoch, index = (0, key) if isinstance(key, int) else key
        rng = np.random.default_rng([self.seed, epoch, index])
        item = self._whole(self.names[index])
        if item.n_frames > self.max_frames:
            start = int(rng.integers(item.n_frames - self.max_frames + 1))
            item = crop(item, start, self.max_frames, hop_samples=self.store.settings.hop_samples)
        return item if self.augment is None else self.augment(item, rng)

    def _whole(self, name: str) -> Item:
        arrays = self._kept.get(name) or self.store.read(name)
        if self.in_memory:
            self._kept[name] = arrays
        settings, record = self.store.settings, self.store.record(name)
        n_frames = record.n_frames
        track = F0Track(arrays["f0_hz"][:n_frames], settings.hop_s)
        content = torch.from_numpy(arrays["content"]).float().T  # [D, N50]
        volume = torch.from_numpy(arrays["volume"][:n_frames]).float() if "volume" in arrays else None
        return Item(
            name=name,
            speaker=self.speakers[record.speaker],
            content=align_to_frames(content, n_frames, mode=self.unit_interpolate_mode),
            f0_hz=torch.as_tensor(track.interpolated(), dtype=torch.float32),
            voiced=torch.as_tensor(track.voiced, dtype=torch.float32),
            audio=torch.from_numpy(arrays["audio"][: n_frames * settings.hop_samples]).float() / INT16_SCALE,
            volume=volume,
        )


def crop(item: Item, start: int, n_frames: int, *, hop_samples: int) -> Item:
    """Frames start .. start + n_frames of an item, and their samples."""
    end = start + n_frames
    return replace(
        item,
        content=item.content[:, start:end],
        f0_hz=item.f0_hz[start:end],
        voiced=item.voiced[start:end],
        audio=item.audio[start * hop_samples : end * hop_samples],
        volume=None if item.volume is None else item.volume[start:end],
    )
