"""Workflows that read a model's attention: Pick-and-Draw, and heat maps of words."""

from __future__ import annotations

from .blocks import Workflow, checkpoint, conditioned_sampling, group, node, note, parts, photos

#: The cup of the example photos.
GUIDED = {"prompt": "a watercolor of a cup in a meadow", "subject_word": "cup", "class_word": "cup"}


GUIDE = """## One photo, no training

**Pick-and-Draw** gives any sampler the look of one image while it draws: colors, pattern, material. It learns nothing,
so there is nothing to wait for. A picture takes several times as long as usual.

1. Choose a checkpoint of Stable Diffusion 1.x, 2.x or SDXL; this one is offered for download, for
   `models/checkpoints`.
2. Choose your image. Describe the picture, and name the subject's word in it.
3. Press **Run**. A card of 8 GB suffices at 512 pixels."""
LOOK = """## Where the words look

Each map shows which places of the picture look at a word while it is drawn. The second shows Paris *against* the cat.

Choose a checkpoint of Stable Diffusion 1.x, 2.x or SDXL; this one is offered for download, for `models/checkpoints`. It
takes little longer than the picture alone, and no more memory."""


def pick_and_draw() -> Workflow:
    """Lay out Pick-and-Draw: one photo, no training."""
    sampled, links = conditioned_sampling(860, "guidance")
    nodes = {
        "note": note(GUIDE, size=(340, 300)),
        "checkpoint": checkpoint((0, 350)),
        "photos": photos("cup", (0, 500)),
        "guidance": node("PALP_PickAndDraw", (400, 0), GUIDED, (400, 690)),
        **sampled,
    }
    links += [*parts("checkpoint", "guidance"), ("photos", "images", "guidance", "image")]
    groups = [
        group("1. Checkpoint and one image", 0, 340, 700),
        group("2. The prompt and its subject", 400, 400, 700),
        group("3. Drawn with its look", 860, 800, 700),
    ]
    return Workflow(nodes, links, groups)


def attention_heatmap() -> Workflow:
    """Lay out heat maps of two words of a prompt."""
    sampled, links = conditioned_sampling(400, "record")
    nodes = {
        "note": note(LOOK),
        "checkpoint": checkpoint((0, 350)),
        "record": node("PALP_RecordAttention", (0, 500), {"prompt": "a sketch of a cat in Paris at night"}, (340, 200)),
        **sampled,
    }
    for row, (word, against) in enumerate((("cat", ""), ("Paris", "cat"))):
        at = (1260, 350 * row)
        nodes[word] = node(
            "PALP_AttentionHeatmap", at, {"word": word, "against": against}, (380, 320), f"Where: {word}"
        )
        links += [("record", "recording", word, "recording"), ("decode", "IMAGE", word, "image")]
    links += parts("checkpoint", "record", "model clip")
    groups = [
        group("1. The prompt that is recorded", 0, 340, 700),
        group("2. Drawn as ever", 400, 800, 700),
        group("3. What each word looked at", 1260, 380, 700),
    ]
    return Workflow(nodes, links, groups)
