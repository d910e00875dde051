"""Cross-attention of a denoiser while it runs: what a word's tokens get, and the image features that look at them.

For image features as queries q and the prompt's tokens as keys k, the attention is softmax(q k^T / sqrt(d)); the column
of a token, mean over the heads, is the map of that token (arXiv 2210.04885, sec. 3). Networks whose text attention is
named `attn2` with projections to_q and to_k can be recorded: the UNets of Stable Diffusion in diffusers and in ComfyUI.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..errors import ModelError
from .backbone import Backbone, Conditioning, LearnedWords
from .joint_attention import PREFIX, JointLayout, recorded_joint_attention
from .layer_attention import LayerAttention

#: How the names of the modules on the way up begin, in diffusers and in the original code's layout.
DECODER_PREFIXES = ("up_blocks.", "output_blocks.", PREFIX)
#: Share of the schedule at which a picture is looked at for where its subject is. In the toy world the place found
#: hardly depends on it.
REGION_LEVEL = 0.4
FLAT = 1e-3  # contrast of a map that attends nowhere
ODDEST_ASPECT = 1.3  # between a layer's grid and the latents', where rounding makes the difference


def cross_attention_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Name -> module of each text cross-attention. Raises ModelError where there is none, or none that can be seen."""
    if hasattr(network, "_orig_mod"):
        raise compiled_model()
    layers = {
        name: module
        for name, module in network.named_modules()
        if name.endswith(".attn2") and hasattr(module, "to_q") and hasattr(module, "to_k")
    }
    if not layers:
        raise ModelError(
            f"model ({type(network).__name__}) has no text attention that can be looked at. Load a model of another "
            "family."
        )
    return layers


def compiled_model() -> ModelError:
    """The error for a network that does not pass through its own modules."""
    return ModelError(
        "model is compiled, so that its attention cannot be seen. Take it from before it is compiled (ComfyUI: remove "
        "the node Torch Compile Model)."
    )


def is_decoder(layer: str) -> bool:
    """Whether a layer of this name lies on the network's way up; a transformer's all count."""
    return layer.startswith(DECODER_PREFIXES)


@contextmanager
def recorded_attention(
    network: nn.Module,
    tokens: Sequence[int],
    rows: Tensor | None = None,
    repeats: int = 1,
    only: Callable[[str], bool] | None = None,
    keep_features: Callable[[str], bool] | None = None,
    joint: JointLayout | None = None,
) -> Iterator[dict[str, LayerAttention]]:
    """Record one run of the network: the dict that is yielded holds its layers by name once the network has run.

    tokens: positions in the prompt whose maps are kept. rows: of the network's batch, (R,) int64; by default all.
    repeats: how many copies of the prompt stand one behind the other in the context. only: says by name which layers
    are recorded; by default all. keep_features: says by name which layers' features are kept. joint: how a transformer
    without cross-attention lays out its sequence. Everything is differentiable where the run is. Hooks are gone when
    the context ends.
    Raises ModelError where the network has no cross-attention, or is compiled: at the end, if that shows only there.
    """
    if joint is not None:
        with recorded_joint_attention(network, joint, list(tokens), rows, keep_features is not None) as found:
            yield found
        return
    layers = {name: m for name, m in cross_attention_layers(network).items() if only is None or only(name)}
    recorder = _Recorder(list(tokens), rows, repeats, keep_features or (lambda _name: False))
    handles = [network.register_forward_pre_hook(recorder.note_size)]
    try:
        for name, module in layers.items():
            handles.append(module.to_q.register_forward_hook(partial(recorder.note_queries, name)))
            handles.append(module.to_k.register_forward_hook(partial(recorder.note_keys, name, module.heads)))
        yield recorder.found
        if not recorder.found:
            raise compiled_model()
    finally:
        for handle in handles:
            handle.remove()
        recorder.queries.clear()


class _Recorder:
    """The hooks of one recording, and what they have found."""

    def __init__(self, tokens: list[int], rows: Tensor | None, repeats: int, keep_features: Callable[[str], bool]):
        self.tokens, self.rows, self.repeats, self.keep_features = tokens, rows, repeats, keep_features
        self.size = (0, 0)
        self.queries: dict[str, tuple[Tensor, Tensor]] = {}
        self.found: dict[str, LayerAttention] = {}

    def note_size(self, _network: nn.Module, inputs: tuple) -> None:
        self.size = tuple(inputs[0].shape[-2:])

    def note_queries(self, name: str, _module: nn.Module, inputs: tuple, output: Tensor) -> None:
        self.queries[name] = (_chosen(inputs[0], self.rows), _chosen(output, self.rows))

    def note_keys(self, name: str, heads: int, _module: nn.Module, _inputs: tuple, output: Tensor) -> None:
        features, q = self.queries.pop(name)
        shares = token_shares(q, _chosen(output, self.rows), heads, self.repeats)[..., self.tokens]  # (R, h*w, K)
        height, width = layer_grid(shares.shape[1], self.size)
        maps = rearrange(shares, "r (h w) k -> r k h w", h=height, w=width)
        self.found[name] = LayerAttention(maps, features if self.keep_features(name) else None)


def token_shares(q: Tensor, k: Tensor, heads: int, repeats: int = 1) -> Tensor:
    """(R, N, heads*d), (R, repeats*T, heads*d) -> (R, N, T): each place's attention to each token, which sums to 1."""
    q, k = (rearrange(t, "r n (h d) -> r h n d", h=heads) for t in (q, k))
    with torch.autocast(q.device.type, enabled=False):
        logits = q.float() @ k.float().mT / math.sqrt(q.shape[-1])  # (R, heads, N, repeats*T)
        shares = logits.softmax(dim=-1).mean(dim=1)
    return shares.unflatten(-1, (repeats, -1)).sum(dim=-2)


def layer_grid(places: int, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a layer with so many places, in a network whose latents have this size.

    Each way down halves the sides, rounding up. Where something else scales them as well, it is the grid whose aspect
    is nearest. Raises ModelError where none is near.
    """
    height, width = size
    while height * width > places:
        height, width = (height + 1) // 2, (width + 1) // 2
    if height * width == places:
        return height, width
    aspect = math.log(size[0] / size[1])
    rows = [h for h in range(1, places + 1) if places % h == 0]
    height = min(rows, key=lambda h: abs(math.log(h * h / places) - aspect))
    if abs(math.log(height * height / places) - aspect) > math.log(ODDEST_ASPECT):
        raise ModelError(
            f"a cross-attention layer has {places} places, which is no grid like that of latents of {size[1]} x "
            f"{size[0]}. Remove nodes that change sizes inside the model."
        )
    return height, places // height


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(R, h, w) -> (R, *size); linear, and averaged where the grid becomes coarser."""
    return F.interpolate(maps[:, None], size=size, mode="bilinear", antialias=True, align_corners=False)[:, 0]


def min_max(maps: Tensor) -> Tensor:
    """(R, h, w) -> the same stretched to 0..1, each map by itself; a flat one becomes 0."""
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)


def hot(heat: Tensor, threshold: float) -> Tensor:
    """(R, h, w) -> (R, 1, h, w): 1 where a map, stretched to 0..1, is above the threshold, and 0 elsewhere."""
    return (min_max(heat) > threshold).float()[:, None]


def contrast(heat: Tensor) -> float:
    """By what share of its peak a map varies, 0..1; FLAT and less means that it attends nowhere."""
    return ((heat.max() - heat.min()) / heat.max()).item()


def _chosen(tensor: Tensor, rows: Tensor | None) -> Tensor:
    return tensor if rows is None else tensor[rows.to(tensor.device)]


def word_maps(layers: Mapping[str, LayerAttention]) -> dict[str, Tensor]:
    """Layer -> (B, h, w): the attention to all tokens of the word together."""
    return {name: layer.maps.sum(dim=1) for name, layer in layers.items()}


def mean_map(maps: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Of several layers' maps (B, h, w): (B, *size)."""
    return torch.stack([resized(m, size) for m in maps]).mean(dim=0)


def saliency(maps: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Where a word attends, by the mean of several layers' maps (B, h, w), stretched to 0..1. Returns (B, *size)."""
    return min_max(mean_map(maps, size))


class PromptedDenoiser(NamedTuple):
    """A model with a prompt, and where in the prompt the subject's word stands."""

    denoise: Callable[[Tensor, Tensor], Tensor]  # x (B, C, H, W), sigma (B,) -> D (B, C, H, W), differentiable in x
    network: nn.Module  # holds the layers that attend to the prompt
    tokens: tuple[int, ...]
    joint: JointLayout | None = None  # of a transformer without cross-attention

    def recorded(
        self, only: Callable[[str], bool] | None = None, keep_features: Callable[[str], bool] | None = None
    ) -> AbstractContextManager[dict[str, LayerAttention]]:
        """Record what attends to the word, as `recorded_attention` does."""
        return recorded_attention(self.network, self.tokens, only=only, keep_features=keep_features, joint=self.joint)


def prompted(backbone: Backbone, prompt: str, word: str, placeholders: LearnedWords | None = None) -> PromptedDenoiser:
    """A backbone with a prompt that holds a word or placeholder. Raises ModelError where it does not."""
    placeholders = placeholders or {}
    with torch.no_grad():
        cond = backbone.encode_prompt(prompt, placeholders)
    return with_conditioning(backbone, cond, backbone.token_positions(prompt, word, placeholders))


def with_conditioning(backbone: Backbone, cond: Conditioning, tokens: tuple[int, ...]) -> PromptedDenoiser:
    """A backbone with an encoded prompt, batch of one."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return backbone.denoise(x, sigma, [cond])

    return PromptedDenoiser(denoise, backbone.denoiser, tokens, backbone.joint)
