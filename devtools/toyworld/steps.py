"""Steps of a training: their random numbers and learning rates, the optimizer's part, and checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from palp_core.files.safetensors_file import save_tensors
from palp_core.training.state import load_optimizer_tensors, optimizer_tensors

SAVE_EVERY = 250  # steps
MAX_GRAD_NORM = 1.0


def step_generators(seed: int, stage: int, steps: range) -> Iterator[tuple[int, np.random.Generator, torch.Generator]]:
    """Give each step random numbers that depend on it alone, so that a resumed training is the same training."""
    for step in steps:
        yield (
            step,
            np.random.default_rng((seed, stage, step)),
            torch.Generator().manual_seed((seed << 40) + (stage << 32) + step),
        )


def learning_rate_factor(step: int, steps: int, warmup: int, cooldown: float) -> float:
    """Scale the learning rate: up, level, and linearly down to 0 at the end."""
    return min(1.0, (step + 1) / warmup, (steps - step) / max(1.0, cooldown * steps))


def take_step(optimizer: torch.optim.Optimizer, loss: Tensor, rate: float, max_grad_norm: float = math.inf) -> None:
    """Change what the optimizer trains, once, along the gradients of the loss."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    optimizer.step()


def save_checkpoint(file: Path, step: int, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
    """Write the modules and the optimizer, as they are before this step."""
    tensors = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    save_tensors(file, {**tensors, **optimizer_tensors(optimizer), "step": torch.tensor(step)})


def load_checkpoint(file: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> int:
    """Load a checkpoint and return the step to go on with: 0 where there is none."""
    if not file.exists():
        return 0
    tensors = load_file(file)
    for name, module in modules.items():
        module.load_state_dict({k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")})
    load_optimizer_tensors(optimizer, tensors)
    return int(tensors["step"])
