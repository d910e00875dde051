"""What base model, plain training and PALP draw of the demo's cat; trained once, and kept in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from palp_core.methods.alignment import AlignmentConfig
from palp_core.models.wording import put_words
from palp_core.toyworld.scenes import new_individual
from palp_core.toyworld.world import ALIGNMENT, World, load_world, paint, personalization

CAT = new_individual(1, "cat")
NEON = "a neon sign of a [V] with a balloon in the city at night"
#: By the name of their files: what is trained for which prompt.
TRAININGS = {
    "plain_neon": (AlignmentConfig(weight=0.0), NEON),
    "palp_neon": (ALIGNMENT, NEON),
}
STEPS, SEED, COUNT = 150, 1, 8


def pictures(name: str, folder: Path) -> list[Image.Image]:
    """Load the pictures of a training, or train first. name: one of TRAININGS, or base_neon."""
    files = [folder / f"{name}_{number}.png" for number in range(COUNT)]
    if not all(file.exists() for file in files):
        folder.mkdir(parents=True, exist_ok=True)
        for file, picture in zip(files, _drawn(load_world(), name), strict=True):
            as_image(picture).save(file)
    return [Image.open(file).convert("RGB") for file in files]


def as_image(picture: Tensor) -> Image.Image:
    """Turn (3, 64, 64) in -1..1 into an image."""
    pixels = (picture.clamp(-1, 1) + 1) * 127.5
    return Image.fromarray(pixels.round().movedim(0, -1).numpy().astype(np.uint8))


def _drawn(world: World, name: str) -> Tensor:
    if name == "base_neon":
        return paint(world, put_words(NEON, {"[V]": "cat"}), {}, COUNT, SEED)
    alignment, target = TRAININGS[name]
    run = personalization(world, CAT, target, STEPS, SEED, alignment)
    for step in run.steps():
        if step.index + 1 == STEPS:  # the LoRA is on the model inside the loop only
            text = put_words(target, run.method.texts)
            return paint(world, text, run.learner.result().words, COUNT, SEED)
    raise RuntimeError(f"the training {name} ended before step {STEPS}.")
