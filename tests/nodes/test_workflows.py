"""The shipped workflows, opened in ComfyUI's page and run by a real server: from a checkpoint to a saved picture."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from devtools import frontend
from devtools.comfy_server import ComfyServer
from devtools.graphs import options_node
from palp_core import load_lora_file
from palp_core.toyworld.world import ALIGNMENT

pytestmark = [pytest.mark.host, pytest.mark.browser]

WORKFLOWS = Path(__file__).parents[2] / "example_workflows"
HELP_PAGES = Path(__file__).parents[2] / "web/docs"
#: What makes a run affordable on a CPU: by node type, widget values.
SMALL = {
    "PALP_Personalize": {"steps": 2},
    "PALP_Options": {"resolution": 64, "rank": 4, "batch_size": 1, "learning_rate": 1e-3},
    "PALP_TextualInversionTrain": {"steps": 2, "learning_rate": 5e-3},
    "EmptyLatentImage": {"width": 64, "height": 64},
    "KSampler": {"steps": 2},
}


def shipped(page, name: str, **chosen: dict) -> dict:
    """A shipped workflow as the page sends it, with what the user picks, and small. chosen: node type -> widgets."""
    frontend.load_workflow(page, json.loads((WORKFLOWS / f"{name}.json").read_text()))
    for node_type, widgets in [*SMALL.items(), *chosen.items()]:
        for widget, value in widgets.items():
            frontend.set_widget(page, node_type, widget, value)
    return frontend.to_api(page)


def with_options(prompt: dict) -> dict:
    """Connect a small PALP Options to the training of a workflow that has none."""
    (training,) = (node for node in prompt.values() if node["class_type"] == "PALP_TextualInversionTrain")
    training["inputs"]["options"] = ["options", 0]
    return {**prompt, "options": options_node()}


def picture(server: ComfyServer, result) -> np.ndarray:
    (saved,) = (image for image in result.images if image["type"] == "output")
    return np.asarray(Image.open(server.file(saved))).astype(int)


def stock_workflow(prompt: dict, lora: str) -> dict:
    """The loading workflow with the host's own Load LoRA in the place of ours, and the word from its own folder."""
    (ours,) = (key for key, node in prompt.items() if node["class_type"] == "PALP_LoadLora")
    stock = {"strength_model": 1.0, "strength_clip": 1.0, "lora_name": f"{lora}.safetensors"}
    links = {name: prompt[ours]["inputs"][name] for name in ("model", "clip")}
    changed = {**prompt, ours: {"class_type": "LoraLoader", "inputs": {**links, **stock}}}
    for node in changed.values():
        if node["inputs"].get("text") == [ours, 2]:
            node["inputs"]["text"] = f"a sketch of embedding:{lora} in Paris at night"
    return changed


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_from_photos_to_a_picture_and_the_same_picture_from_the_file(browser_page, server, family, request):
    checkpoint = {"ckpt_name": request.getfixturevalue(f"{family}_checkpoint")}
    loras = server.base_directory / "models/loras"
    named = {"file_name": f"cat_{family}"}

    chosen = {"CheckpointLoaderSimple": checkpoint, "PALP_Personalize": SMALL["PALP_Personalize"] | named}
    prompt = shipped(browser_page, "02 Your subject in your picture", **chosen)
    trained = server.queue(prompt, timeout=900).require_success()
    name = f"cat_{family}_00001"
    file = load_lora_file(loras / f"{name}.safetensors")
    assert file.info.steps == 2 and file.info.prompt == f"a sketch of embedding:{name} in Paris at night"
    assert any("denoising loss" in text for _, text in trained.texts)
    first = picture(server, trained)
    assert first.shape == (64, 64, 3) and first.std() > 5

    server.free()  # the file alone must do
    loader = {"PALP_LoadLora": {"lora_name": f"{name}.safetensors"}}
    again = shipped(browser_page, "06 Use a trained file", CheckpointLoaderSimple=checkpoint, **loader)
    loaded = server.queue(again, timeout=600).require_success()
    assert (picture(server, loaded) == first).all()
    assert any(f"{file.projections} of {file.projections} keys matched" in text for _, text in loaded.texts)

    shutil.copy(loras / f"{name}.safetensors", server.base_directory / "models/embeddings")
    stock = server.queue(stock_workflow(again, name), timeout=600).require_success()
    assert (picture(server, stock) == first).all()

    untouched = shipped(browser_page, "06 Use a trained file", CheckpointLoaderSimple=checkpoint, **loader)
    (key,) = (k for k, node in untouched.items() if node["class_type"] == "PALP_LoadLora")
    untouched[key]["inputs"]["strength"] = 0.0
    weak = server.queue(untouched, timeout=600).require_success()
    assert (picture(server, weak) != first).any()


def on_tiny_model(prompt: dict, family: str) -> dict:
    """A template's prompt with one tiny random model in the place of its three files."""
    outputs = {"UNETLoader": 0, "CLIPLoader": 1, "VAELoader": 2}
    loaders = {key: outputs[node["class_type"]] for key, node in prompt.items() if node["class_type"] in outputs}
    assert len(loaders) == 3
    changed = {key: node for key, node in prompt.items() if key not in loaders}
    for node in changed.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and value[0] in loaders:
                node["inputs"][name] = ["tiny", loaders[value[0]]]
    return {**changed, "tiny": {"class_type": "TinyTransformerLoader", "inputs": {"family": family}}}


TRANSFORMERS = [("03 Your subject with Z-Image", "z_image"), ("04 Your subject with FLUX.2 Klein", "flux2_klein")]


@pytest.mark.parametrize(("name", "family"), TRANSFORMERS)
def test_from_photos_to_a_picture_on_a_transformer(browser_page, server, name, family):
    """Their templates in the page, with a tiny model of the host's own class; the text stands for the subject."""
    latent = "EmptySD3LatentImage" if family == "z_image" else "EmptyFlux2LatentImage"
    chosen = {
        "PALP_Personalize": {"steps": 2, "file_name": family},
        latent: {"width": 64, "height": 64},
    }
    prompt = on_tiny_model(shipped(browser_page, name, **chosen), family)
    result = server.queue(prompt, timeout=600).require_success()
    file = load_lora_file(server.base_directory / f"models/loras/{family}_00001.safetensors")
    assert file.info.prompt == "a sketch of ohwx cat in Paris at night" and file.info.family == family
    assert picture(server, result).std() > 5
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text())
    offered = [model for node in workflow["nodes"] for model in node.get("properties", {}).get("models", [])]
    assert [model["directory"] for model in offered] == ["diffusion_models", "text_encoders", "vae"]
    assert all(model["url"].endswith(model["name"]) for model in offered)


def test_two_subjects_in_one_picture(browser_page, server, sd15_checkpoint):
    chosen = {
        "CheckpointLoaderSimple": {"ckpt_name": sd15_checkpoint},
        "PALP_Personalize": {**SMALL["PALP_Personalize"], "file_name": "two"},
    }
    result = server.queue(
        shipped(browser_page, "05 Two subjects in one picture", **chosen), timeout=600
    ).require_success()
    file = load_lora_file(server.base_directory / "models/loras/two_00001.safetensors")
    assert list(file.words) == ["two_00001_V", "two_00001_V2"]
    assert picture(server, result).std() > 5


def test_a_subject_painted_like_an_artwork(browser_page, server, sd15_checkpoint):
    chosen = {
        "CheckpointLoaderSimple": {"ckpt_name": sd15_checkpoint},
        "PALP_Personalize": {**SMALL["PALP_Personalize"], "file_name": "painted"},
    }
    prompt = shipped(browser_page, "11 Your subject painted like an artwork", **chosen)
    result = server.queue(prompt, timeout=600).require_success()
    info = load_lora_file(server.base_directory / "models/loras/painted_00001.safetensors").info
    assert info.clean_prompt == "an oil painting of a cat on a rock"
    assert picture(server, result).std() > 5


def test_a_subject_from_one_photo_with_pictures_on_the_way(browser_page, server, sd15_checkpoint):
    chosen = {
        "CheckpointLoaderSimple": {"ckpt_name": sd15_checkpoint},
        "PALP_Personalize": {**SMALL["PALP_Personalize"], "file_name": "one"},
    }
    prompt = shipped(browser_page, "12 Your subject from one photo", **chosen)
    (options,) = (node for node in prompt.values() if node["class_type"] == "PALP_Options")
    assert options["inputs"]["preview_every"] == 50
    result = server.queue(prompt, timeout=600).require_success()
    file = load_lora_file(server.base_directory / "models/loras/one_00001.safetensors")
    assert file.info.subjects[0].images == 1 and picture(server, result).std() > 5


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("name", ["07 One photo, no training", "08 Where the words look"])
def test_guidance_and_heat_maps_from_their_templates(browser_page, server, name, family, request):
    chosen = {
        "CheckpointLoaderSimple": {"ckpt_name": request.getfixturevalue(f"{family}_checkpoint")},
        "PALP_PickAndDraw": {"resolution": 64},
    }
    result = server.queue(shipped(browser_page, name, **chosen), timeout=900).require_success()
    first = picture(server, result)
    assert first.std() > 5
    shown = [image for image in result.images if image["type"] == "temp"]
    assert len(shown) == (2 if name == "08 Where the words look" else 0)
    if name == "07 One photo, no training":
        chosen["PALP_PickAndDraw"] |= {"pick_weight": 0.0, "draw_weight": 0.0}
        off = server.queue(shipped(browser_page, name, **chosen), timeout=900).require_success()
        assert np.abs(first - picture(server, off)).mean() > 0.05  # of 255 levels; the model is random


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_learned_word_from_its_template_and_from_its_file(browser_page, server, family, request):
    chosen = {"CheckpointLoaderSimple": {"ckpt_name": request.getfixturevalue(f"{family}_checkpoint")}}
    training = {"PALP_TextualInversionTrain": {"overwrite": True}}
    prompt = with_options(shipped(browser_page, "09 Learn a word", **chosen, **training))
    again = shipped(browser_page, "10 Use a learned word", **chosen)
    first = picture(server, server.queue(prompt, timeout=900).require_success())
    assert (server.base_directory / "models/embeddings/my_cat.safetensors").exists() and first.std() > 5
    server.free()  # the file alone must do
    assert (picture(server, server.queue(again, timeout=600).require_success()) == first).all()


def test_the_first_workflow_of_a_newcomer_needs_nothing_but_the_pack(browser_page, server):
    small = {"PALP_Personalize": {"steps": 2}, "PALP_Options": {"batch_size": 1}, "KSampler": {"steps": 2}}
    frontend.load_workflow(browser_page, json.loads((WORKFLOWS / "01 Try PALP in two minutes.json").read_text()))
    for node_type, widgets in small.items():
        for widget, value in widgets.items():
            frontend.set_widget(browser_page, node_type, widget, value)
    result = server.queue(frontend.to_api(browser_page), timeout=600).require_success()
    saved = [image for image in result.images if image["type"] == "output"]
    assert len(saved) == 12  # four of the base model and of each training
    with Image.open(server.file(saved[0])) as picture:
        assert picture.size == (256, 256)
    for name, weight in (("demo_plain", 0.0), ("demo_palp", ALIGNMENT.weight)):
        info = load_lora_file(server.base_directory / f"models/loras/{name}_00001.safetensors").info
        guidance = info.settings["alignment"]
        assert guidance["weight"] == weight and info.prediction == "v"
        assert guidance["score"] == {"name": ALIGNMENT.score.name, **asdict(ALIGNMENT.score)}
        assert info.target_prompt == "a neon sign of a [V] with a balloon in the city at night"


def test_the_page_lists_the_templates_and_shows_help(browser_page, server):
    templates = server.get("/api/workflow_templates")
    names = {path.stem for path in WORKFLOWS.glob("*.json")}
    assert names <= set(templates["ComfyUI-PALP"])
    nodes = {path.stem for path in HELP_PAGES.glob("*.md")}
    assert nodes == {name for name in server.object_info() if name.startswith("PALP_")}
    for node in nodes:
        status = browser_page.evaluate(
            "async path => (await fetch(path)).status", f"/extensions/ComfyUI-PALP/docs/{node}.md"
        )
        assert status == 200, node
        for page in (HELP_PAGES / f"{node}.md", *sorted((HELP_PAGES / node).glob("*.md"))):
            (picture,) = re.findall(r"!\[.+\]\((pictures/.+)\)", page.read_text(encoding="utf-8"))
            kind = browser_page.evaluate(
                "async path => (await fetch(path)).headers.get('content-type')",
                f"/extensions/ComfyUI-PALP/docs/{picture}",
            )
            assert kind == "image/jpeg", page


def test_every_input_and_output_has_a_tooltip(server):
    for name, node in server.object_info().items():
        if not name.startswith("PALP_"):
            continue
        inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
        assert all(options[1].get("tooltip") for options in inputs.values() if len(options) > 1), name
        assert all(node["output_tooltips"]) and len(node["output_tooltips"]) == len(node["output"]), name
        assert node["description"] and node["category"] == "PALP", name
