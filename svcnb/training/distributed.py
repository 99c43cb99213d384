"""Several processes that train one model: what they tell each other.

Every process computes its share of the whole batch's losses; shares add up, and so do their gradients. The sum is
made here, after the backward pass, and not by DistributedDataParallel: that counts on one forward pass through its
wrapper for each backward pass, and a training step here decodes a second time past the wrapper, freezes the
discriminator for half of the time, and weights each process by what it got. The price is that the sum does not
overlap with the backward pass.
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

# Gradients travel in parts of this size: large enough to be quick, small enough to need little memory.
MAX_PART_BYTES = 64 * 2**20


class Processes:
    """The processes that train together. With one, every sum is what was given, bit for bit.

    Every method is called by all of them, in the same order: each waits for the others.

    Attributes:
        number: of processes.
        rank: of this one, 0 .. number - 1; 0 writes the files.
    """

    def __init__(self, rank: int = 0, number: int = 1) -> None:
        self.rank = rank
        self.number = number
        # Decisions go over the CPU even where gradients go from GPU to GPU: no GPU is waited for.
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
        """Until every process has come here."""
        self._largest([0])

    def _largest(self, numbers: Sequence[int]) -> list[int]:
        if self.number == 1:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.int64)
        distributed.all_reduce(values, distributed.ReduceOp.MAX, group=self._decisions)
        return values.tolist()

    def total(self, values: Tensor) -> Tensor:
        """Sum over the processes, without a gradient; on one process the values themselves."""
        if self.number > 1:
            values = values.detach().clone()
            distributed.all_reduce(values)
        return values

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the processes; those that are None are None for all."""
        if self.number == 1:
            return
        for part in _parts([parameter.grad for parameter in parameters if parameter.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in part])
            distributed.all_reduce(flat)
            sizes = [gradient.numel() for gradient in part]
            for gradient, added in zip(part, flat.split(sizes), strict=True):
                gradient.copy_(added.view_as(gradient))

    def share_weights(self, networks: Iterable[nn.Module]) -> None:
        """Give every process the main one's weights and buffers."""
        if self.number == 1:
            return
        with torch.no_grad():
            for network in networks:
                for tensor in (*network.parameters(), *network.buffers()):
                    sent = tensor.contiguous()
                    distributed.broadcast(sent, src=0)
                    tensor.copy_(sent)

    def reseed(self, seed: int, step: int) -> None:
        """Start this process's random numbers of a step at a place of its own; a lone process just draws on.

        Drawn from (seed, step, rank), they need not be stored: a run resumed with as many processes draws the same.
        """
        if self.number == 1:
            return
        from accelerate.utils import set_seed

        set_seed(int(np.random.SeedSequence([seed, step, self.rank]).generate_state(1)[0]))


@dataclass(frozen=True)
class Share:
    """This process's part of a batch that several share, as ratios 0..1; ones where there is one process.

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
        """From the frames of each of this process's clips, long [B]."""
        if processes.number == 1:
            return cls(processes)
        own = torch.stack([torch.ones_like(lengths), lengths], dim=1).sum(dim=0).float()
        return cls(processes, *(own / processes.total(own)))

    def mean_of_all(self, mean: Tensor) -> Tensor:
        """Mean over the whole batch, from the mean over the clips of this part."""
        return self.processes.total(mean * self.clips)

    def whole(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of the whole batch, for this process's shares of them; without gradients."""
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
