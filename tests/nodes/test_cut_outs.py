"""A cut-out picture through ComfyUI's own Load Image, whose mask is that of the background."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from devtools.graphs import personalize_graph, word_graph
from devtools.random_models import pictures
from palp_core import load_lora_file

pytestmark = pytest.mark.host


def cut_out(folder) -> str:
    (photo,) = pictures((96, 96))
    alpha = torch.zeros(96, 96)
    alpha[24:80, 24:72] = 1
    picture = torch.cat([photo, alpha[..., None]], dim=-1)
    Image.fromarray((picture * 255).byte().numpy()).save(folder / "cut_out.png")
    return "cut_out.png"


def test_a_cut_out_png_is_learned_and_not_its_background(server, sd15_checkpoint):
    nodes = {"3": {"class_type": "LoadImage", "inputs": {"image": cut_out(server.base_directory / "input")}}}
    links = {"images.image0": ["3", 0], "masks.mask0": ["3", 1]}
    prompt = personalize_graph(sd15_checkpoint, links, nodes, file_name="cut_out")
    result = server.queue(prompt).require_success()
    said = [text for node, text in result.texts if node == "10"]
    assert "mask 1 of [V] is white all round" in said[-1] and "taken inverted" in said[-1]
    assert "mask 1 of [V] is white all round" in server.log()
    assert load_lora_file(server.base_directory / "models/loras/cut_out_00001.safetensors").info.steps


@pytest.mark.parametrize("graph", [personalize_graph, word_graph])
def test_masks_that_are_said_to_be_inverted_are_learned_without_a_word(server, sd15_checkpoint, graph):
    """Of Load Image's two: the one of a cut-out picture, and the small black one of an opaque picture."""
    nodes = {"3": {"class_type": "LoadImage", "inputs": {"image": cut_out(server.base_directory / "input")}}}
    links = {"images.image1": ["3", 0], "masks.mask0": ["2", 1], "masks.mask1": ["3", 1]}
    name = {personalize_graph: {"file_name": "inverted"}, word_graph: {"name": "inverted"}}[graph]
    prompt = graph(sd15_checkpoint, links, nodes, options={"invert_masks": True}, **name)
    result = server.queue(prompt).require_success()
    said = " ".join(text for node, text in result.texts if node == "10")
    assert "mask 1" not in said and "mask 2" not in said, said


def test_pictures_with_alpha_bring_their_masks(host):
    from palp_pack.nodes.options import Options
    from palp_pack.nodes.textual_inversion import _concept
    from palp_pack.nodes.widgets import make_subject

    (photo,) = pictures((96, 96))
    alpha = torch.zeros(96, 96, 1)
    alpha[24:80, 24:72] = 1
    images = {"image0": [torch.cat([photo, alpha], dim=-1)[None]], "image1": [photo[None]]}
    widgets = {"initial_word": "cat", "kind": "object", "templates": "", "captions": ""}
    for made in (make_subject(images, None, "cat", "[V]", "", None, ""), _concept(images, None, widgets, Options())):
        assert torch.equal(made.masks[0], alpha[..., 0]) and made.masks[1].min() == 1
        assert (made.images[0][alpha[..., 0] == 0] == 0.5).all()
