"""Masks as users have them: of a cut-out picture's transparency, inverted, or white all over."""

from __future__ import annotations

import torch
from torch import Tensor

#: What stands in the place of colors that are hidden: neutral, as far from black as from white.
GREY = 0.5
#: Of an inverted mask at least this share of the border is white, and at most this of the middle;
WHITE_BORDER, WHITE_MIDDLE = 0.7, 0.5
#: or hardly any black is at the border, and it spans at least this share of the picture's height or width.
WHOLE_BORDER, BLACK_SPAN = 0.95, 0.5


def on_grey(image: Tensor) -> Tensor:
    """(H, W, 3 or 4) -> (H, W, 3): over neutral grey, so that colors hidden under alpha 0 are never learned from."""
    if image.shape[-1] == 3:
        return image
    alpha = image[..., 3:]
    return image[..., :3] * alpha + GREY * (1 - alpha)


def alpha_of(image: Tensor) -> Tensor | None:
    """(H, W, 3 or 4) -> (H, W), how opaque each pixel is; None where all are."""
    if image.shape[-1] == 3 or image[..., 3].min() >= 1:
        return None
    return image[..., 3]


def white_border(mask: Tensor) -> float:
    """Measure which share of the outermost pixels of a mask (H, W) is white."""
    return torch.cat([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]]).float().mean().item()


def looks_inverted(mask: Tensor) -> bool:
    """Say whether a mask (H, W) is white all round and black in the middle: the background's, and not the subject's.

    The middle is half of the picture's height and width. A subject that is cut off at one side leaves most of the
    border white, and one that is thin, such as a bicycle, much of the middle, which it spans.
    """
    border = white_border(mask)
    if border < WHITE_BORDER:
        return False
    height, width = mask.shape
    middle = mask[height // 4 : height - height // 4, width // 4 : width - width // 4]
    if middle.float().mean() <= WHITE_MIDDLE:
        return True
    return border >= WHOLE_BORDER and max(_span(mask, 0), _span(mask, 1)) >= BLACK_SPAN


def _span(mask: Tensor, dimension: int) -> float:
    """From the first to the last place in this dimension at which there is black, as a share of it."""
    places = (mask < 0.5).any(dim=1 - dimension).nonzero()
    return (places.max() - places.min() + 1).item() / mask.shape[dimension] if len(places) else 0.0


def as_meant(name: str, mask: Tensor) -> tuple[Tensor, str]:
    """Return a checked mask (H, W), called `name`, with the subject white; and what is to be said of it, or nothing."""
    if looks_inverted(mask):
        return 1 - mask, (
            f"{name} is white all round and black in the middle, as ComfyUI's Load Image makes it of a cut-out "
            "picture. It is taken inverted: the black part is learned."
        )
    if mask.min() >= 1:
        return mask, (
            f"{name} is white everywhere, so that all of its image is learned. Paint black what is not the subject, or "
            "leave the mask out."
        )
    if white_border(mask) >= WHOLE_BORDER:
        return mask, (
            f"{name} is white along its whole border. Invert it if the subject is what is black: ComfyUI's Load Image "
            "makes such a mask of a cut-out picture."
        )
    return mask, ""
