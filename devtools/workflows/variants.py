"""Workflows of personalization for less usual subjects: an artwork, and what there is one photo of."""

from __future__ import annotations

from .blocks import (
    ONE_SUBJECT,
    SUBJECT_BESIDE_ANOTHER,
    Workflow,
    checkpoint,
    columns,
    folded,
    node,
    note,
    photos,
    sampling,
)

#: The paper's score and scales for compositions.
PAPERS = {"score": "palp", "score.alpha": 7.5, "score.beta": 1.0}
ARTWORK = {
    "class_word": "painting",
    "placeholder": "[V2]",
    "personalization_prompt": "an oil painting of [V2]",
}
PAINTED = {
    "target_prompt": "a [V] on a rock in the style of [V2]",
    "file_name": "painted_cat",
    "alignment_weight": 0.15,
}
ONE_PHOTO = {
    "class_word": "cup",
    "target_prompt": "a watercolor of a [V] on a beach",
    "file_name": "my_cup",
    "steps": 300,
}

PAINTED_NOTE = """## Your subject painted like an artwork

`[V]` is your subject, and `[V2]` the artwork, in words of style: *in the style of [V2]*. The base model is told the
scene in the artwork's medium, "an oil painting of a cat on a rock".

Name the medium in **PALP Subject**: the class word, and *an oil painting of [V2]*.

**PALP Options** holds the paper's own settings for a subject with another, here an artwork: the score `palp` with alpha
7.5 and beta 1; the paper states no weight, and 0.15 is our guess.

Choose a checkpoint for `models/checkpoints`, or let the page download this one. 500 steps fit a card of 8 GB, and take
about 5 minutes on a data centre's card."""
ONE_NOTE = """## Your subject from one photo

One photo is learned sooner than several, and with it all that it shows. So the steps are fewer here, and **PALP
Options** has a preview every 50 steps.

1. Choose a checkpoint. This one is offered for download, for `models/checkpoints`.
2. Put your photo into a folder in `input`, press **R**, and choose it. A mask of the subject helps, as *a_mask.png*
   beside *a.jpg*.
3. Press **Run**. Press **Cancel** once a preview shows what you want: what was learned until then is kept."""


def artwork() -> Workflow:
    """Lay out the training of a subject and an artwork, and a picture of the one in the style of the other."""
    nodes = {
        "note": note(PAINTED_NOTE, size=(340, 390)),
        "checkpoint": checkpoint((0, 430)),
        "photos": photos("cat", (0, 570)),
        "photos2": photos("painting", (0, 700)),
        "subject": node("PALP_Subject", (0, 830), ARTWORK, (340, 240)),
        "options": folded(node("PALP_Options", (400, 990), PAPERS)),
        "palp": node("PALP_Personalize", (400, 0), PAINTED, (400, 930)),
        **sampling(860),
    }
    titles = "1. Photos of [V], artwork [V2]", "2. One in the other's style", "3. Your subject, painted"
    return Workflow(nodes, SUBJECT_BESIDE_ANOTHER, columns(titles, 1090))


def one_photo() -> Workflow:
    """Lay out the training on a single photo, with pictures on the way."""
    nodes = {
        "note": note(ONE_NOTE, size=(340, 340)),
        "checkpoint": checkpoint((0, 390)),
        "photos": photos("cup", (0, 540)),
        "options": folded(node("PALP_Options", (0, 710), {"preview_every": 50})),
        "palp": node("PALP_Personalize", (400, 0), ONE_PHOTO, (400, 690)),
        **sampling(860),
    }
    titles = "1. Checkpoint and one photo", "2. Your picture in words", "3. Your subject in your picture"
    return Workflow(nodes, ONE_SUBJECT, columns(titles, 700))
