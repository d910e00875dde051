"""What distinguishes one transformer of the diffusers library from another, as a record of data and small functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from einops import rearrange
from torch import Tensor, nn

from ..families import Family
from ..joint_attention import JointLayout
from .vae import SCALED, LatentSpace

#: transformer, x_t (B, C, ..., h, w), s (B,) in 0..1, text by name (B, ...) -> eps - x0, (B, C, ..., h, w).
Velocity = Callable[[nn.Module, Tensor, Tensor, Mapping[str, Tensor]], Tensor]


class Schedule(NamedTuple):
    """The table of s that a training draws from, as ComfyUI has it: even, then shifted."""

    steps: int
    #: The shift; None for what the pipeline's scheduler says.
    shift: float | None = None


#: Tokens of a prompt that the pipelines' large text encoders keep by default.
MOST_TOKENS = 512


class Reader(NamedTuple):
    """One of a pipeline's tokenizers, and where in the conditioning its tokens are."""

    tokenizer: Callable
    #: How many tokens it keeps, those that are skipped not counted.
    limit: int = MOST_TOKENS
    #: Where in the conditioning its tokens begin.
    start: int = 0
    #: So many of its first tokens, a template's, are left out of the conditioning.
    skipped: int = 0


@dataclass(frozen=True)
class Architecture:
    """One pipeline with a transformer that predicts a flow."""

    family: Family
    #: The pipeline's class in diffusers.
    pipeline: str
    #: How its transformer is called.
    velocity: Velocity
    #: pipeline, prompt, options of its encode_prompt -> what the text encoders say by name, each a batch of one.
    encode: Callable[..., dict[str, Tensor]]
    #: pipeline -> its tokenizers; the last one is that of the encoder that keeps most of a prompt.
    readers: Callable[..., Sequence[Reader]]
    joint: JointLayout
    schedule: Schedule
    #: A projection of ComfyUI's network, {} for its block's number -> the modules of diffusers' that together hold it.
    projections: Mapping[str, tuple[str, ...]]
    #: pipeline, prompt -> the text that the tokenizers split.
    template: Callable[..., str] = lambda _pipeline, prompt: prompt
    #: What the pipeline's encode_prompt calls max_sequence_length.
    most_tokens: int = MOST_TOKENS
    latents: LatentSpace = SCALED
    #: What the pipeline calls the scale of guidance when it draws.
    guidance_option: str = "guidance_scale"
    #: Whether ComfyUI's weights mean something to its text encoders; to language models brackets are letters.
    reads_weights: bool = False
    #: Whether the pipeline reads a negative prompt when it draws.
    reads_negative_prompt: bool = True
    #: pipeline -> whether it is known to be distilled to a few steps.
    step_distilled: Callable[..., bool] = lambda _pipeline: False


def chat_template(pipeline, prompt: str, thinking: bool) -> str:
    """Wrap a prompt as Qwen's language models read it. thinking: whether they may think before they answer."""
    messages = [{"role": "user", "content": prompt}]
    return pipeline.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )


def packed(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h*w/4, 4*C): patches of 2 x 2."""
    return rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)


def unpacked(patches: Tensor, height: int, width: int) -> Tensor:
    """(B, height*width, 4*C) -> (B, C, 2*height, 2*width)."""
    return rearrange(patches, "b (h w) (c p q) -> b c (h p) (w q)", h=height, w=width, p=2, q=2)


def attention_parts(prefix: str, names: Sequence[str]) -> tuple[str, ...]:
    """Spell the modules that lie in one of diffusers' attention modules."""
    return tuple(f"{prefix}.{name}" for name in names)


#: diffusers' names of the picture's projections, and of the prompt's where each has its own.
QKV = ("to_q", "to_k", "to_v")
ADDED_QKV = ("add_q_proj", "add_k_proj", "add_v_proj")
