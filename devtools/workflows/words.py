"""Workflows of textual inversion: a word learned, and used again."""

from __future__ import annotations

from .blocks import Part, Workflow, checkpoint, node, parts, photo, sampling, sampling_links

PHOTOS = ("cat.png", "cat_2.png", "cat_3.png")
WORD_PROMPT = "in Paris, a photo of embedding:my_cat"
#: What stands before the word where a node adds it.
ENDING = {"string_a": "in Paris, a photo of", "delimiter": " "}


def word_sampling(x: int, y: int, clip: tuple[str, str]) -> Part:
    """Lay out the way from the checkpoint's own MODEL to a saved picture.

    clip: (node, output) of a CLIP that knows the learned word.
    """
    nodes = sampling(x, y)
    nodes["positive"] = node("CLIPTextEncode", (x, y), {"text": WORD_PROMPT}, (330, 110), "Your word in any prompt")
    links = [link for link in sampling_links("", "checkpoint") if link[0]]
    links += [("checkpoint", "MODEL", "sampler", "model"), (*clip, "positive", "clip"), (*clip, "negative", "clip")]
    return Part(nodes, links)


def textual_inversion() -> Workflow:
    """Lay out the training of a word, and a picture of it."""
    sampled, links = word_sampling(850, 60, ("word", "clip"))
    nodes = {
        "checkpoint": checkpoint((0, 60)),
        "photo0": photo(PHOTOS[0], (-360, 60)),
        "photo1": photo(PHOTOS[1], (-360, 450)),
        "photo2": photo(PHOTOS[2], (0, 450)),
        "word": node("PALP_TextualInversionTrain", (390, 60), {"name": "my_cat"}, (400, 820)),
        "prompt": node("StringConcatenate", (390, 930), ENDING, (400, 160), "A prompt that ends with the word"),
        "chart": node("PreviewImage", (850, 560), size=(700, 480), title="Loss chart"),
        **sampled,
    }
    links += [*parts("checkpoint", "word"), *((f"photo{n}", "IMAGE", "word", f"images.image{n}") for n in range(3))]
    links += [("word", "loss_chart", "chart", "images")]
    links += [("word", "embedding", "prompt", "string_b"), ("prompt", "STRING", "positive", "text")]
    groups = [
        {"title": "1. Checkpoint and images", "bounding": [-380, -20, 730, 1140]},
        {"title": "2. Name the word, say where it starts", "bounding": [370, -20, 440, 1140]},
        {"title": "3. The word in a prompt", "bounding": [830, -20, 1200, 1140]},
    ]
    return Workflow(nodes, links, groups)


def use_learned_word() -> Workflow:
    """Lay out a picture of a word that was learned before."""
    sampled, links = word_sampling(410, 60, ("checkpoint", "CLIP"))
    groups = [
        {"title": "1. A checkpoint of the same family", "bounding": [-20, -20, 390, 520]},
        {"title": "2. embedding:NAME of a file in the embeddings folder", "bounding": [390, -20, 1200, 520]},
    ]
    return Workflow({"checkpoint": checkpoint((0, 60)), **sampled}, links, groups)
