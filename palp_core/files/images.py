"""Pictures on disk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import FileError
from .writing import write

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The pictures that are named; those of a folder in the order of their names. Raises FileError for none."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
            if not found:
                raise FileError(f"the folder {path} holds no pictures ({', '.join(SUFFIXES)}).")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise FileError(f"there is no image {path}.")
    return files


def read_image(path: Path) -> Tensor:
    """(H, W, 3) in 0..1, turned as the camera was held. Raises FileError for a file that is no picture."""
    try:
        with Image.open(path) as image:
            pixels = _in_8_bits(ImageOps.exif_transpose(image)).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # cut off, damaged, huge
        raise FileError(f"{path} is not an image that can be read: {error}.") from error
    return torch.from_numpy(np.array(pixels)).float() / 255


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Pillow's own conversion of 16-bit gray makes all of it white but the darkest 1 %."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))


def write_image(pixels: Tensor, path: Path) -> None:
    """(H, W, 3) in 0..1, as PNG; the file is there whole or not at all."""
    write_picture(Image.fromarray((pixels * 255).round().byte().numpy()), path)


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write as PNG, whole or not at all."""
    write(path, partial(picture.save, format="PNG"))
