"""What one layer that attends to the prompt did in one run of the network."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class LayerAttention(NamedTuple):
    """Holds one layer's maps, and what it knows of each place."""

    maps: Tensor  # (R, K, h, w): the share of its attention that each place gives to each kept token
    features: Tensor | None  # (R, h*w, C): of each place, where they were asked for
