"""What a model's modules look like while it is trained, frozen or run again in the backward pass, and what is free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop


def run_again_in_backward(forward: Callable, *args, **kwargs):
    """Call a module's forward so that it keeps its inputs only, and runs again, to its end, in the backward pass.

    Torch would stop the second run at the last tensor that is needed, by an exception thrown through its C++ code.
    ComfyUI's dynamic VRAM calls Python from there, which loses the exception, and the training would end with a
    SystemError.
    """
    with set_checkpoint_early_stop(False):
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)


@contextmanager
def recomputed_in_backward(modules: list[nn.Module]) -> Iterator[None]:
    """Gradient checkpointing for any module tree: each module keeps its inputs only and runs again in the backward."""

    own = [module.__dict__.get("forward") for module in modules]  # another extension's, if there is one

    def wrap(module: nn.Module) -> None:
        forward = module.forward
        module.forward = partial(run_again_in_backward, forward)

    try:
        for module in modules:
            wrap(module)
        yield
    finally:
        restore_forwards(modules, own)


def restore_forwards(modules: list[nn.Module], own: list) -> None:
    """Give each module the `forward` that it had on the instance, or none."""
    for module, forward in zip(modules, own, strict=True):
        module.__dict__.pop("forward", None)
        if forward is not None:
            module.forward = forward


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """No parameter of these modules asks for a gradient, and dropout is off; flags and modes are put back."""
    flags = [(p, p.requires_grad) for module in modules for p in module.parameters()]
    modes = [(m, m.training) for module in modules for m in module.modules()]
    try:
        for module in modules:
            module.requires_grad_(False).train(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode


def free_memory(device: torch.device) -> float | None:
    """Return a card's memory that is free, or that this process holds and can give back, GB; None elsewhere."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return (free + torch.cuda.memory_reserved(device)) / 1e9


def computes_bf16(device: torch.device) -> bool:
    """Say whether a device is a card that computes in bf16 itself."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
