"""Pictures side by side, each under its title."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

COLUMNS = 4
#: Pixels: the side of a picture's place, the line above it for its title, and what stays free between two places.
TILE, TITLE, GAP = 310, 30, 10
LETTERS = 15
#: Enlarged so much, a picture shows its own pixels; else it is smooth.
MUCH = 3


def contact_sheet(pictures: Mapping[str, Tensor]) -> Tensor:
    """Lay out titled pictures (H, W, 3) in 0..1, four in a row; (H', W', 3). Without any, one white square."""
    if not pictures:
        return torch.ones(64, 64, 3)
    columns = min(COLUMNS, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * (TILE + GAP), rows * (TITLE + TILE + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (title, picture) in enumerate(pictures.items()):
        row, column = divmod(number, columns)
        left, top = column * (TILE + GAP) + GAP // 2, row * (TITLE + TILE + GAP) + GAP // 2
        draw.text((left + TILE / 2, top + TITLE / 2), title, fill="black", font=_font(), anchor="mm")
        fitted = _fitted(picture)
        sheet.paste(fitted, (left + (TILE - fitted.width) // 2, top + TITLE + (TILE - fitted.height) // 2))
    return torch.from_numpy(np.array(sheet)).float() / 255


def _fitted(picture: Tensor) -> Image.Image:
    """As large as its place has room for."""
    image = Image.fromarray((picture.clamp(0, 1) * 255).round().byte().numpy())
    scale = TILE / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return image.resize(size, Image.Resampling.NEAREST if scale >= MUCH else Image.Resampling.LANCZOS)


@cache
def _font() -> ImageFont.FreeTypeFont:
    """Of the charts, too; it comes with matplotlib."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), LETTERS)
