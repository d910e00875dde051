"""Modules on a device for as long as they are needed there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn


@contextmanager
def placed(device: torch.device, modules: list[nn.Module]) -> Iterator[None]:
    """Keep modules on this device inside; after, each goes back to where it was."""
    homes = {module: next(module.parameters()).device for module in modules if _lies_elsewhere(module, device)}
    try:
        for module in homes:
            module.to(device)
        yield
    finally:
        for module, home in homes.items():
            module.to(home)


def _lies_elsewhere(module: nn.Module, device: torch.device) -> bool:
    """Whether any of it does; to move what is there already takes longer than to see that."""
    return any(tensor.device != device for tensor in chain(module.parameters(), module.buffers()))
