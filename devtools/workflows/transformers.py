"""Workflows of personalization on transformers, whose model, text encoder and VAE are files of their own."""

from __future__ import annotations

from typing import NamedTuple

from .blocks import Link, Nodes, Workflow, node, photo

SOURCE = "https://huggingface.co/Comfy-Org"


class Files(NamedTuple):
    """Holds where the files of a family come from, as (name, address)."""

    model: tuple[str, str]
    text_encoder: tuple[str, str]
    vae: tuple[str, str]


Z_IMAGE = Files(
    ("z_image_bf16.safetensors", f"{SOURCE}/z_image/resolve/main/split_files/diffusion_models"),
    ("qwen_3_4b.safetensors", f"{SOURCE}/z_image_turbo/resolve/main/split_files/text_encoders"),
    ("ae.safetensors", f"{SOURCE}/z_image_turbo/resolve/main/split_files/vae"),
)
KLEIN = Files(
    ("flux-2-klein-base-4b.safetensors", f"{SOURCE}/flux2-klein/resolve/main/split_files/diffusion_models"),
    ("qwen_3_4b.safetensors", f"{SOURCE}/flux2-klein/resolve/main/split_files/text_encoders"),
    ("flux2-vae.safetensors", f"{SOURCE}/flux2-dev/resolve/main/split_files/vae"),
)
FOLDERS = ("diffusion_models", "text_encoders", "vae")
KINDS = ("UNETLoader", "CLIPLoader", "VAELoader")
WIDGETS = ("unet_name", "clip_name", "vae_name")


def z_image() -> Workflow:
    """Lay out the training on Z-Image, and a picture of it."""
    sampling = {"steps": 25, "cfg": 4.0, "sampler_name": "res_multistep", "scheduler": "simple"}
    return _personalize("Z-Image", Z_IMAGE, "lumina2", "EmptySD3LatentImage", sampling, Z_IMAGE_NOTE)


def klein() -> Workflow:
    """Lay out the training on FLUX.2 Klein, and a picture of it."""
    sampling = {"steps": 20, "cfg": 5.0, "sampler_name": "euler", "scheduler": "simple"}
    return _personalize("FLUX.2 Klein", KLEIN, "flux2", "EmptyFlux2LatentImage", sampling, KLEIN_NOTE)


def _personalize(title: str, files: Files, encoder_type: str, latent: str, sampling: dict, advice: str) -> Workflow:
    nodes = {
        "note": node(
            "MarkdownNote", (0, 60), {"text": _note(title, files, advice)}, (330, 560), "Which files, and where"
        ),
        **_loaders(files, encoder_type),
        "photo": photo("cat.png", (390, 500)),
        "palp": node("PALP_Personalize", (800, 60), {"file_name": "my_cat"}, (400, 520)),
        "options": node("PALP_Options", (800, 640), {"gradient_checkpointing": True, "batch_size": 1}, (400, 500)),
        "positive": node("CLIPTextEncode", (1260, 60), size=(330, 90), title="The target prompt"),
        "negative": node("CLIPTextEncode", (1260, 210), {"text": ""}, (330, 110), "Negative prompt"),
        "latent": node(latent, (1260, 380), {"width": 1024, "height": 1024}, (330, 110)),
        "sampler": node(
            "KSampler", (1260, 550), {"seed": 7, "control_after_generate": "fixed", **sampling}, (330, 270)
        ),
        "decode": node("VAEDecode", (1260, 880), size=(330, 60)),
        "save": node("SaveImage", (1630, 60), {"filename_prefix": "palp"}, (420, 430)),
        "chart": node("PreviewImage", (1630, 560), size=(420, 480), title="Loss chart"),
    }
    groups = [
        {"title": f"1. {title}, three files", "bounding": [-20, -20, 760, 1180]},
        {"title": "2. Name it, describe the picture", "bounding": [780, -20, 440, 1180]},
        {"title": "3. Your subject in your picture", "bounding": [1240, -20, 830, 1180]},
    ]
    return Workflow(nodes, _links(), groups)


def _loaders(files: Files, encoder_type: str) -> Nodes:
    """Lay out a loader for each file, from which the page offers to download it."""
    extra = ({}, {"type": encoder_type}, {})
    loaders = {}
    for number, (kind, folder, widget, (name, address)) in enumerate(zip(KINDS, FOLDERS, WIDGETS, files, strict=True)):
        loader = node(kind, (390, 60 + 150 * number), {widget: name, **extra[number]}, (330, 100))
        models = [{"name": name, "url": f"{address}/{name}", "directory": folder}]
        loaders[folder] = {**loader, "properties": {"models": models}}
    return loaders


def _links() -> list[Link]:
    return [
        ("diffusion_models", "MODEL", "palp", "model"),
        ("text_encoders", "CLIP", "palp", "clip"),
        ("vae", "VAE", "palp", "vae"),
        ("photo", "IMAGE", "palp", "images.image0"),
        ("options", "options", "palp", "options"),
        ("palp", "model", "sampler", "model"),
        ("palp", "clip", "positive", "clip"),
        ("palp", "clip", "negative", "clip"),
        ("palp", "prompt", "positive", "text"),
        ("positive", "CONDITIONING", "sampler", "positive"),
        ("negative", "CONDITIONING", "sampler", "negative"),
        ("latent", "LATENT", "sampler", "latent_image"),
        ("sampler", "LATENT", "decode", "samples"),
        ("vae", "VAE", "decode", "vae"),
        ("decode", "IMAGE", "save", "images"),
        ("palp", "loss_chart", "chart", "images"),
    ]


def _note(title: str, files: Files, advice: str) -> str:
    named = zip(FOLDERS, files, strict=True)
    rows = [f"- `models/{folder}`: [{name}]({address}/{name})" for folder, (name, address) in named]
    return "\n".join([f"## {title}", "", *rows, "", advice])


Z_IMAGE_NOTE = """Take the base model: what is learned on it can be used on Z-Image-Turbo with **Load PALP LoRA**.

In place of `[V]` the model reads `ohwx cat`: a text that means nothing to it, and your class word. The prompt output
of PALP Personalize is spelled so; write it in your own prompts, too.

The text encoder leaves the card before training. With gradient_checkpointing and the bf16 file, training at 1024
pixels takes about 16 GB; see the help page for less."""
KLEIN_NOTE = """Take the base model (`base` in its name): what is learned on it can be used on the distilled Klein with
**Load PALP LoRA**.

In place of `[V]` the model reads `ohwx cat`: a text that means nothing to it, and your class word. The prompt output
of PALP Personalize is spelled so; write it in your own prompts, too.

The text encoder leaves the card before training. With gradient_checkpointing and the bf16 file, training at 1024
pixels takes about 11 GB; see the help page for less."""
