"""A subject's photos in memory, with the masks and captions that lie beside them or are named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from .images import read_image, read_mask
from .photos import Photos, find_masks, find_photos, listed, masks_by_name


class ReadPhotos(NamedTuple):
    """Photos in memory, and what lies beside them."""

    images: tuple[Tensor, ...]  # (H, W, 3 or 4) each, in 0..1
    masks: tuple[Tensor | None, ...]  # (H, W), one for each image, or nothing
    captions: tuple[str, ...]  # one for each image, or nothing


def read_photos(
    paths: Sequence[Path], masks: Sequence[Path], captions: bool, tell: Callable[[str], object]
) -> ReadPhotos:
    """Read files or folders: images, and masks, those given or those beside the images.

    masks: files in the order of the images, or a folder, in which they are found by their names. captions: whether text
    files beside the images are read. tell: takes each sentence of what is left out, and which images have no mask.
    Raises FileError for what is missing or cannot be read.
    """
    found = find_photos(paths)
    unused = ["the masks beside the images are left out, because --masks has others."] if masks and found.masked else []
    chosen, unfit = found.masks if found.masked else (), ()
    if any(path.is_dir() for path in masks):
        chosen, unfit = masks_by_name(found.images, masks)
    elif masks:
        chosen = find_masks(masks)
    images = tuple(map(read_image, found.images))
    described = _described(found, captions)
    for note in [*found.notes, *unused, *unfit, *_learned_whole(found.images, images, chosen), *described]:
        tell(note)
    texts = found.read_captions() if captions else ()
    return ReadPhotos(images, tuple(mask and read_mask(mask) for mask in chosen), texts)


def _described(found: Photos, read: bool) -> Iterator[str]:
    """Say which captions lie beside the images, and whether they are read."""
    if names := [file.name for file in found.captions if file]:
        yield f"captions of {len(names)} of {len(found.images)} images {'' if read else 'not '}read: {listed(names)}."


def _learned_whole(paths: Sequence[Path], images: Sequence[Tensor], masks: Sequence[Path | None]) -> Iterator[str]:
    """Say which images are opaque and have no mask, where others have one."""
    whole = [p.name for p, image, mask in zip(paths, images, masks, strict=False) if not mask and image.shape[-1] == 3]
    if whole:
        yield f"learned whole, without a mask: {listed(whole)}."
