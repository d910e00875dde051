"""What makes the host's modules differentiable: weights that autograd can save, layers that change nothing in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial

import comfy.model_management
import torch
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor, nn

from ...palp_core.errors import ModelError
from ...palp_core.models.memory import restore_forwards, run_again_in_backward

#: comfy_kitchen's rotary embeddings that do not work in place.
ROPES = ("apply_rope", "apply_rope1", "rms_rope", "rms_rope1", "rms_rope_split_half", "rms_rope_split_half1")


def check_is_loaded(module: nn.Module, device: torch.device) -> None:
    """Raise ModelError where a part of the model is not on its device: a backward pass needs all of it there."""
    if any(parameter.device.type != device.type for parameter in module.parameters()):
        raise ModelError(
            f"{type(module).__name__} was not loaded onto {device} as a whole. Start ComfyUI without --novram, or "
            "switch on offloading in PALP Options."
        )


def make_differentiable(module: nn.Module, device: torch.device) -> None:
    """Weights that were loaded in inference mode cannot take part in a backward pass: put a clone in each one's place.

    Those that the host has moved to a card since cannot even take part in a forward pass, outside of inference mode.
    One tensor at a time, so that there is never a second copy of the model; values stay the same. Weights that lie in
    RAM, and not on the device, are left: those that are computed with are copies of them.
    """
    clones: dict[int, Tensor] = {}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is None or tensor.device.type != device.type or _is_differentiable(tensor):
                    continue
                if id(tensor) not in clones:
                    clone = tensor.detach().clone()
                    is_parameter = isinstance(tensor, nn.Parameter)
                    clones[id(tensor)] = nn.Parameter(clone, tensor.requires_grad) if is_parameter else clone
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
    """The layers of the host's CLIP and T5 add to their input in place, which autograd forbids: give them copies.

    Layers run again in the backward pass: the host casts their weights to float32 as it goes, and autograd would keep
    that second copy of all of them.
    """
    norms = [m for m in encoder.modules() if type(m).__name__.endswith("Norm")]
    layers = [m for m in encoder.modules() if type(m).__name__ in ("CLIPLayer", "T5Block")]
    own = [layer.__dict__.get("forward") for layer in layers]

    def wrap(layer: nn.Module) -> None:
        forward = layer.forward

        def on_copy(x: Tensor, *args, **kwargs):
            return forward(x.clone(), *args, **kwargs)

        def run(x: Tensor, *args, **kwargs):
            return run_again_in_backward(on_copy, x, *args, **kwargs)

        layer.forward = run

    handles = []
    try:
        for norm in norms:
            handles.append(norm.register_forward_pre_hook(_on_copy))
        for layer in layers:
            wrap(layer)
        yield
    finally:
        for handle in handles:
            handle.remove()
        restore_forwards(layers, own)


@contextmanager
def differentiable_transformer(network: nn.Module, blocks: list[nn.Module]) -> Iterator[None]:
    """Make the host's transformers differentiable: the host's own switch for it, and what that leaves out.

    Blocks add to their input in place, which autograd has saved for the norm before: norms get copies to work on.
    Blocks do, too: one that is run again in the backward pass would find its input changed, and checkpointing hides
    that from autograd's own check, so that gradients would be wrong without an error.
    """
    give_ropes_a_backward()
    before = getattr(comfy.model_management, "in_training", False)
    norms = [m for m in network.modules() if isinstance(m, nn.LayerNorm)]
    own = [block.__dict__.get("forward") for block in blocks]
    handles = []
    try:
        comfy.model_management.in_training = True  # older hosts have no such switch, and need none
        for norm in norms:
            handles.append(norm.register_forward_pre_hook(_on_copy))
        for block in blocks:
            block.forward = partial(_run_on_copies, block.forward)
        yield
    finally:
        comfy.model_management.in_training = before
        for handle in handles:
            handle.remove()
        restore_forwards(blocks, own)


def _run_on_copies(forward: Callable, *args, **kwargs):
    return forward(*map(_copied, args), **{name: _copied(value) for name, value in kwargs.items()})


def _copied(value: object) -> object:
    return value.clone() if torch.is_tensor(value) and value.is_floating_point() else value


def _on_copy(_module: nn.Module, inputs: tuple) -> tuple:
    return (inputs[0].clone(), *inputs[1:])


@cache
def give_ropes_a_backward() -> None:
    """Tell autograd about comfy_kitchen's rotary embeddings, fused kernels that some of the host's networks always use.

    The backward pass runs the package's own formula again, in torch.
    """
    from comfy_kitchen.backends.eager import rope

    for name in ROPES:
        if hasattr(rope, name):
            formula = getattr(rope, name)
            backward = partial(_formula_backward, formula)
            torch.library.register_autograd(f"comfy_kitchen::{name}", backward, setup_context=_keep_inputs)


def _keep_inputs(ctx, inputs: tuple, output: object) -> None:
    ctx.inputs = inputs


def _formula_backward(formula: Callable, ctx, *gradients: Tensor) -> tuple:
    with torch.enable_grad():
        inputs = [value.detach().requires_grad_(True) if _learns(value) else value for value in ctx.inputs]
        outputs = formula(*inputs)
    wanted = [value for value in inputs if _learns(value)]
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    found = iter(torch.autograd.grad(outputs, wanted, gradients, allow_unused=True))
    return tuple(next(found) if _learns(value) else None for value in inputs)


def _learns(value: object) -> bool:
    return torch.is_tensor(value) and value.requires_grad


def differentiable_attention(_chosen, *args, **kwargs) -> Tensor:
    """PyTorch's attention in place of what the user chose for sampling, some of which has no backward pass."""
    return attention_pytorch(*args, **kwargs)
