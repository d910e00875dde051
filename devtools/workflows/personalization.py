"""Workflows of personalization: one subject, two in one picture, and the file used again."""

from __future__ import annotations

from .blocks import (
    ONE_SUBJECT,
    SUBJECT_BESIDE_ANOTHER,
    Workflow,
    checkpoint,
    columns,
    folded,
    group,
    node,
    note,
    parts,
    photos,
    sampling,
    sampling_links,
)

PROMPT = "a sketch of [V] in Paris at night"
COMPOSITION = {"target_prompt": "a watercolor of [V] beside [V2] in a meadow", "file_name": "cat_and_cup"}

PERSONALIZE = """## Your subject in your picture

1. Choose a checkpoint of Stable Diffusion 1.x, 2.x or SDXL. This one is offered for download, for
   `models/checkpoints`.
2. Put your photos into a folder in ComfyUI's `input` folder, press **R**, and choose it in **PALP Photos**.
3. Say what it is, and describe your picture with `[V]` for it. Press **Run**.

500 steps take about 3 minutes on a data centre's card, longer on others, and fit a card of 8 GB. For SDXL set width and
height to 1024; it fits 12 GB with **gradient_checkpointing** in **PALP Options**."""

TWO_SUBJECTS = """## Two subjects in one picture

Each subject has photos, a class word and a placeholder of its own: `[V]` and `[V2]`. The prompt names both.

Draw several pictures: subjects mix in some, and one may be missing. **PALP Options**, folded here, has the paper's
score, too; on the demo world the default keeps more of the prompt.

Choose a checkpoint for `models/checkpoints`, or let the page download this one. 500 steps fit a card of 8 GB, and take
about 3 minutes on a data centre's card."""

LOAD = """## Use a trained file

**PALP Personalize** saved it in `models/loras`; it comes first in the list. Choose the checkpoint that it was trained
on, or another of the same family.

The **prompt** is the one that the file was trained for. For one of your own, write the word as it is shown under the
node into **CLIP Text Encode**.

**step** takes an earlier moment of the training, if its pictures look better. It takes a few seconds."""


def personalize() -> Workflow:
    """Lay out the training on photos of one subject, and a picture of it."""
    nodes = {
        "note": note(PERSONALIZE, size=(340, 310)),
        "checkpoint": checkpoint((0, 360)),
        "photos": photos("cat", (0, 510)),
        "options": folded(node("PALP_Options", (0, 710))),
        "palp": node("PALP_Personalize", (400, 0), {"target_prompt": PROMPT, "file_name": "my_cat"}, (400, 690)),
        **sampling(860),
    }
    titles = "1. Checkpoint and photos", "2. Your picture in words", "3. Your subject in your picture"
    return Workflow(nodes, ONE_SUBJECT, columns(titles, 700))


def two_subjects() -> Workflow:
    """Lay out the training of two subjects at once, and a picture of both."""
    nodes = {
        "note": note(TWO_SUBJECTS, size=(340, 270)),
        "checkpoint": checkpoint((0, 310)),
        "photos": photos("cat", (0, 450)),
        "photos2": photos("cup", (0, 590)),
        "subject": node("PALP_Subject", (0, 730), {"class_word": "cup", "placeholder": "[V2]"}, (340, 240)),
        "options": folded(node("PALP_Options", (400, 990))),
        "palp": node("PALP_Personalize", (400, 0), COMPOSITION, (400, 930)),
        **sampling(860),
    }
    titles = "1. Photos of [V], and of [V2]", "2. One prompt names both", "3. Both in one picture"
    return Workflow(nodes, SUBJECT_BESIDE_ANOTHER, columns(titles, 1010))


def load_lora() -> Workflow:
    """Lay out a picture from the file of an earlier training."""
    nodes = {
        "note": note(LOAD, size=(340, 310)),
        "checkpoint": checkpoint((0, 360)),
        "palp": node("PALP_LoadLora", (0, 510), {"strength": 1.0}, (340, 180)),
        **sampling(400),
    }
    links = [*parts("checkpoint", "palp", "model clip"), *sampling_links("palp", "checkpoint")]
    groups = [
        group("1. Checkpoint and file", 0, 340, 700),
        group("2. Its prompt, or one of yours with embedding:NAME", 400, 800, 700),
    ]
    return Workflow(nodes, links, groups)
