"""PALP Photos on a real server: a folder's photos and masks through one link each."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image

from devtools.graphs import personalize_graph
from palp_core import load_lora_file

pytestmark = pytest.mark.host


@pytest.fixture
def folder(server):
    path = server.base_directory / "input" / "my cat"
    path.mkdir()
    for name, size in (("b.png", (64, 64)), ("a.jpg", (96, 64))):
        Image.new("RGB", size, "orange").save(path / name)
    mask = Image.new("L", (96, 64))
    mask.paste(255, (0, 0, 48, 64))
    mask.save(path / "a-masklabel.png")
    (path / "Thumbs.db").write_bytes(b"of the system")
    yield path
    shutil.rmtree(path)


def graph(checkpoint: str, folder: str, masks: bool = True, **widgets) -> dict:
    photos = {"class_type": "PALP_Photos", "inputs": {"folder": folder}}
    links = {"images.image0": ["3", 0], "captions": ["3", 2], **({"masks.mask0": ["3", 1]} if masks else {})}
    return personalize_graph(checkpoint, links, {"3": photos}, **widgets)


def said(result, node: str = "10") -> str:
    return " ".join(text for of, text in result.texts if of == node)


def test_all_photos_and_masks_of_a_folder_are_learned_from(server, sd15_checkpoint, folder):
    result = server.queue(graph(sd15_checkpoint, "my cat", seed=81, file_name="folder")).require_success()
    assert "from 2 photos, 1 with a mask (subject 50% of its area)" in said(result)
    file = load_lora_file(server.base_directory / "models/loras/folder_00001.safetensors")
    assert file.info.subjects[0].images == 2


def test_the_example_photos_are_there_and_have_no_masks(server, sd15_checkpoint):
    result = server.queue(graph(sd15_checkpoint, "example: cat", seed=82, file_name="example")).require_success()
    assert "from 3 photos, for:" in said(result)


def test_captions_of_a_folder_are_learned_with(server, sd15_checkpoint, folder):
    """With a caption it is another training; one that names what no subject is called is refused by its text."""
    first = graph(sd15_checkpoint, "my cat", seed=84, file_name="captioned")
    server.queue(first).require_success()
    (folder / "b.txt").write_text("a cat on a sofa")
    result = server.queue(first).require_success()
    assert "2 photos, 1 with a mask, 1 with a caption." in said(result, "3") and "taken from" not in said(result)
    (folder / "b.txt").write_text("a [dog] on a sofa")
    result = server.queue(first)
    assert "captions of [V] uses [dog]" in result.error["exception_message"]


def test_lines_of_a_text_are_the_captions_of_several_photos(server, sd15_checkpoint, folder):
    several = graph(sd15_checkpoint, "my cat", seed=85, file_name="lines")
    several["10"]["inputs"]["captions"] = "a cat on a sofa\na cat in the rain\na third"
    result = server.queue(several)
    assert "captions: [V] has 2 images but 3 captions" in result.error["exception_message"]
    several["10"]["inputs"]["captions"] = "a cat on a sofa\n"
    result = server.queue(several)
    assert "captions: [V] has 2 images but 1 captions" in result.error["exception_message"]


def test_a_new_photo_in_the_folder_is_another_training(server, sd15_checkpoint, folder):
    again = graph(sd15_checkpoint, "my cat", masks=False, seed=83, file_name="grown")
    server.queue(again).require_success()
    Image.new("RGB", (64, 64), "black").save(folder / "c.png")
    result = server.queue(again).require_success()
    assert "from 3 photos" in said(result)
    assert (server.base_directory / "models/loras/grown_00002.safetensors").exists()


def test_a_folder_without_photos_is_named(server, sd15_checkpoint, folder):
    (folder / "empty").mkdir()
    result = server.queue(graph(sd15_checkpoint, "my cat/empty"))
    assert result.error["node_id"] == "3" and "there are no pictures in" in result.error["exception_message"]
