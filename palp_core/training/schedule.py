"""How a training's learning rates go: they rise in the first steps, and may fall to the end."""

from __future__ import annotations

import math
from typing import Literal

Scheduler = Literal["constant", "linear", "cosine"]


def rate_factor(step: int, steps: int, warmup_steps: int, scheduler: Scheduler) -> float:
    """Scale the learning rates of the step of this number, from 0, of so many; in 0..1.

    They rise linearly in the first `warmup_steps`; then they stay (constant), or fall to nothing at the end, in a line
    or in half a cosine (arXiv 1608.03983, eq. 5, without restarts).
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    left = (steps - step) / max(1, steps - warmup_steps)
    return {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}[scheduler]
