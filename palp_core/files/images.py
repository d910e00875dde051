"""Pictures on disk."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from ..errors import FileError
from .writing import write

#: What Pillow opens, but only with the help of other programs, or not to its pixels.
NO_PICTURES = ("EPS", "WMF", "MPEG", "PDF")
#: How a file of HEIF begins, as phones write it with the suffix .heic: a length, `ftyp`, and one of these brands.
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
INSTALL_HEIF = "install pillow-heif"


def is_picture(path: Path) -> bool:
    """Say by its content, and not by its suffix, whether Pillow reads a file. A huge picture is one, too."""
    if is_heif(path):
        return _reads_heif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a large one
            image = Image.open(path)
        with image:
            return image.format not in NO_PICTURES and not isinstance(image, ImageFile.StubImageFile)
    except Image.DecompressionBombError:
        return True
    except (OSError, SyntaxError):  # UnidentifiedImageError is an OSError
        return False


def is_heif(path: Path) -> bool:
    """Say by its content whether a file is HEIF, which Pillow alone does not read."""
    with path.open("rb") as file:
        start = file.read(12)
    return start[4:8] == b"ftyp" and start[8:] in HEIF_BRANDS


def _reads_heif() -> bool:
    """Whether pillow-heif is installed, which is then told to Pillow."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def read_image(path: Path) -> Tensor:
    """(H, W, 3) in 0..1, turned as the camera was held; (H, W, 4) where something is transparent.

    Raises FileError for a file that is no picture.
    """
    try:
        if is_heif(path) and not _reads_heif():
            raise FileError(f"{path} is HEIC, which needs pillow-heif: pip install pillow-heif.")
        with Image.open(path) as image:
            pixels = _pixels(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # cut off, damaged, huge
        raise FileError(f"{path} is not an image that can be read: {error}.") from error
    pixels = torch.from_numpy(pixels).float() / 255
    return pixels if pixels.shape[-1] == 3 or pixels[..., 3].min() < 1 else pixels[..., :3]


def read_mask(path: Path) -> Tensor:
    """(H, W) in 0..1: how light each pixel is, or how opaque where something is transparent."""
    pixels = read_image(path)
    return pixels.mean(dim=-1) if pixels.shape[-1] == 3 else pixels[..., 3]


def _pixels(image: Image.Image) -> np.ndarray:
    """(H, W, 3), or (H, W, 4) for a picture with alpha, or with a color that is transparent."""
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info
    return np.array(_in_8_bits(image).convert("RGBA" if has_alpha else "RGB"))


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
