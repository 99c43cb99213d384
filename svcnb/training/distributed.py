"""Data-parallel training: communication between the processes.

Every process computes its share of the whole batch's losses; the shares add up, and so do their gradients.
Gradients are summed here, after the backward pass, and not by DistributedDataParallel, which expects one
forward pass through its wrapper per backward pass: a training step here decodes a second time without the
wrapper, freezes the discriminator for part of the step, and weights each process by its part of the batch.
The cost: the sum does not overlap with the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, distributed, nn

if TYPE_CHECKING:
    from accelerate import Accelerator

# Gradients are reduced in buckets of this size: large enough to be fast, small enough to need little memory.
MAX_PART_BYTES = 64 * 2**20


class Processes:
    """The processes that train together. With one process, every sum is its input, bit for bit.

    Every method is collective: all processes must call it, in the same order.

    Attributes:
        number: of processes.
        rank: of this one, 0 .. number - 1; 0 writes the files.
    """

    def __init__(self, rank: int = 0, number: int = 1) -> None:
        self.rank = rank
        self.number = number
        # Decisions are exchanged on the CPU, also where gradients go from GPU to GPU: no GPU is synchronized.
        self._decisions = distributed.new_group(backend="gloo") if number > 1 else None

    @classmethod
    def of(cls, accelerator: Accelerator) -> Processes:
        return cls(accelerator.process_index, accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers."""
        return self._largest([number])[0]

    def any_of(self, flags: Sequence[bool]) -> list[bool]:
        """Each flag: whether it holds for at least one process."""
        return [bool(flag) for flag in self._largest(flags)]

    def wait(self) -> None:
        """Barrier: wait until every process has called it."""
        self._largest([0])

    def _largest(self, numbers: Sequence[int]) -> list[int]:
        if self.number == 1:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.int64)
        distributed.all_reduce(values, distributed.ReduceOp.MAX, group=self._decisions)
        return values.tolist()

    def total(self, values: Tensor) -> Tensor:
        """Sum over the processes, without gradient; the values themselves if there is one process."""
        if self.number > 1:
            values = values.detach().clone()
            distributed.all_reduce(values)
        return values

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the processes; None in one process means None in all."""
        if self.number == 1:
            return
        for part in _parts([parameter.grad for parameter in parameters if parameter.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in part])
            distributed.all_reduce(flat)
            sizes = [gradient.numel() for gradient in part]
            for gradient, added in zip(part, flat.split(sizes), strict=True):
                gradient.copy_(added.view_as(gradient))

    def share_weights(self, networks: Iterable[nn.Module]) -> None:
        """Broadcast the main process's weights and buffers to all."""
        if self.number == 1:
            return
        with torch.no_grad():
            for network in networks:
                for tensor in (*network.parameters(), *network.buffers()):
                    sent = tensor.contiguous()
                    distributed.broadcast(sent, src=0)
                    tensor.copy_(sent)

    def reseed(self, seed: int, step: int) -> None:
        """Seed this process's random generators for a step; does nothing if there is one process.

        The seed depends on (seed, step, rank) and need not be stored: a run resumed with as many processes
        draws the same numbers.
        """
        if self.number == 1:
            return
        from accelerate.utils import set_seed

        set_seed(int(np.random.SeedSequence([seed, step, self.rank]).generate_state(1)[0]))


@dataclass(frozen=True)
class Share:
    """This process's share of a batch, as ratios 0..1; 1 if there is one process.

    A loss times its ratio, summed over the processes, is the loss of the whole batch; so are the gradients.

    Attributes:
        clips: for means over clips.
        frames: for means over the valid frames of all clips.
    """

    processes: Processes
    clips: Tensor | float = 1.0
    frames: Tensor | float = 1.0

    @classmethod
    def of(cls, lengths: Tensor, processes: Processes) -> Share:
        """From the number of frames of each of this process's clips, long [B]."""
        if processes.number == 1:
            return cls(processes)
        own = torch.stack([torch.ones_like(lengths), lengths], dim=1).sum(dim=0).float()
        return cls(processes, *(own / processes.total(own)))

    def mean_of_all(self, mean: Tensor) -> Tensor:
        """Mean over the whole batch, from the mean over the clips of this part."""
        return self.processes.total(mean * self.clips)

    def whole(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of the whole batch, from this process's shares of them; without gradients."""
        totals = self.processes.total(torch.stack([loss.detach() for loss in losses.values()]))
        return dict(zip(losses, totals.unbind(), strict=True))


def _parts(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    part: list[Tensor] = []
    for gradient in gradients:
        if part and sum(waiting.nbytes for waiting in part) + gradient.nbytes > MAX_PART_BYTES:
            yield part
            part = []
        part.append(gradient)
    if part:
        yield part
