"""One training on several GPUs: the processes that torchrun starts, each of which has a share of every batch.

All draw the same batch and the same noise from the same seed, and each keeps its part. Gradients are averaged over all,
so that what is learned, the optimizer's state and the random numbers stay the same in each. There are few: nothing is
wrapped around the model. It is synchronous data parallelism, as in arXiv 1706.02677, sec. 2.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed

from ..errors import SettingError

Part = TypeVar("Part", Tensor, Sequence)


@dataclass(frozen=True)
class Workers:
    """This process among those that train together; by default it is alone."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether it is the one that writes, draws and prints."""
        return self.rank == 0

    def share(self, batch: Part) -> Part:
        """Return this process's part of what there is for each sample of a batch."""
        size = len(batch) // self.count
        return batch[self.rank * size : (self.rank + 1) * size]

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one device and kind by their mean over all processes, in one message."""
        if self.count == 1 or not tensors:
            return
        message = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(message)
        parts = (message / self.count).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def any(self, one: bool) -> bool:
        """Say whether it is so in any of the processes; all must ask."""
        return one if self.count == 1 else bool(self._reduced(float(one), distributed.ReduceOp.MAX))

    def least(self, value: float | None) -> float | None:
        """Return the smallest of all processes' values; all must ask, and either all or none of them know one."""
        return value if self.count == 1 or value is None else self._reduced(value, distributed.ReduceOp.MIN)

    def told(self, text: str) -> str:
        """Return the leading process's text in each of them; all must ask."""
        if self.count == 1:
            return text
        letters = torch.tensor([*text.encode()], dtype=torch.uint8)
        length = torch.tensor(len(letters))
        distributed.broadcast(length, src=0)
        letters = letters if self.leads else torch.empty(int(length), dtype=torch.uint8)
        distributed.broadcast(letters, src=0)
        return bytes(letters.tolist()).decode()

    def check_batch(self, batch_size: int) -> None:
        """Raise SettingError for a batch that cannot be shared out evenly."""
        if batch_size % self.count:
            raise SettingError(
                f"batch_size is {batch_size}, and {self.count} processes share each batch. Set it to a multiple of "
                f"{self.count}."
            )

    @staticmethod
    def _reduced(value: float, operation: distributed.ReduceOp) -> float:
        message = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(message, operation)
        return message.item()


ALONE = Workers()


@contextmanager
def joined() -> Iterator[Workers]:
    """Join the processes that torchrun started with this one, by the environment it gives; without it, be alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Workers(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()


def own_device() -> str | None:
    """Return the GPU that torchrun means for this process; None where it was not started so, or there is none."""
    local = os.environ.get("LOCAL_RANK")
    return None if local is None or not torch.cuda.is_available() else f"cuda:{local}"
