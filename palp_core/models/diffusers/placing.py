"""Modules on a device for as long as they are needed there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def placed(device: torch.device, modules: list[nn.Module]) -> Iterator[None]:
    """Keep modules on this device inside; after, each goes back to where it was."""
    homes = [next(m.parameters()).device for m in modules]
    try:
        for module in modules:
            module.to(device)
        yield
    finally:
        for module, home in zip(modules, homes, strict=True):
            module.to(home)
