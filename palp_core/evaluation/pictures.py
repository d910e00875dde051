"""Pictures as judges see them, and as a report shows them."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from torch import Tensor

from ..files.images import read_image

SMALL = 256  # pixels, the longer side of a picture in a report
QUALITY = 88  # of its JPEG, in percent


def read_picture(file: Path) -> Tensor:
    """Read (H, W, 3) in 0..1, what is transparent on white. Raises FileError for a file that is no picture."""
    pixels = read_image(file)
    if pixels.shape[-1] == 3:
        return pixels
    color, alpha = pixels[..., :3], pixels[..., 3:]
    return color * alpha + 1 - alpha


def small_jpeg(picture: Tensor) -> bytes:
    """Write a picture, (H, W, 3) in 0..1, as a JPEG of at most 256 pixels."""
    image = Image.fromarray((picture * 255).round().byte().numpy())
    image.thumbnail((SMALL, SMALL), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=QUALITY)
    return stream.getvalue()
