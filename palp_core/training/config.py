"""The settings that every training has."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import SettingError
from ..models.backbone import Backbone
from ..settings import check_settings, setting
from .optimizer_kinds import OptimizerName
from .schedule import Scheduler

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
    gradient_accumulation: int = setting(
        1,
        "Adds up the gradients of so many batches before each step: as a batch so many times as large, in the memory "
        "of one, and as much slower.",
        usual="1 to 8",
        low=1,
        high=64,
        step=1,
    )
    warmup_steps: int = setting(
        0,
        "Raises the learning rates from nothing in the first so many steps.",
        usual="0 to 100",
        low=0,
        high=10_000,
        step=1,
    )
    lr_scheduler: Scheduler = setting(
        "constant",
        "Keeps the learning rates to the end, or lets them fall to nothing in a line or in half a cosine; a training "
        "whose rates fall does not go on with more steps.",
    )
    flip: bool = setting(
        False,
        "Learns each photo mirrored as well; leave it off for text, and for subjects whose left and right differ.",
    )
    optimizer: OptimizerName = setting(
        "adamw",
        "Turns gradients into steps; adamw8bit takes less memory, prodigy finds the learning rates itself, and "
        "schedulefree saves an average of its steps. These three need a package: bitsandbytes, prodigyopt or "
        "schedulefree.",
    )
    ema_decay: float = setting(
        0.0,
        "Saves an average over about the last 1 / (1 - ema_decay) steps in place of the last step; 0 does not.",
        usual="0 or 0.98 to 0.995",
        low=0,
        high=0.9999,
        step=0.005,
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

        if self.optimizer == "schedulefree" and self.ema_decay:
            raise SettingError(
                f"optimizer is schedulefree, which saves an average of its own, but ema_decay is {self.ema_decay}. Set "
                "it to 0, or choose another optimizer."
            )

    def resolution_for(self, backbone: Backbone) -> int:
        """Return the side of a square of the area that images are brought to, pixels."""
        return self.resolution or backbone.native_resolution
