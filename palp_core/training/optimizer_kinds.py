"""The optimizers to choose from. All but AdamW are packages of their own, imported when they are chosen."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Literal

import torch

from ..errors import SettingError

OptimizerName = Literal["adamw", "adamw8bit", "prodigy", "schedulefree"]

#: Whose package each is.
PACKAGES: dict[OptimizerName, str] = {
    "adamw8bit": "bitsandbytes",
    "prodigy": "prodigyopt",
    "schedulefree": "schedulefree",
}
#: Bytes that each keeps of a number that is trained: moments, and where it started.
KEPT_BYTES: dict[OptimizerName, int] = {"adamw": 8, "adamw8bit": 2, "prodigy": 16, "schedulefree": 8}
#: What of a group changes from step to step, besides its learning rate.
GROUP_STATE: dict[OptimizerName, tuple[str, ...]] = {
    "adamw": (),
    "adamw8bit": (),
    "prodigy": ("k", "d", "d_max", "d_numerator"),
    "schedulefree": ("k", "weight_sum", "lr_max"),
}


def check_optimizer(name: OptimizerName) -> None:
    """Raise SettingError for an optimizer whose package is missing or broken."""
    if name in PACKAGES:
        _package(name)


def _package(name: OptimizerName) -> ModuleType:
    package = PACKAGES[name]
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise SettingError(
                f"optimizer is {name}, but its package {package} lacks {error.name}. {_REMEDY}"
            ) from error
        raise SettingError(
            f"optimizer is {name}, which the package {package} brings, and that is not installed. Run python -m pip "
            f"install {package} with the Python that trains, and start again; or choose adamw."
        ) from error
    except Exception as error:  # packages with libraries of their own fail in many ways
        raise SettingError(
            f"optimizer is {name}, but its package {package} does not work: {error}. {_REMEDY}"
        ) from error


_REMEDY = "Install it anew, or choose adamw."


def make_optimizer(name: OptimizerName, groups: list[dict]) -> torch.optim.Optimizer:
    """Make an optimizer of groups as torch.optim takes them. Raises SettingError as `check_optimizer` does.

    adamw: arXiv 1711.05101. adamw8bit: its moments in 8 bits each (arXiv 2110.02861). prodigy: finds the learning rate
    (arXiv 2306.06101), so that those of the groups are not read. schedulefree: AdamW whose steps are averaged (arXiv
    2405.15682).
    """
    if name == "adamw8bit":
        return _package(name).optim.AdamW8bit(groups)
    if name == "prodigy":
        groups = [{**group, "lr": 1.0} for group in groups]
        return _package(name).Prodigy(groups, use_bias_correction=True, safeguard_warmup=True)
    if name == "schedulefree":
        optimizer = _package(name).AdamWScheduleFree(groups)
        optimizer.train()
        return optimizer
    return torch.optim.AdamW(groups)
