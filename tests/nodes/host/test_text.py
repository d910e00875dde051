"""Prompts that the host's CLIP cannot take a learned word into, or cannot be searched for a word."""

from __future__ import annotations

import pytest
import torch

from devtools import host_models
from devtools.random_models import tiny_pipeline

pytestmark = pytest.mark.host


@pytest.fixture
def clip(host, comfyui_path, tmp_path):
    """The host's CLIP of a tiny Stable Diffusion 1.x."""
    make_tokenizer = host_models.host_tokenizer(comfyui_path)
    return host_models.host_parts(tiny_pipeline("sd1", tmp_path, make_tokenizer=make_tokenizer), "sd1")[1]


def test_a_prompt_that_holds_the_start_token_itself_is_refused_only_beside_a_learned_word(clip):
    """The word would be put in the wrong place."""
    from palp_pack.nodes.host.text import clip_with_words, token_table

    width = token_table(clip.cond_stage_model, "clip_l").weight.shape[-1]
    learned = clip_with_words(clip, {"embedding:cat": {"clip_l": torch.zeros(1, width)}})
    assert learned.tokenize("<|startoftext|> a dog") == clip.tokenize("<|startoftext|> a dog")
    with pytest.raises(ValueError, match=r"holds <\|startoftext\|>, which no learned word can stand beside. Remove"):
        learned.tokenize("<|startoftext|> a photo of embedding:cat")


def test_a_clip_that_reads_prompts_otherwise_is_named(clip):
    """Such a CLIP may be connected beside any UNet, whose text attention is looked at all the same."""
    from comfy.text_encoders.sd3_clip import T5XXLTokenizer
    from palp_pack.nodes.host.text import token_positions

    with pytest.raises(ValueError, match=r"clip \(T5XXLTokenizer\) does not read prompts as Stable Diffusion"):
        token_positions(T5XXLTokenizer(), "a photo of a cat", "cat")
