"""Workflows of personalization on transformers, whose model, text encoder and VAE are files of their own."""

from __future__ import annotations

from typing import NamedTuple

from .blocks import Link, Nodes, Workflow, downloadable, folded, group, node, note, photos, sampling, sampling_links
from .personalization import PROMPT

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
DOWN = (400, 530, 680)  # where the loaders are
WIDGETS = ("unet_name", "clip_name", "vae_name")


class Kind(NamedTuple):
    """Holds how the page loads a family, and how it draws with it."""

    title: str
    files: Files
    encoder_type: str
    latent: str
    sampler: dict


Z_IMAGES = Kind(
    "Z-Image",
    Z_IMAGE,
    "lumina2",
    "EmptySD3LatentImage",
    {"steps": 25, "cfg": 4.0, "sampler_name": "res_multistep", "scheduler": "simple"},
)
KLEINS = Kind(
    "FLUX.2 Klein",
    KLEIN,
    "flux2",
    "EmptyFlux2LatentImage",
    {"steps": 20, "cfg": 5.0, "sampler_name": "euler", "scheduler": "simple"},
)


def z_image() -> Workflow:
    """Lay out the training on Z-Image, and a picture of it."""
    return _personalize(Z_IMAGES, Z_IMAGE_NOTE)


def klein() -> Workflow:
    """Lay out the training on FLUX.2 Klein, and a picture of it."""
    return _personalize(KLEINS, KLEIN_NOTE)


def load_z_image() -> Workflow:
    """Lay out a picture from a file that was trained on Z-Image."""
    return _load(Z_IMAGES)


def load_klein() -> Workflow:
    """Lay out a picture from a file that was trained on FLUX.2."""
    return _load(KLEINS)


def _drawn(kind: Kind, across: int) -> Nodes:
    drawn = sampling(across, 1024, **kind.sampler)
    return {**drawn, "latent": {**drawn["latent"], "type": kind.latent}}


def _load(kind: Kind) -> Workflow:
    nodes = {
        "note": note(_note(kind.title, kind.files, LOAD_NOTE), size=(340, 350)),
        **_loaders(kind.files, kind.encoder_type),
        "palp": node("PALP_LoadLora", (0, 830), {"strength": 1.0}, (340, 180)),
        **_drawn(kind, 400),
    }
    links = [
        ("diffusion_models", "MODEL", "palp", "model"),
        ("text_encoders", "CLIP", "palp", "clip"),
        *sampling_links("palp", "vae"),
    ]
    groups = [
        group(f"1. {kind.title}, and the file", 0, 340, 1020),
        group("2. Its prompt, or one of yours", 400, 800, 1020),
    ]
    return Workflow(nodes, links, groups)


def _personalize(kind: Kind, advice: str) -> Workflow:
    options = {"gradient_checkpointing": True, "batch_size": 1}
    nodes = {
        "note": note(_note(kind.title, kind.files, advice), size=(340, 350)),
        **_loaders(kind.files, kind.encoder_type),
        "photos": photos("cat", (0, 810)),
        "options": folded(node("PALP_Options", (400, 900), options, title="For less memory")),
        "palp": node("PALP_Personalize", (400, 0), {"target_prompt": PROMPT, "file_name": "my_cat"}, (400, 840)),
        **_drawn(kind, 860),
    }
    groups = [
        group(f"1. {kind.title}, three files", 0, 340, 920),
        group("2. Your picture in words", 400, 400, 920),
        group("3. Your subject in your picture", 860, 800, 920),
    ]
    return Workflow(nodes, _links(), groups)


def _loaders(files: Files, encoder_type: str) -> Nodes:
    """Lay out a loader for each file, from which the page offers to download it."""
    extra = ({}, {"type": encoder_type}, {})
    loaders = {}
    for number, (kind, folder, widget, (name, address)) in enumerate(zip(KINDS, FOLDERS, WIDGETS, files, strict=True)):
        loader = node(kind, (0, DOWN[number]), {widget: name, **extra[number]}, (340, 90))
        loaders[folder] = downloadable(loader, name, address, folder)
    return loaders


def _links() -> list[Link]:
    return [
        ("diffusion_models", "MODEL", "palp", "model"),
        ("text_encoders", "CLIP", "palp", "clip"),
        ("vae", "VAE", "palp", "vae"),
        ("photos", "images", "palp", "images.image0"),
        ("photos", "masks", "palp", "masks.mask0"),
        ("photos", "captions", "palp", "captions"),
        ("options", "options", "palp", "options"),
        *sampling_links("palp", "vae"),
    ]


def _note(title: str, files: Files, advice: str) -> str:
    named = zip(FOLDERS, files, strict=True)
    rows = [f"- `models/{folder}`: [{name}]({address}/{name})" for folder, (name, address) in named]
    return "\n".join([f"## {title}", "", *rows, "", advice])


LOAD_NOTE = """Choose your own files if they are called otherwise.

The **prompt** is the one that the file was trained for. For one of your own, write the word as it is shown under the
node into **CLIP Text Encode**."""
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
