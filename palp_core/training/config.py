"""The settings that every training has."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import SettingError
from ..models.backbone import Backbone
from ..settings import check_settings, setting

SMALLEST_RESOLUTION = 64


@dataclass(frozen=True)
class TrainingConfig:
    """How a training goes, whatever it learns."""

    steps: int = setting(1000, "Trains for this many steps.", low=1, high=100_000, step=1)
    batch_size: int = setting(
        2,
        "Trains on this many images in each step; more is steadier, slower, and takes more memory.",
        usual="1 to 8",
        low=1,
        high=64,
        step=1,
    )
    resolution: int = setting(
        0,
        "Brings images to about this many pixels squared, 64 or more; 0 is the model's own resolution.",
        usual="0",
        low=0,
        high=2048,
        step=64,
    )
    gradient_checkpointing: bool = setting(
        False, "Takes far less memory for about 30 % more time. Switch it on when memory runs out."
    )
    max_grad_norm: float = setting(
        1.0,
        "Cuts the gradient of all that is trained to this length.",
        usual="1",
        low=0,
        open=True,
        high=1000,
        step=0.1,
    )
    seed: int = setting(
        0,
        "Fixes everything that is random: the same seed gives the same result on one machine, on a GPU up to rounding.",
        low=0,
        high=2**63 - 1,
        step=1,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if 0 < self.resolution < SMALLEST_RESOLUTION:
            raise SettingError(
                f"resolution is {self.resolution}; it must be 0 (the model's own) or {SMALLEST_RESOLUTION} or more."
            )

    def resolution_for(self, backbone: Backbone) -> int:
        """Return the side of a square of the area that images are brought to, pixels."""
        return self.resolution or backbone.native_resolution
