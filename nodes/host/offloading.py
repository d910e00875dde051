"""What is free on a card, and training with weights that stay in RAM and come to it layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import comfy.model_management
import torch
from torch import Tensor, nn

from ...palp_core.models.memory import restore_forwards
from ...palp_core.training.demand import GIGABYTE, SHARE_OF_WEIGHTS


def free_memory(device: torch.device) -> float | None:
    """Return what a training may take of a card's memory, GB: what is free, and the models that the host can take off.

    None on a CPU.
    """
    host = comfy.model_management
    if device.type == "cpu":
        return None
    loaded = sum(m.model_loaded_memory() for m in host.current_loaded_models if m.device == device and m.model)
    return (host.get_free_memory(device) + loaded) / GIGABYTE


def load_partially(patcher, *others) -> None:
    """Load as much of a model onto its device as leaves a third of the card's memory free, beside others as a whole."""
    left_free = (1 - SHARE_OF_WEIGHTS) * comfy.model_management.get_total_memory(patcher.load_device)
    comfy.model_management.load_models_gpu([patcher], memory_required=left_free)
    if others:
        comfy.model_management.load_models_gpu(list(others), memory_required=left_free, force_full_load=True)


@contextmanager
def streamed(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Make layers whose weights are in RAM differentiable.

    The host brings a layer's weights to the card into a buffer that the next layer's overwrite. Autograd would compute
    a gradient from whatever lies there by then, without an error: such a layer runs again in the backward pass instead.
    """
    layers = [module for module in network.modules() if _lies_elsewhere(module, device)]
    own = [layer.__dict__.get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.forward = partial(_run, layer.forward)
        yield
    finally:
        restore_forwards(layers, own)


def _lies_elsewhere(module: nn.Module, device: torch.device) -> bool:
    tensors = module.parameters(recurse=False)
    return hasattr(module, "comfy_cast_weights") and any(t.device.type != device.type for t in tensors)


def _run(forward, x: Tensor, *args, **kwargs):
    if not (torch.is_grad_enabled() and x.requires_grad):
        return forward(x, *args, **kwargs)
    return _RunAgain.apply(partial(_with_rest, forward, args, kwargs), x)


def _with_rest(forward, args: tuple, kwargs: dict, x: Tensor) -> Tensor:
    return forward(x, *args, **kwargs)


class _RunAgain(torch.autograd.Function):
    """Keeps a layer's input alone, and runs the layer again for its gradient, in the same mixed precision."""

    @staticmethod
    def forward(ctx, run, x: Tensor) -> Tensor:
        kind = x.device.type
        ctx.run, ctx.kind = run, kind
        ctx.precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        ctx.save_for_backward(x)
        return run(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, Tensor]:
        (x,) = ctx.saved_tensors
        x = x.detach().requires_grad_(True)
        mixed = ctx.precision is not None
        with torch.enable_grad(), torch.autocast(ctx.kind, ctx.precision or torch.bfloat16, enabled=mixed):
            output = ctx.run(x)
        return None, torch.autograd.grad(output, x, gradient)[0]
