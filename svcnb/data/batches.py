"""Training batches: collation, bucketing by length, and distribution over processes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from svcnb import SvcError
from svcnb.data.dataset import Item, VoiceDataset, log

# Lengths are perturbed by up to this ratio before sorting, so that epochs group clips differently.
BUCKET_JITTER_RATIO = 0.1


# ---------------------------------------------------------------------------------------------- batches


@dataclass
class Batch:
    """Items zero-padded to the longest; `lengths` are the frames without padding."""

    content: Tensor  # [B, D, N]
    f0_hz: Tensor  # [B, N], gaps interpolated
    voiced: Tensor  # [B, N]
    audio: Tensor  # [B, 1, N * hop]
    speaker: Tensor  # [B, 1] long
    lengths: Tensor  # [B] long, frames
    volume: Tensor | None = None  # [B, N]
    spec: Tensor | None = None  # [B, F, N], if a recipe precomputed it
    names: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        return self._with_tensors(Tensor.pin_memory)

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values = {part.name: getattr(self, part.name) for part in fields(self)}
        return Batch(
            **{name: change(value) if isinstance(value, Tensor) else value for name, value in values.items()}
        )


def collate(items: Sequence[Item], *, min_frames: int = 1) -> Batch:
    """Pad items to the longest, or to `min_frames` (a decoder's segment) if all are shorter."""
    n_frames = max(min_frames, *(item.n_frames for item in items))
    hop_samples = len(items[0].audio) // items[0].n_frames
    volumes = [item.volume for item in items]
    return Batch(
        content=_padded([item.content for item in items], n_frames),
        f0_hz=_padded([item.f0_hz for item in items], n_frames),
        voiced=_padded([item.voiced for item in items], n_frames),
        audio=_padded([item.audio for item in items], n_frames * hop_samples).unsqueeze(1),
        speaker=torch.tensor([[item.speaker] for item in items]),
        lengths=torch.tensor([item.n_frames for item in items]),
        volume=None if any(volume is None for volume in volumes) else _padded(volumes, n_frames),
        names=[item.name for item in items],
    )


def pad(batch: Batch, n_frames: int) -> Batch:
    """Zero-pad a batch to `n_frames`; returned unchanged if it is long enough."""
    missing = n_frames - batch.f0_hz.shape[1]
    if missing <= 0:
        return batch
    hop_samples = batch.audio.shape[2] // batch.f0_hz.shape[1]
    fields_of_frames = ("content", "f0_hz", "voiced", "volume", "spec")
    longer = {name: getattr(batch, name) for name in fields_of_frames}
    longer = {name: None if x is None else F.pad(x, (0, missing)) for name, x in longer.items()}
    return replace(batch, **longer, audio=F.pad(batch.audio, (0, missing * hop_samples)))


def _padded(tensors: Sequence[Tensor], length: int) -> Tensor:
    padded = tensors[0].new_zeros(len(tensors), *tensors[0].shape[:-1], length)
    for row, tensor in zip(padded, tensors, strict=True):
        row[..., : tensor.shape[-1]] = tensor
    return padded


@dataclass(frozen=True)
class Part:
    """This process's share of every batch in distributed training."""

    rank: int = 0
    n_parts: int = 1


WHOLE = Part()


def check_parts(n_clips: int, n_parts: int) -> None:
    """Raise SvcError if there are fewer clips than processes."""
    if n_clips < n_parts:
        raise SvcError(
            f"{n_parts} processes cannot share {n_clips} clips: choose n_processes={n_clips} or fewer"
        )


class BucketBatches(Sampler[list[tuple[int, int]]]):
    """Batches of clips of similar length, shuffled per epoch from (seed, epoch); every clip once.

    Yields lists of (epoch, index) with the clips of `part` only, at least one per batch. A last batch with
    fewer clips than parts is dropped; its clips differ between epochs.

    Args:
        batch_size: clips per whole batch, of all parts together.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, *, seed: int, shuffle: bool = True, part: Part = WHOLE
    ) -> None:
        self.lengths = np.asarray(lengths, dtype=float)
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.part = part
        self.epoch = 0
        self.first_batch = 0

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """The next iteration is `epoch`, without its first `batch` batches."""
        self.epoch, self.first_batch = epoch, batch

    def __len__(self) -> int:
        """Number of batches of a whole epoch."""
        n_whole, n_left = divmod(len(self.lengths), self.batch_size)
        return n_whole + (n_left >= self.part.n_parts)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        shared = [indexes for indexes in self._plan() if len(indexes) >= self.part.n_parts]
        for indexes in shared[self.first_batch :]:
            yield [(self.epoch, int(index)) for index in indexes[self.part.rank :: self.part.n_parts]]

    def _plan(self) -> list[np.ndarray]:
        n_clips = len(self.lengths)
        if not self.shuffle:
            order = np.argsort(self.lengths, kind="stable")
            return np.split(order, range(self.batch_size, n_clips, self.batch_size))
        rng = np.random.default_rng([self.seed, self.epoch])
        jitter = rng.uniform(1 - BUCKET_JITTER_RATIO, 1 + BUCKET_JITTER_RATIO, n_clips)
        # The jitter shuffles clips of equal length; the incomplete batch is at a random position.
        sizes = [min(self.batch_size, n_clips - start) for start in range(0, n_clips, self.batch_size)]
        rng.shuffle(sizes)
        batches = np.split(np.argsort(self.lengths * jitter, kind="stable"), np.cumsum(sizes)[:-1])
        return [batches[position] for position in rng.permutation(len(batches))]


class VoiceLoader:
    """Batches of a dataset, one epoch per iteration; `set_position` sets the epoch and the first batch."""

    def __init__(
        self,
        dataset: Dataset,
        batches: BucketBatches,
        *,
        collate_items: Callable[[Sequence], Any],
        n_workers: int = 0,
    ) -> None:
        self.dataset = dataset
        self.batches = batches
        self._loader = DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate_items,
            num_workers=n_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=n_workers > 0,
            worker_init_fn=_leave_signals_to_the_parent,
        )

    def set_position(self, epoch: int, batch: int = 0) -> None:
        self.batches.set_position(epoch, batch)

    @property
    def batch_size(self) -> int:
        """Clips per batch of this process."""
        return -(-self.batches.batch_size // self.batches.part.n_parts)

    def set_batch_size(self, batch_size: int) -> None:
        """Change the batch size from the next iteration on."""
        self.batches.batch_size = batch_size * self.batches.part.n_parts

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._loader)


def loader(
    dataset: VoiceDataset,
    batch_size: int,
    *,
    seed: int = 1234,
    shuffle: bool = True,
    n_workers: int = 0,
    min_frames: int = 1,
    part: Part = WHOLE,
) -> VoiceLoader:
    """Batches of clips of similar length, reshuffled every epoch.

    Args:
        batch_size: clips per process and batch; reduced, with a warning, if there are fewer clips.
        shuffle: False gives every clip in a fixed order by length; for validation.
        n_workers: data loading processes; none for datasets of a few batches or in memory.
        min_frames: every batch is padded to at least this length.
        part: this process's share in distributed training. All processes together use the same clips as one
            process with n_parts times the batch size.

    Raises:
        SvcError: batch_size below 1, or fewer clips than parts.
    """
    if batch_size < 1:
        raise SvcError(f"batch_size is {batch_size}: give at least 1")
    n_clips, whole_size = len(dataset), batch_size * part.n_parts
    check_parts(n_clips, part.n_parts)
    if whole_size > n_clips:
        log.warning(
            "batch_size %d is more than the %d clips there are: using %d", whole_size, n_clips, n_clips
        )
        whole_size = n_clips
    if dataset.in_memory or n_clips <= 4 * whole_size:
        n_workers = 0
    batches = BucketBatches(dataset.lengths(), whole_size, seed=seed, shuffle=shuffle, part=part)
    return VoiceLoader(
        dataset, batches, collate_items=partial(collate, min_frames=min_frames), n_workers=n_workers
    )


def _leave_signals_to_the_parent(_worker: int) -> None:
    """Ctrl-C reaches the whole process group; training finishes its step and still needs its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
