"""Seeded random models of CLIP's and DINOv2's architectures, in the files that the true ones have; tiny."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

from .random_models import byte_tokenizer, text_config

SIDE = 32  # pixels
VISION = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 16, "image_size": SIDE}
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
#: As preprocessor_config.json of openai/clip-vit-large-patch14 and of facebook/dinov2-base spell it.
CLIP_PIXELS = {
    "crop_size": SIDE,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": SIDE,
}
DINO_PIXELS = {
    "crop_size": {"height": SIDE, "width": SIDE},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "BitImageProcessor",
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": SIDE},
}


def save_tiny_clip(folder: Path) -> CLIPModel:
    """Write the model with its tokenizer, which spells, into a folder; returns it."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer(folder, "<|endoftext|>")
    tokenizer.save_pretrained(folder)
    text = text_config(tokenizer, openclip=False, sizes=TEXT).to_dict()
    model = CLIPModel(CLIPConfig(text_config=text, vision_config={**VISION, "intermediate_size": 32}, projection_dim=8))
    return _saved(model, folder, CLIP_PIXELS)


def save_tiny_dino(folder: Path) -> Dinov2Model:
    """Write the model into a folder; returns it."""
    torch.manual_seed(1)
    return _saved(Dinov2Model(Dinov2Config(**VISION)), folder, DINO_PIXELS)


def _saved(model, folder: Path, pixels: dict):
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return model.eval()
