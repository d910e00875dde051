"""What workflows are made of: nodes, links between them, and groups of nodes that most of them have."""

from __future__ import annotations

from typing import NamedTuple

Nodes = dict[str, dict]
#: A node's output to a node's input: (node, output, node, input).
Link = tuple[str, str, str, str]


class Workflow(NamedTuple):
    """Holds a workflow as `frontend.build_graph` and `frontend.add_groups` take it."""

    nodes: Nodes
    links: list[Link]
    groups: list[dict]


class Part(NamedTuple):
    """Holds some of a workflow's nodes, and links to and between them."""

    nodes: Nodes
    links: list[Link]


def node(kind: str, pos: tuple[int, int], widgets: dict | None = None, size=None, title: str | None = None) -> dict:
    """Describe a node as `frontend.build_graph` takes it."""
    spec = {"type": kind, "pos": list(pos), "widgets": widgets, "size": size and list(size), "title": title}
    return {key: value for key, value in spec.items() if value is not None}


def checkpoint(pos: tuple[int, int]) -> dict:
    """Describe the node that loads a checkpoint."""
    return node("CheckpointLoaderSimple", pos, size=(330, 100))


def photo(name: str, pos: tuple[int, int]) -> dict:
    """Describe a node that loads an image of the input folder."""
    return node("LoadImage", pos, {"image": name}, (330, 320))


def sampling(x: int, y: int) -> Nodes:
    """Lay out the nodes from a prompt to a saved picture."""
    return {
        "positive": node("CLIPTextEncode", (x, y), size=(330, 90), title="The target prompt"),
        "negative": node("CLIPTextEncode", (x, y + 150), {"text": ""}, (330, 110), "Negative prompt"),
        "latent": node("EmptyLatentImage", (x, y + 320), {"width": 512, "height": 512}, (330, 110)),
        "sampler": node(
            "KSampler",
            (x + 370, y),
            {"steps": 25, "cfg": 7.5, "seed": 7, "control_after_generate": "fixed"},
            (330, 270),
        ),
        "decode": node("VAEDecode", (x + 370, y + 330), size=(330, 60)),
        "save": node("SaveImage", (x + 740, y), {"filename_prefix": "palp"}, (420, 430)),
    }


def sampling_links(model: str, checkpoint: str) -> list[Link]:
    """Link the nodes of `sampling` to the node that has MODEL, CLIP and prompt, and to the checkpoint's VAE."""
    return [
        (model, "model", "sampler", "model"),
        (model, "clip", "positive", "clip"),
        (model, "clip", "negative", "clip"),
        (model, "prompt", "positive", "text"),
        ("positive", "CONDITIONING", "sampler", "positive"),
        ("negative", "CONDITIONING", "sampler", "negative"),
        ("latent", "LATENT", "sampler", "latent_image"),
        ("sampler", "LATENT", "decode", "samples"),
        (checkpoint, "VAE", "decode", "vae"),
        ("decode", "IMAGE", "save", "images"),
    ]


def parts(checkpoint: str, node: str, names: str = "model clip vae") -> list[Link]:
    """Link what a checkpoint holds to a node's inputs of the same names."""
    return [(checkpoint, name.upper(), node, name) for name in names.split()]


def conditioned_sampling(x: int, y: int, source: str) -> Part:
    """Lay out the way from a node that patches a MODEL and encodes the prompt itself to a saved picture."""
    nodes = sampling(x, y)
    del nodes["positive"]
    links = [link for link in sampling_links(source, "checkpoint") if "positive" not in (link[0], link[2])]
    links = [link for link in links if link[2] != "negative"]
    links += [(source, "conditioning", "sampler", "positive"), ("checkpoint", "CLIP", "negative", "clip")]
    return Part(nodes, links)
