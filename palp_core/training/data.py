"""Photos and masks of a subject: checked, brought to a trainable size, masks brought to the latents' grid."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE_MULTIPLE = 64  # three halvings of the UNet on latents of 1/8 size
SMALLEST_SIDE = 16


def check_image(name: str, image: Tensor) -> Tensor:
    """(H, W, 3 or 4) in 0..1 -> (H, W, 3) float32. Raises ValueError that calls the image `name`."""
    if image.ndim != 3 or image.shape[-1] not in (3, 4):
        raise ValueError(f"{name} has shape {tuple(image.shape)}; it must be (height, width, 3), colours in 0..1.")
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"{name} is {width} x {height} pixels, too small to show anything. Use a photo of 256 pixels or more."
        )
    if not torch.isfinite(image).all():
        raise ValueError(f"{name} holds values that are not finite (NaN or infinite). Check the node that made it.")
    return image[..., :3].float().clamp(0, 1)


def check_mask(name: str, mask: Tensor, image: Tensor) -> Tensor:
    """(H, W) in 0..1, white where the subject is -> float32. Raises ValueError that calls the mask `name`."""
    # Before its size: the host's mask of an opaque picture is black, and small.
    if mask.numel() == 0 or mask.max() <= 0:
        raise ValueError(
            f"{name} is all black: no pixel belongs to the subject. Paint the subject white, or remove it."
        )
    if mask.shape != image.shape[:2]:
        found, wanted = ("x".join(map(str, tuple(t.shape)[1::-1])) for t in (mask, image))
        raise ValueError(f"{name} is {found} pixels, but its image is {wanted}. Make the mask on that image.")
    if not torch.isfinite(mask).all():
        raise ValueError(f"{name} holds values that are not finite (NaN or infinite). Check the node that made it.")
    return mask.float().clamp(0, 1)


def check_pictures(
    owner: str, images: tuple[Tensor, ...], masks: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Images and masks of what is learned, each checked; masks may be none. Raises ValueError that names the owner."""
    if not images:
        raise ValueError(f"images: {owner} has no image. Connect 1 to 8 photos of it.")
    if masks and len(masks) != len(images):
        raise ValueError(
            f"masks: {owner} has {len(images)} images but {len(masks)} masks. Connect one mask for each image, or none."
        )
    images = tuple(check_image(f"image {i} of {owner}", image) for i, image in enumerate(images, 1))
    pairs = enumerate(zip(masks, images, strict=False), 1)
    return images, tuple(check_mask(f"mask {i} of {owner}", mask, image) for i, (mask, image) in pairs)


def training_size(height: int, width: int, resolution: int) -> tuple[int, int]:
    """Sides (height, width) near the image's aspect, of about resolution^2 pixels, multiples of 64, none below 64."""
    scale = resolution / math.sqrt(height * width)
    return tuple(max(SIDE_MULTIPLE, round(side * scale / SIDE_MULTIPLE) * SIDE_MULTIPLE) for side in (height, width))


def resize_to_cover(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(H, W, C) -> (*size, C): scaled until it covers the size, then cropped at the centre; values stay in 0..1."""
    height, width = image.shape[:2]
    scale = max(size[0] / height, size[1] / width)
    scaled = [max(wanted, round(side * scale)) for wanted, side in zip(size, (height, width), strict=True)]
    pixels = image.movedim(-1, 0)[None]  # (1, C, H, W)
    pixels = F.interpolate(pixels, size=scaled, mode="bicubic", antialias=True, align_corners=False)
    top, left = ((have - wanted) // 2 for have, wanted in zip(scaled, size, strict=True))
    return pixels[0, :, top : top + size[0], left : left + size[1]].movedim(0, -1).clamp(0, 1)


def latent_mask(mask: Tensor, size: tuple[int, int], latents: Tensor) -> Tensor:
    """(H, W) in 0..1 -> (1, 1, h, w) on the grid of latents (1, C, h, w): the share of each cell that is subject.

    size: what its picture was brought to, and the mask with it. Raises ValueError where that crops the subject away.
    """
    covering = resize_to_cover(mask[..., None], size)[..., 0]
    if covering.max() <= 0:
        raise ValueError(
            f"the subject of a mask lies at the edge that is cropped away when its picture is brought to {size[1]} x "
            f"{size[0]} pixels. Crop the picture around the subject."
        )
    return F.adaptive_avg_pool2d(covering[None, None].to(latents.device), latents.shape[-2:])
