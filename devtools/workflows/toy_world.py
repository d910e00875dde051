"""The workflow on the embedded model: base model, plain training and PALP on the same photo, side by side."""

from __future__ import annotations

from dataclasses import asdict

from palp_core.toyworld.world import ALIGNMENT, GUIDANCE_SCALE

from .blocks import Link, Nodes, Part, Workflow, folded, group, node, note

STEPS = 200
SCENE = {"style": "neon", "accessory": "balloon", "place": "city"}
#: What PALP Demo World says of that scene.
PROMPT = "a neon sign of a [V] with a balloon in the city at night"
#: What suits this small model, for both trainings.
OPTIONS = {
    "score": ALIGNMENT.score.name,
    **{f"score.{name}": value for name, value in asdict(ALIGNMENT.score).items()},
    "learning_rate": 2e-3,
    "embedding_learning_rate": 2e-3,
    "rank": 16,
    "batch_size": 2,
    "personalization_prompt": "a photo of a [V]",
    "preview_guidance": GUIDANCE_SCALE,
}
SAMPLER = {
    "steps": 16,
    "cfg": GUIDANCE_SCALE,
    "seed": 7,
    "control_after_generate": "fixed",
    "sampler_name": "dpmpp_2m",
}
ENLARGED = {"upscale_method": "nearest-exact", "scale_by": 4.0}
NOTE = """## Try PALP in two minutes

Press **Run**. Nothing is downloaded, and no GPU is needed: the model is a tiny one of a world of its own.

Both trainings learn your cat from one photo. Look at the pictures on the right, and ask of each:

- is it a neon sign, with a balloon, in the city?
- is it *your* cat?

The base model knows the prompt, and not your cat. Plain training learns the cat and forgets the prompt. **PALP keeps
both.** While they train, watch how the pictures change."""
MODELS = {"base": "Base model", "plain": "Plain training", "palp": "PALP"}
HEIGHT, ROW = 1010, 350


def try_palp() -> Workflow:
    """Lay out two trainings beside each other, and what base model and both draw."""
    nodes = {
        "note": note(NOTE, size=(340, 260)),
        "world": node("PALP_DemoWorld", (0, 310), SCENE, size=(340, 270)),
        "photo": node("PreviewImage", (0, 720), size=(340, 290), title="Your cat"),
        "plain": _training("Plain training", "demo_plain", 400, 0.0),
        "palp": _training("PALP", "demo_palp", 820, ALIGNMENT.weight),
        **_shared(),
    }
    links = [("world", "images", "photo", "images"), *_training_links("plain"), *_training_links("palp")]
    for row, (name, title) in enumerate(MODELS.items()):
        part = drawn(name, title, row)
        nodes |= part.nodes
        links += part.links
    groups = [
        group("1. Your cat, and a picture in mind", 0, 340, HEIGHT),
        group("2. Learn the cat in both ways", 400, 820, HEIGHT),
        group("3. Neon? Balloon? City? Your cat?", 1280, 340, HEIGHT),
        group("How they are drawn", 1680, 200, HEIGHT),
    ]
    return Workflow(nodes, links, groups)


def _training(title: str, file_name: str, x: int, weight: float) -> dict:
    """Lay out a training on the embedded model. weight: of the alignment."""
    widgets = {"class_word": "cat", "target_prompt": PROMPT, "steps": STEPS, "alignment_weight": weight}
    return node("PALP_Personalize", (x, 0), {**widgets, "file_name": file_name}, (400, 950), title)


def _training_links(name: str) -> list[Link]:
    return [
        *(("world", part, name, part) for part in ("model", "clip", "vae")),
        ("world", "images", name, "images.image0"),
        ("world", "class_word", name, "class_word"),
        ("world", "target_prompt", name, "target_prompt"),
        ("options", "options", name, "options"),
    ]


def _shared() -> Nodes:
    """Lay out what all three share, folded."""
    return {
        "options": folded(node("PALP_Options", (400, 1000), OPTIONS, title="For this model")),
        "negative": folded(node("CLIPTextEncode", (1680, 0), {"text": ""}, title="No negative")),
        "latent": folded(
            node("EmptyLatentImage", (1680, 40), {"width": 64, "height": 64, "batch_size": 4}, title="Four pictures")
        ),
    }


def drawn(name: str, title: str, row: int) -> Part:
    """Lay out the sampling with what a model has learned, folded, and its pictures."""
    encode, sampler, decode, scale, save = (f"{name}_{p}" for p in ("encode", "sampler", "decode", "scale", "save"))
    y = ROW * row
    text = {"text": PROMPT.replace("[V]", "cat")}
    nodes = {
        save: node("SaveImage", (1280, y), {"filename_prefix": f"demo_{name}"}, (340, 310), title),
        encode: folded(node("CLIPTextEncode", (1680, y + 90), text, title="Prompt")),
        sampler: folded(node("KSampler", (1680, y + 130), SAMPLER)),
        decode: folded(node("VAEDecode", (1680, y + 170))),
        scale: folded(node("ImageScaleBy", (1680, y + 210), ENLARGED)),
    }
    source = "world" if name == "base" else name
    links = [
        (source, "model", sampler, "model"),
        (source, "clip", encode, "clip"),
        *([] if name == "base" else [(name, "prompt", encode, "text")]),
        *([("world", "clip", "negative", "clip")] if name == "base" else []),
        (encode, "CONDITIONING", sampler, "positive"),
        ("negative", "CONDITIONING", sampler, "negative"),
        ("latent", "LATENT", sampler, "latent_image"),
        (sampler, "LATENT", decode, "samples"),
        ("world", "vae", decode, "vae"),
        (decode, "IMAGE", scale, "image"),
        (scale, "IMAGE", save, "images"),
    ]
    return Part(nodes, links)
