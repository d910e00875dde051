"""Graphs in the form that ComfyUI's /prompt takes, around this pack's nodes."""

from __future__ import annotations

PERSONALIZE_WIDGETS = {
    "class_word": "cat",
    "target_prompt": "a sketch of [V] in Paris",
    "steps": 2,
    "alignment_weight": 0.25,
    "seed": 1,
    "file_name": "bad",
}
WORD_WIDGETS = {
    "name": "word",
    "initial_word": "cat",
    "kind": "object",
    "vectors": 1,
    "steps": 2,
    "learning_rate": 5e-3,
    "hold_norm": True,
    "regularization": 0.0,
    "seed": 1,
    "overwrite": False,
    "templates": "",
    "captions": "",
}
#: Of PALP Options, small enough for a CPU.
OPTIONS_WIDGETS = {
    "score": "palp",
    "score.alpha": 15.0,
    "score.beta": 7.5,
    "learning_rate": 1e-3,
    "embedding_learning_rate": 1e-3,
    "rank": 2,
    "batch_size": 1,
    "resolution": 64,
    "gradient_checkpointing": False,
    "subject_word": "auto",
    "precision": "auto",
    "offloading": False,
    "placeholder": "[V]",
    "personalization_prompt": "",
    "clean_prompt": "",
    "initial_embedding": "none",
    "trigger": "",
    "retrain": False,
    "preview_every": -1,
    "preview_guidance": 0.0,
    "invert_masks": False,
    "memory": "auto",
    "gradient_accumulation": 1,
    "warmup_steps": 0,
    "lr_scheduler": "constant",
    "ema_decay": 0.0,
    "optimizer": "adamw",
    "flip": False,
    "masked_prior": 0.0,
    "targets": "attention",
    "hold_norm": True,
}


def options_node(**widgets) -> dict:
    """Return a PALP Options node; what is not given is as in `OPTIONS_WIDGETS`."""
    return {"class_type": "PALP_Options", "inputs": {**OPTIONS_WIDGETS, **widgets}}


def personalize_graph(
    checkpoint: str, links: dict | None = None, nodes: dict | None = None, options: dict | None = None, **widgets
) -> dict:
    """Return PALP Personalize, node 10, on a checkpoint and a photo, with further nodes and links.

    options: widgets of its PALP Options, node 9.
    """
    return _training("PALP_Personalize", {**PERSONALIZE_WIDGETS, **widgets}, checkpoint, links, nodes, options)


def word_graph(
    checkpoint: str, links: dict | None = None, nodes: dict | None = None, options: dict | None = None, **widgets
) -> dict:
    """Return Textual Inversion Train, node 10, in the same surroundings."""
    return _training("PALP_TextualInversionTrain", {**WORD_WIDGETS, **widgets}, checkpoint, links, nodes, options)


def _training(
    kind: str, widgets: dict, checkpoint: str, links: dict | None, nodes: dict | None, options: dict | None
) -> dict:
    inputs = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "images.image0": ["2", 0], "options": ["9", 0]}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}},
        "9": options_node(**(options or {})),
        **(nodes or {}),
        "10": {"class_type": kind, "inputs": {**inputs, **(links or {}), **widgets}},
    }
