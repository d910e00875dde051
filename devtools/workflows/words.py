"""Workflows of textual inversion: a word learned, and used again."""

from __future__ import annotations

from .blocks import (
    Part,
    Workflow,
    checkpoint,
    folded,
    group,
    node,
    note,
    parts,
    photos,
    sampling,
    sampling_links,
)

WORD_PROMPT = "in Paris, a photo of embedding:my_cat"
#: What stands before the word where a node adds it.
ENDING = {"string_a": "in Paris, a photo of", "delimiter": " "}


NOTE = """## Learn a word

A word for your subject or style, for any prompt: the model itself stays as it is.

1. Choose a checkpoint of Stable Diffusion 1.x, 2.x or SDXL. This one is offered for download, for
   `models/checkpoints`.
2. Put 3 to 5 photos into a folder in ComfyUI's `input` folder, press **R**, and choose it in **PALP Photos**.
3. Name the word, and say coarsely what it is. Press **Run**.

The file goes to `models/embeddings`. Write `embedding:my_cat` in any prompt.

1000 steps take about 5 minutes on a data centre's card, and fit a card of 6 GB."""
USE = """## Use a learned word

Write `embedding:NAME` in a prompt, a space or comma after it. NAME is a file in `models/embeddings`, which
**Textual Inversion Train** has saved.

The checkpoint must be of the family that the word was learned on. It takes a few seconds, as any picture."""


def word_sampling(x: int, clip: tuple[str, str]) -> Part:
    """Lay out the way from the checkpoint's own MODEL to a saved picture.

    clip: (node, output) of a CLIP that knows the learned word.
    """
    nodes = sampling(x)
    nodes["positive"] = node("CLIPTextEncode", (x, 0), {"text": WORD_PROMPT}, (340, 100), "Your word in any prompt")
    links = [link for link in sampling_links("", "checkpoint") if link[0]]
    links += [("checkpoint", "MODEL", "sampler", "model"), (*clip, "positive", "clip"), (*clip, "negative", "clip")]
    return Part(nodes, links)


def textual_inversion() -> Workflow:
    """Lay out the training of a word, and a picture of it."""
    sampled, links = word_sampling(860, ("word", "clip"))
    nodes = {
        "note": note(NOTE, size=(340, 330)),
        "checkpoint": checkpoint((0, 380)),
        "photos": photos("cat", (0, 530)),
        "word": node("PALP_TextualInversionTrain", (400, 0), {"name": "my_cat"}, (400, 790)),
        "prompt": folded(node("StringConcatenate", (0, 660), ENDING, title="A prompt with it")),
        **sampled,
    }
    links += [*parts("checkpoint", "word"), ("photos", "images", "word", "images.image0")]
    links += [("photos", "masks", "word", "masks.mask0")]
    links += [("word", "embedding", "prompt", "string_b"), ("prompt", "STRING", "positive", "text")]
    groups = [
        group("1. Checkpoint and photos", 0, 340, 800),
        group("2. The word, and where it starts", 400, 400, 800),
        group("3. The word in a prompt", 860, 800, 800),
    ]
    return Workflow(nodes, links, groups)


def use_learned_word() -> Workflow:
    """Lay out a picture of a word that was learned before."""
    sampled, links = word_sampling(400, ("checkpoint", "CLIP"))
    groups = [
        group("1. A checkpoint of the same family", 0, 340, 700),
        group("2. embedding:NAME of a file in the embeddings folder", 400, 800, 700),
    ]
    return Workflow({"note": note(USE), "checkpoint": checkpoint((0, 350)), **sampled}, links, groups)
