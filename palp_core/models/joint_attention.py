"""Attention of transformers in which picture and prompt are one sequence: what a word's tokens get of it.

These networks (MM-DiT, arXiv 2403.03206, sec. 4, and single streams) have no layer in which the prompt alone is looked
at. Where picture and prompt attend together, the rows of the picture's places and the columns of the prompt's tokens
are cut out, and the softmax is taken over the tokens alone, so that a place's shares sum to 1 as in cross-attention.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import ModelError
from .layer_attention import LayerAttention

#: How the layers are called, in the order in which they run.
PREFIX = "joint."


class JointLayout(NamedTuple):
    """How a transformer lays picture and prompt into one sequence."""

    #: Side of a patch of latents.
    patch: int
    #: Whether the prompt stands before the picture.
    text_first: bool = True
    #: The picture's places are filled up to a multiple of it, behind the picture.
    multiple: int = 1


class _Watch(TorchFunctionMode):
    """Sees every call of torch's attention, whichever function of the host or of diffusers makes it."""

    def __init__(self, note):
        super().__init__()
        self.note = note

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
            self.note(named["query"], named["key"], named["value"])
        return func(*args, **(kwargs or {}))


@contextmanager
def recorded_joint_attention(
    network: nn.Module, layout: JointLayout, tokens: list[int], rows: Tensor | None, features: bool
) -> Iterator[dict[str, LayerAttention]]:
    """Record one run of the network, as `recorded_attention` does. features: whether the places' values are kept.

    Raises ModelError where picture and prompt never attended together.
    """
    recorder = _Recorder(layout, tokens, rows, features)
    handle = network.register_forward_pre_hook(recorder.note_size, with_kwargs=True)
    try:
        with _Watch(recorder.note):
            yield recorder.found
        if not recorder.found:
            raise ModelError(
                "the model's attention could not be seen. Take it from before it is compiled, and leave out nodes that "
                "replace its attention."
            )
    finally:
        handle.remove()


class _Recorder:
    def __init__(self, layout: JointLayout, tokens: list[int], rows: Tensor | None, features: bool):
        self.layout, self.tokens, self.rows, self.features = layout, tokens, rows, features
        self.grid = (0, 0)
        self.found: dict[str, LayerAttention] = {}

    def note_size(self, _network: nn.Module, args: tuple, kwargs: dict) -> None:
        latents = args[0] if args else next(iter(kwargs.values()))
        self.grid = tuple(math.ceil(side / self.layout.patch) for side in latents.shape[-2:])

    def note(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        """q, k, v: (R, heads, N, d)."""
        height, width = self.grid
        places, multiple = height * width, self.layout.multiple
        filled = math.ceil(places / multiple) * multiple
        text = k.shape[-2] - filled
        if q.shape[-2] != k.shape[-2] or text < max(multiple, max(self.tokens) + 1):
            return  # of the picture alone, or of the prompt alone
        picture_at, text_at = (text, 0) if self.layout.text_first else (0, filled)
        picture, prompt = slice(picture_at, picture_at + places), slice(text_at, text_at + text)
        q, k, v = (t if self.rows is None else t[self.rows.to(t.device)] for t in (q, k, v))
        shares = text_shares(q[:, :, picture], k[:, :, prompt])[..., self.tokens]  # (R, N, K)
        maps = rearrange(shares, "r (h w) k -> r k h w", h=height, w=width)
        values = rearrange(v[:, :, picture], "r n p d -> r p (n d)") if self.features else None
        self.found[f"{PREFIX}{len(self.found)}"] = LayerAttention(maps, values)


def text_shares(q: Tensor, k: Tensor) -> Tensor:
    """(R, heads, N, d), (R, heads, T, d) -> (R, N, T): of each place's attention to the prompt, each token's share."""
    with torch.autocast(q.device.type, enabled=False):
        logits = q.float() @ k.float().mT / math.sqrt(q.shape[-1])
        return logits.softmax(dim=-1).mean(dim=1)
