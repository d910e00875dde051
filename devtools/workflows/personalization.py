"""Workflows of personalization: one subject, two in one picture, and the file used again."""

from __future__ import annotations

from .blocks import Workflow, checkpoint, node, parts, photo, sampling, sampling_links

COMPOSITION = {
    "target_prompt": "a watercolor of [V] beside [V2] in a meadow",
    "file_name": "cat_and_cup",
    "alignment_weight": 0.15,
}
#: The paper's score and scales for compositions.
PAPERS = {"score": "palp", "score.alpha": 7.5, "score.beta": 1.0}


def personalize() -> Workflow:
    """Lay out the training on photos of one subject, and a picture of it."""
    nodes = {
        "checkpoint": checkpoint((0, 60)),
        "photo": photo("cat.png", (0, 220)),
        "palp": node("PALP_Personalize", (390, 60), {"file_name": "my_cat"}, (400, 500)),
        "options": node("PALP_Options", (0, 660), size=(330, 490)),
        **sampling(850, 60),
    }
    links = [
        *parts("checkpoint", "palp"),
        ("photo", "IMAGE", "palp", "images.image0"),
        ("options", "options", "palp", "options"),
        *sampling_links("palp", "checkpoint"),
    ]
    groups = [
        {"title": "1. Checkpoint and photos", "bounding": [-20, -20, 370, 580]},
        {"title": "Leave these as they are", "bounding": [-20, 580, 370, 600]},
        {"title": "2. Name it, describe the picture", "bounding": [370, -20, 440, 1200]},
        {"title": "3. Your subject in your picture", "bounding": [830, -20, 1200, 1200]},
    ]
    return Workflow(nodes, links, groups)


def two_subjects() -> Workflow:
    """Lay out the training of two subjects at once, and a picture of both."""
    nodes = {
        "checkpoint": checkpoint((0, 60)),
        "photo": photo("cat.png", (0, 220)),
        "photo2": photo("cup.png", (0, 620)),
        "subject": node("PALP_Subject", (390, 620), {"class_word": "cup", "placeholder": "[V2]"}, (360, 260)),
        "palp": node("PALP_Personalize", (800, 60), COMPOSITION, (400, 500)),
        "options": node("PALP_Options", (800, 660), PAPERS, (400, 490)),
        **sampling(1260, 60),
    }
    links = [
        *parts("checkpoint", "palp"),
        ("photo", "IMAGE", "palp", "images.image0"),
        ("photo2", "IMAGE", "subject", "images.image0"),
        ("subject", "subjects", "palp", "subjects"),
        ("options", "options", "palp", "options"),
        *sampling_links("palp", "checkpoint"),
    ]
    groups = [
        {"title": "1. Photos of [V] above, of [V2] below", "bounding": [-20, -20, 790, 1200]},
        {"title": "2. One prompt names both", "bounding": [780, -20, 440, 1200]},
        {"title": "3. Both in one picture", "bounding": [1240, -20, 1200, 1200]},
    ]
    return Workflow(nodes, links, groups)


def load_lora() -> Workflow:
    """Lay out a picture from the file of an earlier training."""
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
    return Workflow(nodes, links, groups)
