"""The templates as files: each has a card, and in its graph nothing lies upon anything else."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from devtools.example_painting import PAINTING, PHOTO, painting

FOLDER = Path(__file__).parents[2] / "example_workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
TITLE, FOLDED = 30, 140  # height of a node's title, and about the width of a folded node
LETTER, BADGE = 10, 70  # of a frame's title, and the pack's badge at the upper right of a node

Box = tuple[float, float, float, float]


def box(node: dict) -> Box:
    """Left, top, right and bottom of a node with its title."""
    (x, y), (width, height) = node["pos"], node["size"]
    folded = node.get("flags", {}).get("collapsed")
    return x, y - TITLE, x + (FOLDED if folded else width), y + (0 if folded else height)


def meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_a_template_lies_upon_anything_else(name):
    workflow = json.loads((FOLDER / f"{name}.json").read_text())
    boxes = [(node.get("title") or node["type"], box(node)) for node in workflow["nodes"]]
    assert not [(a, b) for (a, one), (b, other) in combinations(boxes, 2) if meet(one, other)]
    badged = {node["pos"][0] for node in workflow["nodes"] if node["type"].startswith("PALP") and node["pos"][1] == 0}
    for group in workflow["groups"]:
        left, _, width, _ = group["bounding"]
        free = width - BADGE * any(left < x < left + width for x in badged)
        assert len(group["title"]) * LETTER <= free, group["title"]


@pytest.mark.parametrize("name", NAMES)
def test_each_template_has_a_square_card_that_loads_fast(name):
    file = FOLDER / f"{name}.jpg"
    with Image.open(file) as card:
        assert card.width == card.height >= 512
    assert file.stat().st_size < 120_000


def test_the_example_painting_is_what_its_command_paints():
    with Image.open(PHOTO) as photo, Image.open(PAINTING) as shipped:
        apart = np.asarray(painting(photo), dtype=float) - np.asarray(shipped, dtype=float)
        plain = np.asarray(photo.convert("RGB").resize(shipped.size), dtype=float) - np.asarray(shipped, dtype=float)
    assert np.abs(apart).mean() < 6 < np.abs(plain).mean()  # of 255; the file is a JPEG
