"""The host's dynamic VRAM, which streams weights to the card, in the test process: PALP_TEST_DYNAMIC_VRAM=1."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

VARIABLE = "PALP_TEST_DYNAMIC_VRAM"


def is_wanted() -> bool:
    """Say whether tests are to run with it."""
    return os.environ.get(VARIABLE) == "1"


def switch_on() -> None:
    """Let the host stream weights, as its main.py does before the first model. Raises RuntimeError without a GPU."""
    import comfy_aimdo.control
    from comfy.cli_args import args

    comfy_aimdo.control.init(nvml_pressure=not args.disable_nvml_pressure)
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher

    headroom = int(args.vram_headroom * 1024**3)
    devices = comfy.model_management.get_all_torch_devices()
    if not comfy_aimdo.control.init_devices((device.index, headroom) for device in devices):
        raise RuntimeError("comfy-aimdo finds no GPU that it can stream weights to.")
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True


@contextmanager
def weights_at_once() -> Iterator[None]:
    """Let the host make modules with their weights in them; with dynamic VRAM it does so at loading only."""
    if not is_wanted():
        yield
        return
    import comfy.memory_management as memory

    before, memory.aimdo_enabled = memory.aimdo_enabled, False
    try:
        yield
    finally:
        memory.aimdo_enabled = before


def patcher_of(model: nn.Module, load_device: torch.device | None = None, whole: nn.Module | None = None):
    """Return the host's patcher of a module; where weights are streamed, it can make a plain one, as a loader's can.

    whole: the same module once more, for the plain one; by default a copy, which quantized weights do not bear.
    """
    import comfy.model_management
    import comfy.model_patcher as patchers

    device = load_device or comfy.model_management.get_torch_device()
    places = {"load_device": device, "offload_device": torch.device("cpu")}
    if not is_wanted():
        return patchers.ModelPatcher(model, **places)
    if whole is None:
        config = getattr(model, "model_config", None)  # it has None for any attribute, which copying does not bear
        whole = copy.deepcopy(model, {id(config): config})
    patcher = patchers.CoreModelPatcher(model, **places)
    patcher.cached_patcher_init = (lambda disable_dynamic=False: patchers.ModelPatcher(whole, **places), ())
    return patcher
