"""Bad input, cancel and repeated runs on a real server: a message on the node, and nothing lost."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from devtools.comfy_server import ComfyServer, PromptRejectedError
from devtools.graphs import personalize_graph
from devtools.random_files import PROJECTIONS, random_lora_file, rewrite
from palp_core import load_lora_file

pytestmark = pytest.mark.host


def saved(server: ComfyServer) -> set[str]:
    return {path.name for path in (server.base_directory / "models/loras").iterdir()}


def empty_image(width: int, height: int) -> dict:
    return {"class_type": "EmptyImage", "inputs": {"width": width, "height": height, "batch_size": 1, "color": 0}}


def solid_mask(value: float, width: int, height: int) -> dict:
    return {"class_type": "SolidMask", "inputs": {"value": value, "width": width, "height": height}}


BAD = {
    "placeholder without a subject": ({"target_prompt": "[V] and [V2]"}, "no subject has this placeholder"),
    "one pixel": ({"links": {"images.image0": ["3", 0]}, "nodes": {"3": empty_image(1, 1)}}, "1 x 1 pixels, too small"),
    "black mask": (
        {"links": {"masks.mask0": ["3", 0]}, "nodes": {"3": solid_mask(0.0, 451, 300)}},
        "mask 1 of [V] is all black",
    ),
    "mask of another size": (
        {"links": {"masks.mask0": ["3", 0]}, "nodes": {"3": solid_mask(1.0, 64, 64)}},
        "mask 1 of [V] is 64x64 pixels, but its image is 451x300",
    ),
}


MARKED = {
    "no placeholder": ({"target_prompt": "a sketch of a cat"}, "has no placeholder"),
    "empty class word": ({"class_word": "  "}, "class_word is empty"),
    "path parts": ({"file_name": "../../etc/cat"}, "must be a plain name"),
}


@pytest.mark.parametrize("case", MARKED)
def test_the_page_marks_a_node_whose_texts_cannot_be_meant_before_anything_runs(server, sd15_checkpoint, case):
    changes, message = MARKED[case]
    with pytest.raises(PromptRejectedError) as refused:
        server.queue(personalize_graph(sd15_checkpoint, **changes))
    (name,) = changes
    errors = refused.value.node_errors["10"]["errors"]
    told = {error["extra_info"].get("input_name"): error["details"] for error in errors}
    assert message in told[name]


def test_a_text_that_is_linked_is_looked_at_when_it_is_known(server, sd15_checkpoint):
    texts = {"3": {"class_type": "PrimitiveString", "inputs": {"value": "a sketch of a cat"}}}
    result = server.queue(personalize_graph(sd15_checkpoint, nodes=texts, target_prompt=["3", 0]))
    assert result.error["node_id"] == "10" and "has no placeholder" in result.error["exception_message"]


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_on_the_node_before_any_training(server, sd15_checkpoint, case):
    changes, message = BAD[case]
    before = saved(server)
    result = server.queue(personalize_graph(sd15_checkpoint, **changes))
    assert result.status == "error" and result.error["node_id"] == "10"
    assert message in result.error["exception_message"]
    assert not any(node == "10" for node, _, _ in result.progress)
    assert saved(server) == before


def test_foreign_and_corrupt_files_are_named_by_the_loader(server, sd15_checkpoint):
    loras = server.base_directory / "models/loras"
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(2, 2)}, loras / "foreign.safetensors")
    (loras / "corrupt.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{not json}")
    rewrite(random_lora_file(loras, "nan"), lambda tensors, _: tensors[f"{PROJECTIONS[0]}.alpha"].fill_(math.nan))
    cases = (("foreign", "was not made by PALP"), ("corrupt", "cannot be read"), ("nan_00001", ".alpha holds values"))
    for name, message in cases:
        prompt = personalize_graph(sd15_checkpoint)
        inputs = {"model": ["1", 0], "clip": ["1", 1], "lora_name": f"{name}.safetensors", "strength": 1.0}
        prompt["10"] = {"class_type": "PALP_LoadLora", "inputs": {**inputs, "step": 0, "word_strength": 1.0}}
        prompt["11"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": ["10", 1], "text": ["10", 2]}}
        prompt["12"] = {"class_type": "PreviewAny", "inputs": {"source": ["11", 0]}}
        result = server.queue(prompt)
        assert result.error["node_id"] == "10" and message in result.error["exception_message"]


def test_cancel_ends_the_run_within_a_step_and_keeps_what_was_learned(server, sd15_checkpoint):
    seen = []

    def cancel(message):  # the host leaves out some progress messages when steps are quick
        if message.type == "progress" and message.data["node"] == "10" and not seen and message.data["value"] >= 2:
            seen.append(message.data["value"])
            server.interrupt()

    before = saved(server)
    result = server.queue(personalize_graph(sd15_checkpoint, steps=500, file_name="cancelled"), on_message=cancel)
    assert result.status == "interrupted"
    (kept,) = saved(server) - before
    steps = int(re.fullmatch(r"cancelled_step(\d+)_00001.safetensors", kept)[1])
    assert seen[0] <= steps <= seen[0] + 5  # those that ended while the request was on its way
    assert load_lora_file(server.base_directory / "models/loras" / kept).info.steps == steps

    after = server.queue(personalize_graph(sd15_checkpoint, seed=85, file_name="after")).require_success()
    assert after.status == "success" and Path(server.base_directory / "models/loras/after_00001.safetensors").exists()


def test_photos_of_different_sizes_masks_and_every_option(server, sd15_checkpoint):
    nodes = {
        "3": {"class_type": "LoadImage", "inputs": {"image": "cat2.png"}},
        "4": solid_mask(1.0, 451, 300),
        "5": solid_mask(0.5, 240, 256),
    }
    links = {"images.image1": ["3", 0], "masks.mask0": ["4", 0], "masks.mask1": ["5", 0]}
    options = {"score": "delta", "score.push": 0.5, "score.interval": 2, "gradient_checkpointing": True}
    options |= {"score.null_prior": 0.5}
    options |= {"precision": "bf16", "placeholder": "[X]", "personalization_prompt": "an oil painting of [X]"}
    options |= {"clean_prompt": "a sketch of a tabby", "learning_rate": 2e-3, "rank": 3}
    target = "a sketch of [X] in Paris"
    prompt = personalize_graph(sd15_checkpoint, links, nodes, options, target_prompt=target, file_name="options")
    server.queue(prompt).require_success()
    info = load_lora_file(server.base_directory / "models/loras/options_00001.safetensors").info
    assert (info.rank, info.target_prompt, info.clean_prompt) == (3, target, "a sketch of a tabby")
    assert info.settings["alignment"]["score"] == {"name": "delta", "push": 0.5, "interval": 2, "null_prior": 0.5}
    assert (info.settings["learning_rate"], info.settings["resolution"]) == (2e-3, 64)
    assert info.subjects[0].personalization_prompt == "an oil painting of [X]"


def test_the_same_graph_is_not_trained_twice_and_a_new_seed_gets_a_new_file(server, sd15_checkpoint):
    first, second, third = (
        server.queue(personalize_graph(sd15_checkpoint, file_name="again", seed=seed)).require_success()
        for seed in (81, 81, 82)  # of no other test: a training is the same under any name
    )
    trained = ["10" in result.executed for result in (first, second, third)]
    assert trained == [True, False, True]
    assert {"again_00001.safetensors", "again_00002.safetensors"} <= saved(server)
    assert "again_00003.safetensors" not in saved(server)
