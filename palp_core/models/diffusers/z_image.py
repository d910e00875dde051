"""Z-Image in diffusers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..families import Z_IMAGE
from ..joint_attention import JointLayout
from .architecture import QKV, Architecture, Reader, Schedule, attention_parts, chat_template

STACKS = ("layers", "noise_refiner", "context_refiner")
ATTENTION, FF = ".{}.attention", ".{}.feed_forward"


def velocity(transformer: nn.Module, x: Tensor, s: Tensor, text: Mapping[str, Tensor]) -> Tensor:
    """Call the transformer, whose time runs from noise to picture, and its velocity with it."""
    films, prompts = list(x[:, :, None].unbind()), list(text["text"].unbind())
    return -torch.stack(transformer(films, 1 - s, prompts, return_dict=False)[0])[:, :, 0]


def encode(pipeline, prompt: str, **options) -> dict[str, Tensor]:
    """Encode with Qwen3; the pipeline cuts the prompt to its own length."""
    (text,), _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, **options)
    return {"text": text[None]}


Z = Architecture(
    family=Z_IMAGE,
    pipeline="ZImagePipeline",
    velocity=velocity,
    encode=encode,
    readers=lambda pipeline: [Reader(pipeline.tokenizer)],
    template=lambda pipeline, prompt: chat_template(pipeline, prompt, thinking=True),
    joint=JointLayout(patch=2, text_first=False, multiple=32),
    schedule=Schedule(1000),
    projections={
        **{f"{stack}{ATTENTION}.qkv": attention_parts(f"{stack}{ATTENTION}", QKV) for stack in STACKS},
        **{f"{stack}{ATTENTION}.out": (f"{stack}{ATTENTION}.to_out.0",) for stack in STACKS},
        **{f"{stack}{FF}.{name}": (f"{stack}{FF}.{name}",) for stack in STACKS for name in ("w1", "w2", "w3")},
    },
)
