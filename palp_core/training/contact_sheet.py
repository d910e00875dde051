"""Pictures side by side, each under its title."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .chart import rendered

COLUMNS = 4
TILE = 3.2  # inches, of 100 pixels
TITLE = 0.35


def contact_sheet(pictures: Mapping[str, Tensor]) -> Tensor:
    """Lay out titled pictures (H, W, 3) in 0..1, four in a row; (H', W', 3). Without any, one white square."""
    if not pictures:
        return torch.ones(64, 64, 3)
    columns = min(COLUMNS, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    figure = Figure(figsize=(columns * TILE, rows * (TILE + TITLE)), dpi=100, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for place in axes:
        place.set_axis_off()
    for place, (title, picture) in zip(axes, pictures.items(), strict=False):
        place.imshow(picture.numpy())
        place.set_title(title, fontsize=11)
    return rendered(figure)
