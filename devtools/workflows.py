"""Make the example workflows in ComfyUI's own page, with a picture of each; run by hand after a node has changed.

python -m devtools.workflows [NAME ...]   (ComfyUI as the tests find it; Chromium; pip install .[test])
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path

from PIL import Image
from skimage import data

from palp_core.toyworld.world import ALIGNMENT, GUIDANCE_SCALE

from . import frontend
from .comfy_server import ComfyServer, find_comfyui, make_base_directory

REPO = Path(__file__).parents[1]

THUMBNAIL = (1400, 900)  # at most
NAME = "my_cat_00001"


def node(kind: str, pos: tuple[int, int], widgets: dict | None = None, size=None, title: str | None = None) -> dict:
    spec = {"type": kind, "pos": list(pos), "widgets": widgets, "size": size and list(size), "title": title}
    return {key: value for key, value in spec.items() if value is not None}


def checkpoint(pos: tuple[int, int]) -> dict:
    return node("CheckpointLoaderSimple", pos, size=(330, 100))


def photo(name: str, pos: tuple[int, int]) -> dict:
    return node("LoadImage", pos, {"image": name}, (330, 320))


def sampling(x: int, y: int) -> dict[str, dict]:
    """From a prompt to a saved picture."""
    return {
        "positive": node("CLIPTextEncode", (x, y), size=(330, 90), title="The target prompt"),
        "negative": node("CLIPTextEncode", (x, y + 150), {"text": ""}, (330, 110), "Negative prompt"),
        "latent": node("EmptyLatentImage", (x, y + 320), {"width": 512, "height": 512}, (330, 110)),
        "sampler": node(
            "KSampler",
            (x + 370, y),
            {"steps": 25, "cfg": 7.5, "seed": 7, "control_after_generate": "fixed"},
            (330, 270),
        ),
        "decode": node("VAEDecode", (x + 370, y + 330), size=(330, 60)),
        "save": node("SaveImage", (x + 740, y), {"filename_prefix": "palp"}, (420, 430)),
    }


def sampling_links(model: str, checkpoint: str) -> list[tuple[str, str, str, str]]:
    return [
        (model, "model", "sampler", "model"),
        (model, "clip", "positive", "clip"),
        (model, "clip", "negative", "clip"),
        (model, "prompt", "positive", "text"),
        ("positive", "CONDITIONING", "sampler", "positive"),
        ("negative", "CONDITIONING", "sampler", "negative"),
        ("latent", "LATENT", "sampler", "latent_image"),
        ("sampler", "LATENT", "decode", "samples"),
        (checkpoint, "VAE", "decode", "vae"),
        ("decode", "IMAGE", "save", "images"),
    ]


def parts(checkpoint: str, node: str, names: str = "model clip vae") -> list[tuple[str, str, str, str]]:
    return [(checkpoint, name.upper(), node, name) for name in names.split()]


def personalize() -> tuple[dict[str, dict], list, list]:
    nodes = {
        "checkpoint": checkpoint((0, 60)),
        "photo": photo("cat.png", (0, 220)),
        "palp": node("PALP_Personalize", (390, 60), {"file_name": "my_cat"}, (400, 860)),
        "chart": node("PreviewImage", (850, 560), size=(700, 480), title="Loss chart"),
        **sampling(850, 60),
    }
    links = [
        *parts("checkpoint", "palp"),
        ("photo", "IMAGE", "palp", "images.image0"),
        ("palp", "loss_chart", "chart", "images"),
        *sampling_links("palp", "checkpoint"),
    ]
    groups = [
        {"title": "1. Checkpoint and photos", "bounding": [-20, -20, 370, 580]},
        {"title": "2. Name it, describe the picture", "bounding": [370, -20, 440, 1140]},
        {"title": "3. Your subject in your picture", "bounding": [830, -20, 1200, 1140]},
    ]
    return nodes, links, groups


def two_subjects() -> tuple[dict[str, dict], list, list]:
    nodes = {
        "checkpoint": checkpoint((0, 60)),
        "photo": photo("cat.png", (0, 220)),
        "photo2": photo("cup.png", (0, 620)),
        "subject": node("PALP_Subject", (390, 620), {"class_word": "cup", "placeholder": "[V2]"}, (360, 260)),
        "palp": node(
            "PALP_Personalize",
            (800, 60),
            {
                "target_prompt": "a watercolor of [V] beside [V2] in a meadow",
                "file_name": "cat_and_cup",
                "alignment_weight": 0.15,
                "score": "palp",
                "alpha": 7.5,  # the paper's for compositions
                "beta": 1.0,
            },
            (400, 860),
        ),
        **sampling(1260, 60),
    }
    links = [
        *parts("checkpoint", "palp"),
        ("photo", "IMAGE", "palp", "images.image0"),
        ("photo2", "IMAGE", "subject", "images.image0"),
        ("subject", "subjects", "palp", "subjects"),
        *sampling_links("palp", "checkpoint"),
    ]
    groups = [
        {"title": "1. Photos of [V] above, of [V2] below", "bounding": [-20, -20, 790, 1140]},
        {"title": "2. One prompt names both", "bounding": [780, -20, 440, 1140]},
        {"title": "3. Both in one picture", "bounding": [1240, -20, 1200, 1140]},
    ]
    return nodes, links, groups


def load_lora() -> tuple[dict[str, dict], list, list]:
    nodes = {
        "checkpoint": checkpoint((0, 60)),
        "palp": node("PALP_LoadLora", (0, 240), {"strength": 1.0}, (330, 160)),
        **sampling(410, 60),
    }
    links = [*parts("checkpoint", "palp", "model clip"), *sampling_links("palp", "checkpoint")]
    groups = [
        {"title": "1. Checkpoint and file", "bounding": [-20, -20, 390, 520]},
        {"title": "2. Its prompt, or one of yours with embedding:NAME", "bounding": [390, -20, 1200, 520]},
    ]
    return nodes, links, groups


def try_palp() -> tuple[dict[str, dict], list, list]:
    """The embedded model: plain training and PALP on the same photos, side by side."""
    rates = {"learning_rate": 2e-3, "embedding_learning_rate": 2e-3}
    small = {"steps": 200, **rates, "rank": 16, "batch_size": 2, "resolution": 64}
    small |= {"personalization_prompt": "a photo of a [V]"}
    toy_alignment = {
        "alignment_weight": ALIGNMENT.weight,
        "score": ALIGNMENT.score,
        "alpha": ALIGNMENT.alpha,
        "beta": ALIGNMENT.beta,
    }
    nodes = {
        "world": node("PALP_DemoWorld", (0, 60), size=(330, 270)),
        "photos": node("PreviewImage", (0, 420), size=(330, 330), title="The photo"),
        "latent": node("EmptyLatentImage", (0, 820), {"width": 64, "height": 64, "batch_size": 4}, (330, 110)),
    }
    links = [("world", "images", "photos", "images")]
    kinds = {"plain": ("Plain training", {"alignment_weight": 0.0}), "palp": ("PALP", toy_alignment)}
    for row, (name, (title, changed)) in enumerate(kinds.items()):
        x, y = 390 + row * 440, 60 + row * 520  # the trainings beside each other, what they draw below each other
        widgets = {**small, **changed, "file_name": f"demo_{name}"}
        encode, negative, sampler, decode, scale, save = (
            f"{name}_{part}" for part in ("encode", "negative", "sampler", "decode", "scale", "save")
        )
        steps = {
            "steps": 16,
            "cfg": GUIDANCE_SCALE,
            "seed": 7,
            "control_after_generate": "fixed",
            "sampler_name": "dpmpp_2m",
        }
        nodes |= {
            name: node("PALP_Personalize", (x, 60), widgets, (400, 860), title),
            encode: node("CLIPTextEncode", (1290, y), size=(330, 90), title="The target prompt"),
            negative: node("CLIPTextEncode", (1290, y + 150), {"text": ""}, (330, 110), "Negative prompt"),
            sampler: node("KSampler", (1660, y), steps, (330, 270)),
            decode: node("VAEDecode", (1290, y + 330), size=(330, 60)),
            scale: node(
                "ImageScaleBy", (1660, y + 330), {"upscale_method": "nearest-exact", "scale_by": 4.0}, (330, 90)
            ),
            save: node("SaveImage", (2030, y), {"filename_prefix": f"demo_{name}"}, (420, 440), title),
        }
        links += [
            *(("world", part, name, part) for part in ("model", "clip", "vae")),
            ("world", "images", name, "images.image0"),
            ("world", "class_word", name, "class_word"),
            ("world", "target_prompt", name, "target_prompt"),
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
    groups = [
        {"title": "1. A subject and a picture in mind", "bounding": [-20, -20, 370, 1140]},
        {"title": "2. Learn the subject in both ways", "bounding": [370, -20, 880, 1140]},
        {"title": "3. The same picture from both", "bounding": [1270, -20, 1200, 1140]},
    ]
    return nodes, links, groups


def conditioned_sampling(x: int, y: int, source: str) -> tuple[dict[str, dict], list]:
    """From a node that patches a MODEL and encodes the prompt itself to a saved picture."""
    nodes = sampling(x, y)
    del nodes["positive"]
    links = [link for link in sampling_links(source, "checkpoint") if "positive" not in (link[0], link[2])]
    links = [link for link in links if link[2] != "negative"]
    return nodes, [
        *links,
        (source, "conditioning", "sampler", "positive"),
        ("checkpoint", "CLIP", "negative", "clip"),
    ]


def pick_and_draw() -> tuple[dict[str, dict], list, list]:
    sampled, links = conditioned_sampling(850, 60, "guidance")
    nodes = {
        "checkpoint": checkpoint((0, 60)),
        "photo": photo("cat.png", (0, 220)),
        "guidance": node("PALP_PickAndDraw", (390, 60), {"prompt": "a watercolor of a cat in a meadow"}, (400, 560)),
        **sampled,
    }
    links += [*parts("checkpoint", "guidance"), ("photo", "IMAGE", "guidance", "image")]
    groups = [
        {"title": "1. Checkpoint and one photo", "bounding": [-20, -20, 370, 700]},
        {"title": "2. The prompt, and the subject's word in it", "bounding": [370, -20, 440, 700]},
        {"title": "3. Sampled with its look", "bounding": [830, -20, 1200, 700]},
    ]
    return nodes, links, groups


def attention_heatmap() -> tuple[dict[str, dict], list, list]:
    sampled, links = conditioned_sampling(410, 60, "record")
    nodes = {
        "checkpoint": checkpoint((0, 60)),
        "record": node("PALP_RecordAttention", (0, 220), {"prompt": "a sketch of a cat in Paris at night"}, (350, 200)),
        **sampled,
    }
    for column, (word, against) in enumerate((("cat", ""), ("Paris", "cat"))):
        at = (1620 + 420 * column, 60)
        nodes[word] = node(
            "PALP_AttentionHeatmap", at, {"word": word, "against": against}, (380, 460), f"Where: {word}"
        )
        links += [("record", "recording", word, "recording"), ("decode", "IMAGE", word, "image")]
    links += parts("checkpoint", "record", "model clip")
    groups = [
        {"title": "1. The prompt whose words are recorded", "bounding": [-20, -20, 390, 560]},
        {"title": "2. Sampled as ever", "bounding": [390, -20, 1190, 560]},
        {"title": "3. What each word looked at", "bounding": [1600, -20, 840, 590]},
    ]
    return nodes, links, groups


PHOTOS = ("cat.png", "cat_2.png", "cat_3.png")
WORD_PROMPT = "in Paris, a photo of embedding:my_cat"


def word_sampling(x: int, y: int, clip: tuple[str, str]) -> tuple[dict[str, dict], list]:
    """From the checkpoint's own MODEL and a CLIP (node, output) that knows the learned word to a saved picture."""
    nodes = sampling(x, y)
    nodes["positive"] = node("CLIPTextEncode", (x, y), {"text": WORD_PROMPT}, (330, 110), "Your word in any prompt")
    links = [link for link in sampling_links("", "checkpoint") if link[0]]
    links += [("checkpoint", "MODEL", "sampler", "model"), (*clip, "positive", "clip"), (*clip, "negative", "clip")]
    return nodes, links


def textual_inversion() -> tuple[dict[str, dict], list, list]:
    sampled, links = word_sampling(850, 60, ("word", "clip"))
    nodes = {
        "checkpoint": checkpoint((0, 60)),
        "photo0": photo(PHOTOS[0], (-360, 60)),
        "photo1": photo(PHOTOS[1], (-360, 450)),
        "photo2": photo(PHOTOS[2], (0, 450)),
        "word": node("PALP_TextualInversionTrain", (390, 60), {"name": "my_cat"}, (400, 820)),
        "prompt": node(
            "StringConcatenate",
            (390, 930),
            {"string_a": "in Paris, a photo of", "delimiter": " "},
            (400, 160),
            "A prompt that ends with the word",
        ),
        "chart": node("PreviewImage", (850, 560), size=(700, 480), title="Loss chart"),
        **sampled,
    }
    links += [*parts("checkpoint", "word"), *((f"photo{n}", "IMAGE", "word", f"images.image{n}") for n in range(3))]
    links += [("word", "loss_chart", "chart", "images")]
    links += [("word", "embedding", "prompt", "string_b"), ("prompt", "STRING", "positive", "text")]
    groups = [
        {"title": "1. Checkpoint and images", "bounding": [-380, -20, 730, 1140]},
        {"title": "2. Name the word, say where it starts", "bounding": [370, -20, 440, 1140]},
        {"title": "3. The word in a prompt", "bounding": [830, -20, 1200, 1140]},
    ]
    return nodes, links, groups


def use_learned_word() -> tuple[dict[str, dict], list, list]:
    sampled, links = word_sampling(410, 60, ("checkpoint", "CLIP"))
    groups = [
        {"title": "1. A checkpoint of the same family", "bounding": [-20, -20, 390, 520]},
        {"title": "2. embedding:NAME of a file in the embeddings folder", "bounding": [390, -20, 1200, 520]},
    ]
    return {"checkpoint": checkpoint((0, 60)), **sampled}, links, groups


WORKFLOWS = {
    "try_palp_in_two_minutes": try_palp,
    "palp_personalize": personalize,
    "palp_two_subjects": two_subjects,
    "palp_load_lora": load_lora,
    "pick_and_draw": pick_and_draw,
    "attention_heatmap": attention_heatmap,
    "textual_inversion": textual_inversion,
    "use_learned_word": use_learned_word,
}


def base_directory(folder: Path) -> Path:
    """Photos, and empty files that stand for the models a user picks: nothing is run here."""
    base = make_base_directory(folder / "base")
    cat = Image.fromarray(data.chelsea())
    for name, part in zip(PHOTOS, (cat, cat.crop((90, 0, 390, 300)), cat.crop((60, 30, 450, 300))), strict=True):
        part.save(base / "input" / name)
    Image.fromarray(data.coffee()).save(base / "input" / "cup.png")
    (base / "models/checkpoints/sd15.safetensors").touch()
    (base / f"models/loras/{NAME}.safetensors").touch()
    return base


def main() -> None:
    out = REPO / "example_workflows"
    with (
        tempfile.TemporaryDirectory() as folder,
        ComfyServer(find_comfyui(), base_directory(Path(folder))) as server,
        frontend.open_browser(frontend.find_chromium()) as browser,
    ):
        for name in sys.argv[1:] or WORKFLOWS:
            nodes, links, groups = WORKFLOWS[name]()
            with frontend.open_page(browser, server) as page:
                frontend.build_graph(page, nodes, links)
                workflow = frontend.add_groups(page, groups)
                (out / f"{name}.json").write_text(json.dumps(workflow, indent=1) + "\n")
                picture = Image.open(io.BytesIO(frontend.picture_of_graph(page))).convert("RGB")
            picture.thumbnail(THUMBNAIL, Image.LANCZOS)
            picture.save(out / f"{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
