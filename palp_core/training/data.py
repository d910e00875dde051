"""Photos and masks of a subject: checked, brought to a trainable size, masks brought to the latents' grid."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ImageError, ModelError
from ..models.backbone import Backbone
from .masks import alpha_of, as_meant, on_grey

SMALLEST_SIDE = 16


def check_image(name: str, image: Tensor) -> Tensor:
    """(H, W, 3 or 4) in 0..1 -> (H, W, 3) float32, over grey where it is transparent.

    Raises ImageError that calls the image `name`.
    """
    if image.ndim != 3 or image.shape[-1] not in (3, 4):
        raise ImageError(f"{name} has shape {tuple(image.shape)}; it must be (height, width, 3), colors in 0..1.")
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise ImageError(
            f"{name} is {width} x {height} pixels, too small to show anything. Use a photo of 256 pixels or more."
        )
    if not torch.isfinite(image).all():
        raise ImageError(f"{name} holds values that are not finite (NaN or infinite). Check the node that made it.")
    return on_grey(image.float().clamp(0, 1))


def check_mask(name: str, mask: Tensor, image: Tensor) -> Tensor:
    """(H, W) in 0..1, white where the subject is -> float32. Raises ImageError that calls the mask `name`."""
    # Before its size: the host's mask of an opaque picture is black, and small.
    if mask.numel() == 0 or mask.max() <= 0:
        raise ImageError(
            f"{name} is all black: no pixel belongs to the subject. Paint the subject white, or leave the mask out; "
            "ComfyUI's Load Image makes a black one of a picture without transparency."
        )
    if mask.shape != image.shape[:2]:
        found, wanted = ("x".join(map(str, tuple(t.shape)[1::-1])) for t in (mask, image))
        raise ImageError(f"{name} is {found} pixels, but its image is {wanted}. Make the mask on that image.")
    if not torch.isfinite(mask).all():
        raise ImageError(f"{name} holds values that are not finite (NaN or infinite). Check the node that made it.")
    return mask.float().clamp(0, 1)


def inverted(name: str, mask: Tensor, image: Tensor) -> Tensor:
    """(H, W) in 0..1, black where the subject is -> white there. Raises ImageError that calls the mask `name`."""
    if mask.numel() and mask.max() <= 0:  # the host's mask of an opaque picture, which is small
        return torch.ones(image.shape[:2])
    return check_mask(f"{name}, inverted,", 1 - mask.float(), image)


class Checked(NamedTuple):
    """Images and masks that can be learned from, and what is to be said of them."""

    images: tuple[Tensor, ...]  # (H, W, 3) each
    masks: tuple[Tensor, ...]  # (H, W) each, white where the subject is; one for each image, or none
    notes: tuple[str, ...]


def check_images_and_masks(
    owner: str, images: Sequence[Tensor], masks: Sequence[Tensor | None], invert: bool = False
) -> Checked:
    """Check what the owner is learned from, take inverted masks as they are meant, and log what is to be said of them.

    images: (H, W, 3 or 4). masks: (H, W), one for each, or none at all; where one is None, its image's alpha is the
    mask. invert: masks are black where the owner is, and nothing is guessed. Raises ImageError that names the owner.
    """
    if not images:
        raise ImageError(f"images: {owner} has no image. Connect 1 to 8 photos of it.")
    if masks and len(masks) != len(images):
        raise ImageError(
            f"masks: {owner} has {len(images)} images but {len(masks)} masks. Connect one mask for each image, or none."
        )
    checked = [check_image(f"image {i} of {owner}", image) for i, image in enumerate(images, 1)]
    pairs = enumerate(zip(images, masks or [None] * len(images), strict=True), 1)
    found, notes = zip(*(image_mask(f"{i} of {owner}", *pair, invert) for i, pair in pairs), strict=True)
    notes = tuple(filter(None, notes))
    for note in notes:
        logging.warning(note)
    if all(mask is None for mask in found):
        return Checked(tuple(checked), (), notes)
    filled = (torch.ones(i.shape[:2]) if mask is None else mask for mask, i in zip(found, checked, strict=True))
    return Checked(tuple(checked), tuple(filled), notes)


def image_mask(which: str, image: Tensor, mask: Tensor | None, invert: bool = False) -> tuple[Tensor | None, str]:
    """Return an image's mask, given or its alpha, and what is to be said of it. which: "1 of [V]", for errors."""
    if mask is not None:
        name = f"mask {which}".rstrip()
        return (inverted(name, mask, image), "") if invert else as_meant(name, check_mask(name, mask, image))
    alpha = alpha_of(image)
    return None if alpha is None else check_mask(f"the alpha of image {which}".rstrip(), alpha, image), ""


def training_size(height: int, width: int, resolution: int, multiple: int) -> tuple[int, int]:
    """Choose sides (height, width) near the image's aspect, of about resolution^2 pixels, multiples of `multiple`."""
    scale = resolution / math.sqrt(height * width)
    return tuple(max(multiple, round(side * scale / multiple) * multiple) for side in (height, width))


def covering(image: Tensor, size: tuple[int, int]) -> tuple[list[int], list[int]]:
    """How an image (H, W, C) covers a size: its sides once it is scaled, and its first row and column that are seen."""
    scale = max(wanted / side for wanted, side in zip(size, image.shape, strict=False))
    scaled = [max(wanted, round(side * scale)) for wanted, side in zip(size, image.shape, strict=False)]
    return scaled, [(have - wanted) // 2 for have, wanted in zip(scaled, size, strict=True)]


def resize_to_cover(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(H, W, C) -> (*size, C): scaled until it covers the size, then cropped at the centre; values stay in 0..1."""
    scaled, (top, left) = covering(image, size)
    pixels = image.movedim(-1, 0)[None]  # (1, C, H, W)
    pixels = F.interpolate(pixels, size=scaled, mode="bicubic", antialias=True, align_corners=False)
    return pixels[0, :, top : top + size[0], left : left + size[1]].movedim(0, -1).clamp(0, 1)


def photo_size(image: Tensor, size: tuple[int, int]) -> Tensor:
    """What SDXL is told of a photo (arXiv 2307.01952, sec. 2.2): (1, 6) of height, width, top, left, height, width.

    image: (H, W, C), before it is scaled and cropped to the size; these are its own sides, the crop, and the size.
    """
    return torch.tensor([[*image.shape[:2], *covering(image, size)[1], *size]])


def latent_mask(mask: Tensor, size: tuple[int, int], latents: Tensor) -> Tensor:
    """(H, W) in 0..1 -> (1, 1, h, w) on the grid of latents (1, C, h, w): the share of each cell that is subject.

    size: what its picture was brought to, and the mask with it. Raises ImageError where that crops the subject away.
    """
    covered = resize_to_cover(mask[..., None], size)[..., 0]
    if covered.max() <= 0:
        raise ImageError(
            f"the subject of a mask lies at the edge that is cropped away when its picture is brought to {size[1]} x "
            f"{size[0]} pixels. Crop the picture around the subject."
        )
    shares = F.adaptive_avg_pool2d(covered[None, None].to(latents.device), latents.shape[-2:])
    return shares.view(1, *[1] * (latents.ndim - 3), *shares.shape[-2:])


class Example(NamedTuple):
    """An image that is learned from."""

    number: int  # its place among the images of its subject, from 0
    latents: Tensor  # (1, C, h, w)
    mask: Tensor | None  # (1, 1, h, w) in 0..1, where the loss counts
    size: Tensor | None = None  # (1, 6), see `photo_size`; None for models that are told no sizes
    region: Tensor | None = None  # (1, 1, h, w) in 0..1, where the subject is; None where nobody asks
    flipped: bool = False  # whether it is the image mirrored


class Photo(NamedTuple):
    """What the model is told of a photo."""

    prompt: str  # y_P
    size: Tensor | None  # (1, 6), see `photo_size`

    @property
    def key(self) -> tuple:
        """Tell it from others."""
        return self.prompt, None if self.size is None else tuple(self.size[0].tolist())


def told_once(photos: list[Photo]) -> list[Photo]:
    """Leave one for all samples of a batch where the same is said of each."""
    return photos if len({photo.key for photo in photos}) > 1 else photos[:1]


def encoded_image(backbone: Backbone, name: str, image: Tensor) -> Tensor:
    """Encode a checked image (H, W, 3), called `name`, whose sides are multiples of the family's; (1, C, ..., h, w).

    Raises ModelError where the VAE overflows, as some do in half precision.
    """
    latents = backbone.encode_image(image)
    if not torch.isfinite(latents).all():
        raise ModelError(
            f"the VAE makes values of {name} that are not finite (NaN or infinite). Compute it in fp32: start ComfyUI "
            "with --fp32-vae, or palp with --precision fp32. Or take another VAE."
        )
    return latents


@torch.no_grad()
def encode_examples(
    backbone: Backbone,
    owner: str,
    images: tuple[Tensor, ...],
    masks: tuple[Tensor, ...],
    resolution: int,
    flip: bool = False,
) -> list[Example]:
    """Latents and masks of images (H, W, 3) of the owner, once for all steps. masks: (H, W), one for each, or none.

    flip: each image is also there mirrored, behind itself.
    """
    examples = []
    for number, image in enumerate(images):
        name, mask = f"image {number + 1} of {owner}", masks[number] if masks else None
        found = _encoded_example(backbone, name, image, mask, resolution)
        examples.append(found._replace(number=number))
        if flip:  # encoded for itself: what a VAE makes of a mirrored image is not its latents mirrored
            mirrored = _encoded_example(
                backbone, name, image.flip(1), None if mask is None else mask.flip(1), resolution
            )
            examples.append(mirrored._replace(number=number, flipped=True))
    return examples


def _encoded_example(backbone: Backbone, name: str, image: Tensor, mask: Tensor | None, resolution: int) -> Example:
    """Latents, mask and size of an image (H, W, 3) that errors call by this name. mask: (H, W), or None."""
    size = training_size(*image.shape[:2], resolution, backbone.family.side_multiple)
    latents = encoded_image(backbone, name, resize_to_cover(image, size))
    told = photo_size(image, size) if backbone.family.pooled else None
    return Example(0, latents, None if mask is None else latent_mask(mask, size, latents), told)


def random_index(count: int, random: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=random))


def draw_batch(examples: list[Example], batch_size: int, random: torch.Generator) -> list[Example]:
    """Random examples whose latents are of one size, with repeats."""
    first = examples[random_index(len(examples), random)]
    alike = [e for e in examples if e.latents.shape == first.latents.shape]
    return [first] + [alike[random_index(len(alike), random)] for _ in range(batch_size - 1)]


class Batch(NamedTuple):
    """Examples of one size, stacked; float32."""

    x0: Tensor  # (B, C, h, w)
    mask: Tensor | None  # (B, 1, h, w) in 0..1
    region: Tensor | None  # (B, 1, h, w) in 0..1


def stack_batch(examples: list[Example], device: torch.device) -> Batch:
    """Stack examples of one size on a device."""

    def stacked(parts: list[Tensor | None]) -> Tensor | None:
        return None if parts[0] is None else torch.cat(parts).to(device, torch.float32)

    return Batch(*(stacked([getattr(e, part) for e in examples]) for part in ("latents", "mask", "region")))
