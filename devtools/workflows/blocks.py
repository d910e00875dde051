"""What workflows are made of: nodes, links between them, and groups of nodes that most of them have."""

from __future__ import annotations

from typing import NamedTuple

Nodes = dict[str, dict]
#: A node's output to a node's input: (node, output, node, input).
Link = tuple[str, str, str, str]
#: The page shows a note's headings and lists.
NOTE_HEIGHT = 300
#: Stable Diffusion 1.5 as ComfyUI's own templates load it: (name, folder of its address).
SD15 = "v1-5-pruned-emaonly-fp16.safetensors"
SD15_SOURCE = "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main"


class App(NamedTuple):
    """Holds what is seen of a workflow that opens as an app."""

    #: Those that a user sets: (node, widget, what the app calls it).
    inputs: list[tuple[str, str, str]]
    #: The node whose pictures are shown.
    output: str


class Workflow(NamedTuple):
    """Holds a workflow as `frontend.build_graph` and `frontend.add_groups` take it."""

    nodes: Nodes
    links: list[Link]
    groups: list[dict]
    app: App | None = None


class Part(NamedTuple):
    """Holds some of a workflow's nodes, and links to and between them."""

    nodes: Nodes
    links: list[Link]


def node(kind: str, pos: tuple[int, int], widgets: dict | None = None, size=None, title: str | None = None) -> dict:
    """Describe a node as `frontend.build_graph` takes it."""
    spec = {"type": kind, "pos": list(pos), "widgets": widgets, "size": size and list(size), "title": title}
    return {key: value for key, value in spec.items() if value is not None}


def folded(spec: dict) -> dict:
    """Show a node as its title alone: what nobody has to set takes little room."""
    return {**spec, "collapsed": True}


def downloadable(spec: dict, name: str, source: str, folder: str) -> dict:
    """Let the page offer to download the file that a loader names, into this folder of models."""
    models = [{"name": name, "url": f"{source}/{name}", "directory": folder}]
    return {**spec, "properties": {"models": models}}


def note(text: str, pos: tuple[int, int] = (0, 0), size: tuple[int, int] = (340, NOTE_HEIGHT)) -> dict:
    """Describe a note on the canvas, in Markdown."""
    return node("MarkdownNote", pos, {"text": text}, size, "Read this first")


def group(title: str, x: int, width: int, height: int) -> dict:
    """Frame a column of nodes from y = 0 to the height."""
    return {"title": title, "bounding": [x - 20, -60, width + 40, height + 80]}


def checkpoint(pos: tuple[int, int]) -> dict:
    """Describe the node that loads a checkpoint, Stable Diffusion 1.5 until another is chosen."""
    loader = node("CheckpointLoaderSimple", pos, {"ckpt_name": SD15}, size=(340, 100))
    return downloadable(loader, SD15, SD15_SOURCE, "checkpoints")


def photos(folder: str, pos: tuple[int, int]) -> dict:
    """Describe a node that loads the example photos of this name."""
    return node("PALP_Photos", pos, {"folder": f"example: {folder}"}, (340, 80))


def sampling(x: int, size: int = 512, **sampler) -> Nodes:
    """Lay out two columns from a prompt to a saved picture, 800 wide; what needs no setting is folded."""
    settings = {"steps": 25, "cfg": 7.5, "seed": 7, "control_after_generate": "fixed", **sampler}
    return {
        "positive": node("CLIPTextEncode", (x, 0), size=(340, 100), title="The target prompt"),
        "negative": folded(node("CLIPTextEncode", (x, 150), {"text": ""}, title="Negative prompt")),
        "latent": node("EmptyLatentImage", (x, 210), {"width": size, "height": size}, (340, 110)),
        "sampler": node("KSampler", (x, 370), settings, (340, 270)),
        "decode": folded(node("VAEDecode", (x, 690))),
        "save": node("SaveImage", (x + 380, 0), {"filename_prefix": "palp"}, (420, 690)),
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


def conditioned_sampling(x: int, source: str) -> Part:
    """Lay out the way from a node that patches a MODEL and encodes the prompt itself to a saved picture."""
    nodes = sampling(x)
    del nodes["positive"]
    links = [link for link in sampling_links(source, "checkpoint") if "positive" not in (link[0], link[2])]
    links = [link for link in links if link[2] != "negative"]
    links += [(source, "conditioning", "sampler", "positive"), ("checkpoint", "CLIP", "negative", "clip")]
    return Part(nodes, links)


def columns(titles: tuple[str, str, str], height: int) -> list[dict]:
    """Frame the three columns of a personalization: what it takes, the training, and the picture."""
    places = (0, 340), (400, 400), (860, 800)
    return [group(title, *place, height) for title, place in zip(titles, places, strict=True)]


#: Links of a personalization of one subject, whose photos have masks.
ONE_SUBJECT: list[Link] = [
    *parts("checkpoint", "palp"),
    ("photos", "images", "palp", "images.image0"),
    ("photos", "masks", "palp", "masks.mask0"),
    ("photos", "captions", "palp", "captions"),
    ("options", "options", "palp", "options"),
    *sampling_links("palp", "checkpoint"),
]
#: Links of a personalization of two: a subject, or an artwork, beside the first.
SUBJECT_BESIDE_ANOTHER: list[Link] = [
    *parts("checkpoint", "palp"),
    ("photos", "images", "palp", "images.image0"),
    ("photos", "captions", "palp", "captions"),
    ("photos2", "images", "subject", "images.image0"),
    ("photos2", "captions", "subject", "captions"),
    ("subject", "subjects", "palp", "subjects"),
    ("options", "options", "palp", "options"),
    *sampling_links("palp", "checkpoint"),
]
