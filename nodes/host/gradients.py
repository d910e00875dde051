"""What makes the host's modules differentiable: weights that autograd can save, layers that change nothing in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...palp_core.errors import ModelError
from ...palp_core.models.memory import restore_forwards


def make_differentiable(module: nn.Module, device: torch.device) -> None:
    """Weights that were loaded in inference mode cannot take part in a backward pass: put a clone in each one's place.

    One tensor at a time, so that there is never a second copy of the model; values stay the same. Raises ModelError
    where a part of the model is not on its device: a backward pass needs all of it there.
    """
    if any(parameter.device.type != device.type for parameter in module.parameters()):
        raise ModelError(
            f"{type(module).__name__} was not loaded onto {device} as a whole. Start ComfyUI without --novram."
        )
    clones: dict[int, Tensor] = {}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is None or _is_differentiable(tensor):
                    continue
                if id(tensor) not in clones:
                    clone = tensor.detach().clone()
                    is_parameter = isinstance(tensor, nn.Parameter)
                    clones[id(tensor)] = nn.Parameter(clone, requires_grad=False) if is_parameter else clone
                tensors[name] = clones[id(tensor)]


def _is_differentiable(tensor: Tensor) -> bool:
    """Whether autograd can save it: not an inference tensor, nor one that was made as such and has moved since.

    A parameter's `.data` that was given to it in inference mode makes it an inference tensor; one that was created in
    inference mode and given plain data later says that it is none, but still has no version counter.
    """
    try:
        _ = tensor._version
    except RuntimeError:
        return False
    return not tensor.is_inference()


@contextmanager
def differentiable_text_encoder(encoder: nn.Module) -> Iterator[None]:
    """The host's CLIP layers add to their input in place, which autograd forbids: give them copies to work on.

    Layers run again in the backward pass: the host casts their weights to float32 as it goes, and autograd would keep
    that second copy of all of them.
    """
    norms = [m for m in encoder.modules() if isinstance(m, nn.LayerNorm)]
    layers = [m for m in encoder.modules() if type(m).__name__ == "CLIPLayer"]
    own = [layer.__dict__.get("forward") for layer in layers]

    def wrap(layer: nn.Module) -> None:
        forward = layer.forward

        def on_copy(x: Tensor, *args) -> Tensor:
            return forward(x.clone(), *args)

        def run(x: Tensor, *args) -> Tensor:
            return checkpoint(on_copy, x, *args, use_reentrant=False)

        layer.forward = run

    handles = []
    try:
        for norm in norms:
            handles.append(norm.register_forward_pre_hook(lambda _module, inputs: (inputs[0].clone(), *inputs[1:])))
        for layer in layers:
            wrap(layer)
        yield
    finally:
        for handle in handles:
            handle.remove()
        restore_forwards(layers, own)


def differentiable_attention(_chosen, *args, **kwargs) -> Tensor:
    """PyTorch's attention in place of what the user chose for sampling, some of which has no backward pass."""
    return attention_pytorch(*args, **kwargs)
