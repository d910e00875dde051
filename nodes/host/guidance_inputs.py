"""What Pick-and-Draw needs of MODEL, CLIP, VAE, prompts and the reference picture, before a sampler starts."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...palp_core.errors import ModelError, PromptError, quoted
from ...palp_core.models.backbone import Conditioning
from ...palp_core.models.prompts import check_prompt, check_weights, find_placeholders
from ...palp_core.models.wording import replaced, with_article, without_article
from ...palp_core.training.data import (
    check_image,
    encoded_image,
    image_mask,
    latent_mask,
    resize_to_cover,
    training_size,
)
from .backbone import ComfyBackbone
from .lora import check_lora_is_in_weights
from .text import spelled_out, spelled_word


class Prompt(NamedTuple):
    text: str
    tokens: tuple[int, ...]  # of the word that stands for the subject


class Prompts(NamedTuple):
    generation: Prompt
    reference: Prompt
    template: Prompt


def read_prompts(
    tokenizer,
    find: Callable[[str, str], tuple[int, ...]],
    prompt: str,
    subject_word: str,
    class_word: str,
    reference_prompt: str,
) -> Prompts:
    """Raises PromptError where a prompt does not hold its word. find: prompt, word -> places of the word's tokens."""
    named = {"prompt": prompt, "subject_word": subject_word, "class_word": class_word}
    for name, text in {**named, "reference_prompt": reference_prompt}.items():
        check_prompt(name, text)
        check_weights(name, text, find_placeholders(subject_word))
    text, word = spelled_out(tokenizer, prompt), spelled_word(tokenizer, subject_word)
    if word.startswith("embedding:") and not class_word.strip():
        raise PromptError(f"class_word is empty. Say what {word} is, in a word that the plain model knows: cat.")
    if without_article(word) == word:
        class_word = without_article(class_word)  # which stands where the word does, behind its article
    class_word = class_word.strip() or word
    reference = spelled_out(tokenizer, reference_prompt).strip() or f"a photo of a {without_article(word)}"

    def found(text: str, word: str) -> Prompt:
        return Prompt(text, find(text, word))

    generation, plain = found(text, word), class_prompt(text, word, class_word)
    if plain == text and class_word != word:
        raise PromptError(
            f"subject_word {quoted(word)} is in the prompt {quoted(text)} by its tokens, but not as it is written. "
            "Write it alike."
        )
    return Prompts(generation, found(reference, word), found(plain, class_word))


def class_prompt(prompt: str, word: str, class_word: str) -> str:
    """The prompt with the class word in the place of the subject's, wherever that stands as a word, and not repeated.

    It has an article where the prompt has none. The names of learned words stay: a cat beside embedding:my-cat.
    """
    if class_word == word:
        return prompt
    pattern = re.compile(rf"(?P<subject>(?<!\w){re.escape(word)}(?!\w))|embedding:\S+", re.IGNORECASE)
    return replaced(prompt, pattern, lambda match: class_word if match["subject"] else None, with_article)


def as_conditioning(encoded: list) -> Conditioning:
    """The host's CONDITIONING as the core's, with no inference tensors in it."""
    if len(encoded) > 1:
        raise PromptError(
            "clip has LoRA or other hooks that change along the schedule, which guidance cannot follow. Remove their "
            "keyframes."
        )
    ((context, extra),) = encoded
    tensors = {name: value.clone() for name, value in extra.items() if torch.is_tensor(value)}
    if "guidance" in extra:  # of guidance-distilled models, as a node has set it
        tensors["guidance"] = torch.tensor(float(extra["guidance"]))
    return Conditioning({"cross_attn": context.clone(), **tensors})


class Reference(NamedTuple):
    latents: Tensor  # (1, C, h, w)
    mask: Tensor | None  # (1, 1, h, w)
    note: str  # what is to be said of its mask, if anything


def read_reference(backbone: ComfyBackbone, image: Tensor, mask: Tensor | None, resolution: int) -> Reference:
    """image: (1, H, W, C), whose alpha is the mask where none is given; mask: (1, H, W)."""
    if len(image) != 1:
        raise PromptError(
            f"image holds {len(image)} pictures; the guidance takes one. Choose one, for example with ImageFromBatch."
        )
    if mask is not None and len(mask) != 1:
        raise PromptError(f"mask holds {len(mask)} masks; connect the one that belongs to the reference picture.")
    picture = check_image("image", image[0])
    size = training_size(*picture.shape[:2], resolution or backbone.native_resolution, backbone.family.side_multiple)
    latents = encoded_image(backbone, "image", resize_to_cover(picture, size))
    found, note = image_mask("", image[0], None if mask is None else mask[0])
    return Reference(latents, None if found is None else latent_mask(found, size, latents), note)


def template_backbone(base_model, model, clip, vae) -> ComfyBackbone | None:
    """For a base model with weights of its own; None where it shares the model's and differs in its LoRA only."""
    check_lora_is_in_weights("base_model", base_model)
    if base_model.is_clone(model):
        return None
    try:
        return ComfyBackbone(base_model, clip, vae)
    except ModelError as error:
        raise ModelError(f"base_model does not fit. {error}") from error
