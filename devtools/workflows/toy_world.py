"""The workflow on the embedded model: plain training and PALP on the same photos, side by side."""

from __future__ import annotations

from palp_core.toyworld.world import ALIGNMENT, GUIDANCE_SCALE

from .blocks import Part, Workflow, node

STEPS = 200
#: What suits this small model, for both trainings.
OPTIONS = {
    "score": ALIGNMENT.score.name,
    "score.push": ALIGNMENT.score.push,
    "score.interval": ALIGNMENT.score.interval,
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


def try_palp() -> Workflow:
    """Lay out two trainings beside each other, and below each other what they draw."""
    nodes = {
        "world": node("PALP_DemoWorld", (0, 60), size=(330, 270)),
        "photos": node("PreviewImage", (0, 420), size=(330, 330), title="The photo"),
        "latent": node("EmptyLatentImage", (0, 820), {"width": 64, "height": 64, "batch_size": 4}, (330, 110)),
    }
    nodes["options"] = node("PALP_Options", (390, 620), OPTIONS, (400, 530), "What suits this small model")
    links = [("world", "images", "photos", "images")]
    kinds = {"plain": ("Plain training", 0.0), "palp": ("PALP", ALIGNMENT.weight)}
    for number, (name, (title, weight)) in enumerate(kinds.items()):
        for part in (trained(name, title, 390 + number * 440, weight), drawn(name, title, 60 + number * 520)):
            nodes |= part.nodes
            links += part.links
    groups = [
        {"title": "1. A subject and a picture in mind", "bounding": [-20, -20, 370, 1200]},
        {"title": "2. Learn the subject in both ways", "bounding": [370, -20, 880, 1200]},
        {"title": "3. The same picture from both", "bounding": [1270, -20, 1200, 1200]},
    ]
    return Workflow(nodes, links, groups)


def trained(name: str, title: str, x: int, weight: float) -> Part:
    """Lay out a training on the embedded model. weight: of the alignment."""
    widgets = {"steps": STEPS, "alignment_weight": weight, "file_name": f"demo_{name}"}
    links = [
        *(("world", part, name, part) for part in ("model", "clip", "vae")),
        ("world", "images", name, "images.image0"),
        ("world", "class_word", name, "class_word"),
        ("world", "target_prompt", name, "target_prompt"),
        ("options", "options", name, "options"),
    ]
    return Part({name: node("PALP_Personalize", (x, 60), widgets, (400, 500), title)}, links)


def drawn(name: str, title: str, y: int) -> Part:
    """Lay out the sampling with what the training of that name has learned, to a saved picture."""
    encode, negative, sampler, decode, scale, save = (
        f"{name}_{part}" for part in ("encode", "negative", "sampler", "decode", "scale", "save")
    )
    nodes = {
        encode: node("CLIPTextEncode", (1290, y), size=(330, 90), title="The target prompt"),
        negative: node("CLIPTextEncode", (1290, y + 150), {"text": ""}, (330, 110), "Negative prompt"),
        sampler: node("KSampler", (1660, y), SAMPLER, (330, 270)),
        decode: node("VAEDecode", (1290, y + 330), size=(330, 60)),
        scale: node("ImageScaleBy", (1660, y + 330), ENLARGED, (330, 90)),
        save: node("SaveImage", (2030, y), {"filename_prefix": f"demo_{name}"}, (420, 440), title),
    }
    links = [
        (name, "model", sampler, "model"),
        (name, "clip", encode, "clip"),
        (name, "clip", negative, "clip"),
        (name, "prompt", encode, "text"),
        (encode, "CONDITIONING", sampler, "positive"),
        (negative, "CONDITIONING", sampler, "negative"),
        ("latent", "LATENT", sampler, "latent_image"),
        (sampler, "LATENT", decode, "samples"),
        ("world", "vae", decode, "vae"),
        (decode, "IMAGE", scale, "image"),
        (scale, "IMAGE", save, "images"),
    ]
    return Part(nodes, links)
