"""Make the example workflows in ComfyUI's own page, with a picture of each; run by hand after a node has changed.

python scripts/make_workflows.py      (ComfyUI at $COMFYUI_PATH or ~/comfy/ComfyUI; Chromium; pip install .[test])
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path

from PIL import Image
from skimage import data

REPO = Path(__file__).parents[1]
sys.path.insert(0, str(REPO / "tests" / "host"))  # the server and the page, as the tests drive them

import frontend  # noqa: E402
from comfy_server import ComfyServer, find_comfyui, make_base_directory  # noqa: E402

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
                "alpha": 7.5,
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


WORKFLOWS = {
    "palp_personalize": personalize,
    "palp_two_subjects": two_subjects,
    "palp_load_lora": load_lora,
}


def base_directory(folder: Path) -> Path:
    """Photos, and empty files that stand for the models a user picks: nothing is run here."""
    base = make_base_directory(folder / "base")
    Image.fromarray(data.chelsea()).save(base / "input" / "cat.png")
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
        for name, make in WORKFLOWS.items():
            nodes, links, groups = make()
            with frontend.open_page(browser, server) as page:
                frontend.build_graph(page, nodes, links)
                workflow = frontend.add_groups(page, groups)
                (out / f"{name}.json").write_text(json.dumps(workflow, indent=1) + "\n")
                picture = Image.open(io.BytesIO(frontend.picture_of_graph(page))).convert("RGB")
            picture.thumbnail(THUMBNAIL, Image.LANCZOS)
            picture.save(out / f"{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
