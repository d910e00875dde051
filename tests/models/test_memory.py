"""Modules that run again in the backward pass."""

from __future__ import annotations

import torch
from torch import nn

from palp_core.models.memory import recomputed_in_backward


class Block(nn.Module):
    """Counts the runs that came to its end, behind the last operation of which autograd keeps anything."""

    def __init__(self):
        super().__init__()
        self.linear, self.ended = nn.Linear(3, 3), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.linear(x).sigmoid() + 1
        self.ended += 1
        return found


def test_a_module_runs_again_to_its_end():
    """Torch would break the second run off by an exception, which dynamic VRAM turns into a SystemError on a GPU."""
    block, x = Block(), torch.ones(2, 3)
    block(x).sum().backward()
    expected, block.ended = block.linear.weight.grad, 0
    block.zero_grad()
    with recomputed_in_backward([block]):
        block(x).sum().backward()
    assert block.ended == 2
    assert torch.equal(block.linear.weight.grad, expected) and "forward" not in block.__dict__
