"""The host's MODEL without its LoRA, while it is loaded with it: no second copy of the weights that no LoRA changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import comfy.lora
import comfy.model_patcher
from torch import Tensor, nn


def vanilla_weights(patcher, vanilla_patches: Mapping[str, list]) -> dict[str, Tensor]:
    """The weights in which the model differs from the vanilla one, as the vanilla one has them: key -> weight.

    patcher: loaded. vanilla_patches: those of a patcher of the same weights; empty for the checkpoint's own. Each lies
    on the device on which the model now has that weight.
    """
    weights = {}
    for key in patcher.patches.keys() | vanilla_patches.keys():
        if same_patches(patcher.patches.get(key, []), vanilla_patches.get(key, [])):
            continue
        current = _parameter(patcher.model, key)
        weight = patcher.backup[key].weight.to(current.device) if key in patcher.backup else current.detach()
        if key in vanilla_patches:
            patched = comfy.lora.calculate_weight(vanilla_patches[key], weight.float().clone(), key)
            weight = patched.to(weight.dtype)
        weights[key] = weight
    return weights


def same_patches(some: list[tuple], others: list[tuple]) -> bool:
    """The host's patches, which its clones share."""
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


def merges(patches: Mapping[str, list[tuple]]) -> dict[str, list[tuple]]:
    """Those of the host's patches, (strength, what, ...), that are another model's weights: no LoRA, but a merge."""
    found = {key: [patch for patch in some if isinstance(patch[1], list)] for key, some in patches.items()}
    return {key: some for key, some in found.items() if some}


@contextmanager
def with_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the model computes with these weights; after, with those it had. Nothing is copied."""
    undo: list[Callable[[], None]] = []
    try:
        for key, weight in weights.items():
            parent, _, name = key.rpartition(".")
            _put(model.get_submodule(parent), name, weight, undo)
        yield
    finally:
        for step in reversed(undo):
            step()


def _put(module: nn.Module, name: str, weight: Tensor, undo: list[Callable[[], None]]) -> None:
    own = module._parameters[name]
    undo.append(lambda: module._parameters.update({name: own}))
    module._parameters[name] = nn.Parameter(weight, requires_grad=False)
    functions = getattr(module, f"{name}_function", None)  # what the host does to a weight as it streams it in
    if functions:
        undo.append(lambda: setattr(module, f"{name}_function", functions))
        kept = [f for f in functions if not isinstance(f, comfy.model_patcher.LowVramPatch)]
        setattr(module, f"{name}_function", kept)


def _parameter(model: nn.Module, key: str) -> nn.Parameter:
    parent, _, name = key.rpartition(".")
    return model.get_submodule(parent)._parameters[name]
