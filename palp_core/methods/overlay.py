"""What of each photo is taken for the subject, to look at: bright, and all else dark and grey."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..training.data import Example, resize_to_cover

#: Longer side of a photo on the sheet, pixels.
SIDE = 320
#: How much light is left of what is not the subject.
DARK = 0.3
#: The weights of red, green and blue in grey (ITU-R BT.601).
GREY = (0.299, 0.587, 0.114)


def overlays(name: str, images: Sequence[Tensor], examples: Sequence[Example]) -> dict[str, Tensor]:
    """Show the subject of each image, (h, w, 3) in 0..1, under a title that says how much of it that is.

    name: of the subject, in the titles. images: (H, W, 3) in 0..1. examples: what became of each of them; what is
    mirrored shows no more.
    """
    shown = {}
    for example in examples:
        if example.flipped:
            continue
        place = example.mask if example.region is None else example.region
        place = torch.ones_like(example.latents[:, :1]) if place is None else place
        place = place.flatten(0, -3)[:1].float().cpu()  # (1, h, w)
        title = f"{name} {example.number + 1}: {place.mean():.0%}".strip()
        shown[title] = overlay(images[example.number], place)
    return shown


def overlay(image: Tensor, place: Tensor) -> Tensor:
    """Darken all of an image (H, W, 3) but the subject. place: (1, h, w) in 0..1, of the part that is learned from."""
    scale = SIDE / max(place.shape[-2:])
    size = tuple(round(side * scale) for side in place.shape[-2:])
    picture = resize_to_cover(image.float().cpu(), size)
    bright = F.interpolate(place[None], size=size, mode="bilinear", align_corners=False)[0].movedim(0, -1).clamp(0, 1)
    grey = (picture * picture.new_tensor(GREY)).sum(dim=-1, keepdim=True)
    return bright * picture + (1 - bright) * DARK * grey
