"""Graphs in the form that ComfyUI's /prompt takes, around this pack's nodes."""

from __future__ import annotations

PERSONALIZE_WIDGETS = {
    "class_word": "cat",
    "target_prompt": "a sketch of [V] in Paris",
    "steps": 2,
    "learning_rate": 1e-3,
    "rank": 2,
    "alignment_weight": 0.25,
    "seed": 1,
    "file_name": "bad",
    "placeholder": "[V]",
    "personalization_prompt": "",
    "clean_prompt": "",
    "alpha": 15.0,
    "beta": 7.5,
    "score": "palp",
    "noise": "same",
    "rescale": True,
    "batch_size": 1,
    "resolution": 64,
    "embedding_learning_rate": 1e-3,
    "precision": "auto",
    "gradient_checkpointing": False,
    "max_grad_norm": 1.0,
}


def personalize_graph(checkpoint: str, links: dict | None = None, nodes: dict | None = None, **widgets) -> dict:
    """PALP Personalize, node 10, on a checkpoint and a photo, with further nodes and links."""
    inputs = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "images.image0": ["2", 0], **(links or {})}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}},
        **(nodes or {}),
        "10": {"class_type": "PALP_Personalize", "inputs": {**inputs, **PERSONALIZE_WIDGETS, **widgets}},
    }
