"""The pictures of a cell: which there are to be, and how one is drawn with what was learned until then."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from ..methods.layered_words.learner import LayeredWordLearner
from ..methods.personalization_learner import PersonalizationLearner
from ..methods.previews import painted, square_latents
from ..methods.subjects import with_class_words
from ..methods.textual_inversion import TextualInversionLearner
from .cells import Cell
from .plan import PLACEHOLDER, Pictures

Learner = PersonalizationLearner | TextualInversionLearner | LayeredWordLearner


def pictures_of(cell: Cell, step: int, prompt: str, pictures: Pictures, out: Path) -> list[Path]:
    """Name the files of a prompt's pictures after so many steps.

    Pictures that are drawn otherwise have other folders. Prompts have folders by their hash: they may be of any length.
    """
    drawn = f"step_{step:05}_guided_{pictures.guidance_scale:g}_in_{pictures.sampling_steps}"
    folder = cell.folder(out) / "pictures" / drawn / sha256(prompt.encode()).hexdigest()[:8]
    return [folder / f"{number + 1:03}.png" for number in range(pictures.count)]


def missing_pictures(cell: Cell, step: int, pictures: Pictures, out: Path) -> list[tuple[str, int, Path]]:
    """List prompt, number from 0, and file of the pictures of a step that are not there."""
    files = [
        (prompt, *one) for prompt in cell.prompts for one in enumerate(pictures_of(cell, step, prompt, pictures, out))
    ]
    return [(prompt, number, file) for prompt, number, file in files if not file.is_file()]


def draw(learner: Learner, prompt: str, seed: int, pictures: Pictures, untouched: bool) -> Tensor:
    """Draw one picture, (H, W, 3) in 0..1, as large as photos are learned.

    untouched: with the base model, to which the subject is its class word.
    """
    if isinstance(learner, PersonalizationLearner):
        return _personalized(learner, prompt, seed, pictures, untouched)
    return learner.draw(prompt, PLACEHOLDER, pictures.guidance_scale, seed, pictures.sampling_steps)


@torch.no_grad()
def _personalized(
    learner: PersonalizationLearner, prompt: str, seed: int, pictures: Pictures, untouched: bool
) -> Tensor:
    """Draw with LoRA and word, or with the base model."""
    method, backbone = learner.method, learner.backbone
    placeholder, examples = next(iter(learner.examples.items()))
    shape = square_latents(backbone, method.subjects[placeholder].images[0], examples[0], method.resolution)
    with learner.lora.disabled() if untouched else learner.optimizer.averaged():
        if untouched:
            cond = backbone.encode_prompt(with_class_words(prompt, list(method.subjects.values())), {})
        else:
            cond = method.encode(prompt, learner.words)
        scale, steps = pictures.guidance_scale, pictures.sampling_steps
        return painted(backbone, learner.fixed.null, cond, shape, scale, seed, steps)
