"""A prompt that each layer of a UNet reads in a version of its own: P+ (arXiv 2303.09522, sec. 3).

The versions stand beside each other in the channels of one conditioning. While the network reads it so, each text
cross-attention takes its own out of it, for the keys one and for the values one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ModelError
from .attention import cross_attention_layers
from .backbone import Conditioning


class Reading(NamedTuple):
    """What one layer reads of a prompt, as an encoder has made it, a batch of one."""

    keys: Conditioning
    values: Conditioning


def text_layers(network: nn.Module, method: str) -> dict[str, nn.Module]:
    """Name -> module of each text cross-attention of a diffusers UNet, in the order in which they run.

    Raises ModelError that names the method, where there is none, or none that can be seen.
    """
    try:
        layers = cross_attention_layers(network)
    except ModelError as error:
        raise ModelError(
            f"{method} learns a word for each layer that attends to the prompt, but the {error}"
        ) from error
    return dict(sorted(layers.items(), key=_part))


def _part(layer: tuple[str, nn.Module]) -> str:
    """down_blocks, mid_block and up_blocks run in the order of the alphabet; within each, layers keep theirs."""
    return layer[0].split(".")[0]


def layered(readings: Sequence[Reading]) -> Conditioning:
    """Put what each layer reads into one conditioning, for a network that reads by layer.

    What SDXL is told besides, which is one vector for all layers, is the mean of theirs.
    """
    contexts = [part.tensors["context"] for reading in readings for part in reading]  # (1, T, C) each
    told = {"context": torch.cat(contexts, dim=-1)}  # (1, T, 2*L*C)
    if "pooled" in readings[0].keys.tensors:
        told["pooled"] = torch.stack([reading.keys.tensors["pooled"] for reading in readings]).mean(dim=0)
    return Conditioning(told)


@contextmanager
def read_by_layer(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, each of a network's text layers takes its own reading of what `layered` made, of all prompts.

    layers: in the order of the readings. The hooks are gone when the context ends, however it ends.
    """
    readers = [part for layer in layers for part in (layer.to_k, layer.to_v)]
    handles = []
    try:
        for number, reader in enumerate(readers):
            handles.append(reader.register_forward_pre_hook(_taking(number, len(readers))))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _taking(number: int, count: int) -> Callable[[nn.Module, tuple], tuple]:
    def take(_module: nn.Module, inputs: tuple) -> tuple:
        return (inputs[0].unflatten(-1, (count, -1))[..., number, :],)

    return take


def moved(cond: Conditioning, tokens: Sequence[int], direction: Tensor, share: float) -> Conditioning:
    """Add to what an encoder says at some tokens a direction, (C,), by a share of the length that they have."""
    at = torch.tensor(tokens, device=direction.device)
    context = cond.tensors["context"]  # (1, T, C)
    said = context[:, at]
    longer = said + share * F.normalize(direction, dim=-1) * said.norm(dim=-1, keepdim=True)
    return Conditioning({**cond.tensors, "context": context.index_copy(1, at, longer)})
