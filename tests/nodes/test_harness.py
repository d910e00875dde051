"""The host test's own tools, on stock nodes only: the server, the checkpoint files, the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from devtools import frontend
from devtools.checkpoints import write_sdxl_checkpoint
from devtools.comfy_server import ComfyServer, Message, PromptRejectedError, make_base_directory

pytestmark = pytest.mark.host


def text_to_image(checkpoint: str, steps: int = 2) -> dict[str, Any]:
    """API JSON of the stock graph from a prompt to a saved picture of 64 by 64."""
    sampler = {
        "model": ["1", 0],
        "positive": ["2", 0],
        "negative": ["3", 0],
        "latent_image": ["4", 0],
        "seed": 1,
        "steps": steps,
        "cfg": 5.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
    }
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a photo of a cat"}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": ""}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "5": {"class_type": "KSampler", "inputs": sampler},
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "harness"}},
    }


def loaded_kind(log: str) -> tuple[str, str]:
    """What the log says of the last model: its prediction and the class of its text encoder."""
    prediction = [line.split("model_type ")[1] for line in log.splitlines() if "model_type " in line]
    encoder = [line.split()[-1] for line in log.splitlines() if "Requested to load" in line and "ClipModel" in line]
    return prediction[-1].strip(), encoder[-1]


def assert_takes(server: ComfyServer, checkpoint: str, kind: tuple[str, str]) -> None:
    result = server.queue(text_to_image(checkpoint)).require_success()
    assert loaded_kind(server.log()) == kind
    assert [entry for entry in result.progress if entry[0] == "5"][-1] == ("5", 2, 2)
    picture = np.asarray(Image.open(server.file(result.images[0])), dtype=np.float32)  # (64, 64, 3)
    assert picture.shape == (64, 64, 3)
    assert 5 < picture.std() < 120  # NaN would give a black one


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("sd15", ("EPS", "SD1ClipModel")),
        ("sd2", ("V_PREDICTION", "SD2ClipModel")),
        ("sdxl", ("EPS", "SDXLClipModel")),
    ],
)
def test_host_takes_the_checkpoint_for_its_family(
    server: ComfyServer, request: pytest.FixtureRequest, family: str, kind: tuple[str, str]
):
    assert_takes(server, request.getfixturevalue(f"{family}_checkpoint"), kind)


def test_host_without_small_parts_takes_a_checkpoint_of_full_size(host, tmp_path: Path):
    from comfy.model_base import SDXL
    from comfy.sd import load_checkpoint_guess_config

    file = write_sdxl_checkpoint(tmp_path / "full.safetensors")
    model, clip, vae = load_checkpoint_guess_config(str(file))[:3]
    file.unlink()
    assert (
        isinstance(model.model, SDXL) and len(clip.cond_stage_model.clip_g.transformer.text_model.encoder.layers) == 32
    )
    context, pooled = clip.encode_from_tokens(clip.tokenize("a photo of a cat"), return_pooled=True)
    assert context.shape == (1, 77, 2048) and pooled.shape == (1, 1280)
    picture = vae.decode(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert context.std() > 0.1 and picture.std() > 0.05  # not so with a NaN in a weight


def test_comfyui_that_is_started_as_users_start_it_has_the_pack(comfyui_path, tmp_path, monkeypatch):
    """The other tests fork it from a process that has imported other people's packages already."""
    monkeypatch.setenv("PALP_PLAIN_START", "1")
    base = make_base_directory(tmp_path / "base")
    with ComfyServer(comfyui_path, base) as plain:
        nodes = plain.get("/object_info")
    assert {"PALP_Personalize", "PALP_LoadLora", "PALP_PickAndDraw", "PALP_TextualInversionTrain"} <= nodes.keys()


def test_interrupt_in_the_middle_of_a_run(server: ComfyServer, sd15_checkpoint: str):
    def stop_at_first_step(message: Message) -> None:
        if message.type == "progress":
            server.interrupt()

    result = server.queue(text_to_image(sd15_checkpoint, steps=1000), on_message=stop_at_first_step)
    assert result.status == "interrupted"
    assert result.progress[-1][1] < 100


def test_failing_node_is_reported(server: ComfyServer):
    (server.base_directory / "input" / "broken.png").write_bytes(b"not a picture")
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "broken.png"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    result = server.queue(prompt)
    assert result.status == "error"
    assert result.error["node_id"] == "1"
    assert result.error["exception_type"]


def test_invalid_prompt_is_refused(server: ComfyServer):
    with pytest.raises(PromptRejectedError) as refusal:
        server.queue({"1": {"class_type": "PreviewImage", "inputs": {}}})
    assert refusal.value.node_errors["1"]["errors"][0]["type"] == "required_input_missing"


@pytest.mark.browser
def test_page_turns_a_graph_into_the_same_prompt(browser_page, sd15_checkpoint: str):
    expected = text_to_image(sd15_checkpoint)
    widgets = {
        id: {name: value for name, value in node["inputs"].items() if not isinstance(value, list)}
        for id, node in expected.items()
    }
    nodes = {id: {"type": node["class_type"], "widgets": widgets[id]} for id, node in expected.items()}
    outputs = {"1": ("MODEL", "CLIP", "VAE"), "4": ("LATENT",), "5": ("LATENT",), "6": ("IMAGE",)}
    links = [
        (value[0], outputs.get(value[0], ("CONDITIONING",))[value[1]], id, name)
        for id, node in expected.items()
        for name, value in node["inputs"].items()
        if isinstance(value, list)
    ]
    frontend.load_workflow(browser_page, frontend.build_graph(browser_page, nodes, links))
    converted = frontend.to_api(browser_page)
    assert {id: {key: node[key] for key in ("class_type", "inputs")} for id, node in converted.items()} == expected


@pytest.mark.browser
def test_page_builds_reloads_and_runs_a_graph_with_growing_inputs(server: ComfyServer, browser_page, tmp_path: Path):
    nodes = {
        "small": {"type": "EmptyImage", "widgets": {"width": 32, "height": 16}, "pos": [0, 0]},
        "large": {"type": "EmptyImage", "widgets": {"width": 64, "height": 32}, "pos": [0, 250], "size": [300, 200]},
        "batch": {"type": "BatchImagesNode", "pos": [400, 0]},
        "show": {"type": "PreviewImage", "pos": [800, 0], "title": "The batch"},
    }
    links = [
        ("small", "IMAGE", "batch", "images.image0"),
        ("large", "IMAGE", "batch", "images.image1"),
        ("small", "IMAGE", "batch", "images.image2"),
        ("batch", "IMAGE", "show", "images"),
    ]
    workflow = frontend.build_graph(browser_page, nodes, links)
    frontend.load_workflow(browser_page, None)
    frontend.load_workflow(browser_page, workflow)
    prompt = frontend.to_api(browser_page)
    assert prompt["3"]["inputs"] == {"images.image0": ["1", 0], "images.image1": ["2", 0], "images.image2": ["1", 0]}
    assert (prompt["2"]["inputs"]["width"], prompt["4"]["_meta"]["title"]) == (64, "The batch")
    entry = server.wait(frontend.queue(browser_page), timeout=60)
    assert len(entry["outputs"]["4"]["images"]) == 3
    assert frontend.screenshot(browser_page, tmp_path / "graph.png").stat().st_size > 10_000
