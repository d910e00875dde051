"""What a training draws on its way: its prompt, always from the same noise, with the model as it is then."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..files.run_folder import RunFolder
from ..models.backbone import Backbone, Conditioning
from ..models.sampling import sample, sampling_levels
from ..settings import check_settings, setting
from ..training.data import Example, training_size

#: Of one picture.
SAMPLING_STEPS = 20
#: Of a run that chooses itself when to draw: about so many pictures, in this share of its time.
PICTURES, SHARE = 10, 0.1
#: How many steps of a training a picture takes about as long as, until one was drawn.
LIKELY_COST = 4


@dataclass(frozen=True)
class PreviewConfig:
    """When a training draws its prompt, and how."""

    preview_every: int = setting(
        -1,
        "Draws your prompt after every so many steps, to watch; -1 is about every tenth of the run, in a tenth of its "
        "time at most, and 0 is never.",
        usual="-1",
        low=-1,
        high=100_000,
        step=1,
    )
    preview_guidance: float = setting(
        0.0,
        "Guides the pictures that are drawn while it trains by this scale; 0 is what suits the model's family.",
        usual="0",
        low=0,
        high=30,
        step=0.5,
    )

    def __post_init__(self) -> None:
        check_settings(self)


class Painter(Protocol):
    """A learner that can show what it has learned."""

    #: Steps taken until now.
    done: int

    def preview(self, guidance_scale: float, untouched: bool = False) -> Tensor:
        """Draw the prompt from the noise of the training's seed, (H, W, 3) in 0..1.

        guidance_scale: 0 for the family's own. untouched: with the base model, before anything was learned.
        """

    def overlays(self) -> dict[str, Tensor]:
        """Show what of each photo is learned, (h, w, 3) in 0..1, by titles."""


@torch.no_grad()
def painted(
    backbone: Backbone,
    null: Conditioning,
    prompt: Conditioning,
    shape: tuple[int, ...],
    scale: float,
    seed: int,
    steps: int | None = None,
) -> Tensor:
    """Draw one picture, (H, W, 3) in 0..1, from latents (1, C, ..., h, w) of this shape.

    scale: of guidance, classifier-free or distilled, as the model has it; 0 for its family's own. steps: of sampling;
    None for a preview's.
    """
    scale = scale or backbone.family.guidance_scale
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if "guidance" in prompt.tensors:
        told = torch.full_like(prompt.tensors["guidance"], scale)
        prompt, scale = Conditioning({**prompt.tensors, "guidance": told}), 1.0
    levels = sampling_levels(backbone.levels, steps or SAMPLING_STEPS)
    return backbone.decode_latents(sample(backbone, noise, levels, null, prompt, scale))[0]


def square_latents(backbone: Backbone, image: Tensor, example: Example, resolution: int) -> tuple[int, ...]:
    """Return the shape of the latents of a square picture, by an image (H, W, 3) and what became of it."""
    multiple = backbone.family.side_multiple
    height, _ = training_size(*image.shape[:2], resolution, multiple)
    side, _ = training_size(1, 1, resolution, multiple)
    side = side * example.latents.shape[-2] // height
    return *example.latents.shape[:-2], side, side


class Previews:
    """The pictures of one training, drawn when it is time, and kept in its folder.

    A picture that cannot be drawn, as for want of memory, is no reason to end a training: the others are left out.
    """

    def __init__(self, config: PreviewConfig, steps: int, folder: RunFolder, done: int = 0):
        """Take up what the folder has of the steps that are done."""
        self.config, self.steps, self.folder = config, steps, folder
        #: Steps behind each picture -> (H, W, 3) in 0..1; 0 is the base model's.
        self.pictures: dict[int, Tensor] = folder.previews(done)
        #: A picture after so many steps, 0 for none; None until it is decided.
        self._every: int | None = None if config.preview_every < 0 else config.preview_every
        self._begun: float | None = None

    def after_step(self, painter: Painter) -> Tensor | None:
        """Draw a picture if it is time for one, (H, W, 3); returns it."""
        try:
            return self._after_step(painter)
        except (RuntimeError, ValueError, OSError) as error:
            logging.warning("no more pictures are drawn while it trains, because one could not be: %s", error)
            self._every = 0
            return None

    def _after_step(self, painter: Painter) -> Tensor | None:
        if self._every is None:
            self._every = self._chosen(painter)
        done = painter.done
        if not self._every or (done % self._every and done != self.steps):
            return None
        if 0 not in self.pictures:
            self._draw(painter, untouched=True)
        return self._draw(painter)

    def _chosen(self, painter: Painter) -> int | None:
        """Choose, by the second step's time and the base model's picture's, how often the run's share allows one."""
        now = time.monotonic()
        if self._begun is None:  # the first step is slower than those after it
            self._begun = now
            return None
        step_seconds = now - self._begun
        share = SHARE * self.steps * step_seconds
        if share < 2 * LIKELY_COST * step_seconds:
            return 0
        self._draw(painter, untouched=True)
        affordable = int(share / (time.monotonic() - now)) - 1
        if affordable > 0:
            return math.ceil(self.steps / min(PICTURES, affordable))
        self.pictures.clear()  # the base model's alone shows nothing of the training
        return 0

    def _draw(self, painter: Painter, untouched: bool = False) -> Tensor:
        picture = painter.preview(self.config.preview_guidance, untouched)
        done = 0 if untouched else painter.done
        self.pictures[done] = picture
        self.folder.keep_preview(done, picture)
        return picture


def step_names(pictures: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Title each picture, in the order of the steps."""
    return {f"step {done}" if done else "base model": pictures[done] for done in sorted(pictures)}
