"""What a pipeline is handed in the place of prompts, so that it draws them as ComfyUI does."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..backbone import LearnedWords
from ..prompt_weights import without_escapes
from ..windows import of_one_length
from .architecture import Architecture
from .backbone import DiffusersBackbone
from .flow_text import FlowText, check_readable

#: What pipelines call the tensors of a conditioning; those of a negative prompt have a prefix.
PIPELINE_NAMES = {"context": "prompt_embeds", "text": "prompt_embeds", "pooled": "pooled_prompt_embeds"}
NEGATIVE = "negative_"


@torch.no_grad()
def unet_prompts(
    backbone: DiffusersBackbone, prompt: str, negative_prompt: str, words: LearnedWords
) -> dict[str, Tensor]:
    """Encode both prompts for a pipeline with a UNet, in as many windows as the longer one takes.

    Raises PromptError for an `embedding:NAME` that is none of the words.
    """
    found = [backbone.encode_prompt(text, words).tensors for text in (prompt, negative_prompt)]
    contexts = of_one_length([tensors["context"] for tensors in found])
    positive, negative = ({**t, "context": context} for t, context in zip(found, contexts, strict=True))
    return {**_named(positive), **_named(negative, NEGATIVE)}


def flow_prompts(
    pipeline, architecture: Architecture, prompt: str, negative_prompt: str, device: torch.device
) -> dict[str, Tensor | str]:
    """Encode prompts for a pipeline with a transformer, or return them as its language model reads them.

    A negative prompt is left out where the pipeline reads none. Raises PromptError for a prompt that is too long.
    """
    texts = {"": prompt, **({NEGATIVE: negative_prompt} if architecture.reads_negative_prompt else {})}
    if architecture.reads_weights:
        text = FlowText(pipeline, architecture, device)
        encoded = {prefix: text.encode(words, {}) for prefix, words in texts.items()}
        return {k: t for prefix, cond in encoded.items() for k, t in _named(cond.tensors, prefix).items()}
    for text in texts.values():
        check_readable(pipeline, architecture, text)
    return {f"{prefix}prompt": without_escapes(text) for prefix, text in texts.items()}


def _named(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """By the pipeline's names. Guidance that was distilled into a model is an option of its pipeline's own."""
    return {f"{prefix}{PIPELINE_NAMES[name]}": t for name, t in tensors.items() if name in PIPELINE_NAMES}
