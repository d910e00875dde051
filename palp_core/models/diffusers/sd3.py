"""Stable Diffusion 3.5 in diffusers."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ..families import SD3
from ..joint_attention import JointLayout
from .architecture import ADDED_QKV, QKV, Architecture, Reader, Schedule, attention_parts

BLOCK = "transformer_blocks.{}"
HOST = "joint_blocks.{}"
MOST_TOKENS = 256  # of T5


def velocity(transformer: nn.Module, x: Tensor, s: Tensor, text: Mapping[str, Tensor]) -> Tensor:
    """Call the transformer, which counts time in thousandths."""
    return transformer(
        hidden_states=x,
        timestep=1000 * s,
        encoder_hidden_states=text["text"],
        pooled_projections=text["pooled"],
        return_dict=False,
    )[0]


def encode(pipeline, prompt: str, **options) -> dict[str, Tensor]:
    """Encode with two CLIPs and T5, one behind the other."""
    text, _, pooled, _ = pipeline.encode_prompt(prompt, None, None, do_classifier_free_guidance=False, **options)
    return {"text": text, "pooled": pooled}


def readers(pipeline) -> list[Reader]:
    """List CLIP's tokenizer and, where T5 was not left out, T5's."""
    clip = Reader(pipeline.tokenizer, pipeline.tokenizer_max_length)
    if pipeline.text_encoder_3 is None:
        return [clip]
    return [clip, Reader(pipeline.tokenizer_3, MOST_TOKENS, start=clip.limit)]


SD_3_5 = Architecture(
    family=SD3,
    pipeline="StableDiffusion3Pipeline",
    velocity=velocity,
    encode=encode,
    readers=readers,
    most_tokens=MOST_TOKENS,
    reads_weights=True,
    joint=JointLayout(patch=2, text_first=False),
    schedule=Schedule(1000),
    projections={
        f"{HOST}.x_block.attn.qkv": attention_parts(f"{BLOCK}.attn", QKV),
        f"{HOST}.x_block.attn.proj": (f"{BLOCK}.attn.to_out.0",),
        f"{HOST}.context_block.attn.qkv": attention_parts(f"{BLOCK}.attn", ADDED_QKV),
        f"{HOST}.context_block.attn.proj": (f"{BLOCK}.attn.to_add_out",),
        f"{HOST}.x_block.attn2.qkv": attention_parts(f"{BLOCK}.attn2", QKV),
        f"{HOST}.x_block.attn2.proj": (f"{BLOCK}.attn2.to_out.0",),
        f"{HOST}.x_block.mlp.fc1": (f"{BLOCK}.ff.net.0.proj",),
        f"{HOST}.x_block.mlp.fc2": (f"{BLOCK}.ff.net.2",),
        f"{HOST}.context_block.mlp.fc1": (f"{BLOCK}.ff_context.net.0.proj",),
        f"{HOST}.context_block.mlp.fc2": (f"{BLOCK}.ff_context.net.2",),
    },
)
