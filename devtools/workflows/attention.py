"""Workflows that read a model's attention: Pick-and-Draw, and heat maps of words."""

from __future__ import annotations

from .blocks import Workflow, checkpoint, conditioned_sampling, node, parts, photo


def pick_and_draw() -> Workflow:
    """Lay out Pick-and-Draw: one photo, no training."""
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
    return Workflow(nodes, links, groups)


def attention_heatmap() -> Workflow:
    """Lay out heat maps of two words of a prompt."""
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
    return Workflow(nodes, links, groups)
