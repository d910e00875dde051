"""The state of a training as tensors by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Name what an optimizer keeps of each parameter: moments and step counts; nothing before the first step."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states = {number: optimizer.state[p] for number, p in enumerate(parameters) if p in optimizer.state}
    return {f"optimizer.{n}.{key}": _tensor(value) for n, state in states.items() for key, value in state.items()}


def _tensor(value: Tensor | int) -> Tensor:
    """Make a tensor of a number. What several parameters share is copied: a file keeps each by itself."""
    return value.clone() if isinstance(value, Tensor) and value.ndim < 2 else torch.as_tensor(value)


def _kept(tensor: Tensor) -> Tensor | int:
    """Make a number again of what was one: AdamW counts its steps in float32."""
    return tensor.item() if tensor.ndim == 0 and tensor.dtype == torch.int64 else tensor


def group_tensors(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, Tensor]:
    """Name numbers of an optimizer's groups, () each: float64, which holds a step count, too."""
    groups = enumerate(optimizer.param_groups)
    return {
        f"group.{n}.{name}": torch.tensor(float(group[name]), dtype=torch.float64)
        for n, group in groups
        for name in names
    }


def load_group_tensors(optimizer: torch.optim.Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    """Take over what `group_tensors` gave."""
    for number, group in enumerate(optimizer.param_groups):
        for name in names:
            group[name] = type(group[name])(tensors[f"group.{number}.{name}"].item())


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The opposite of `optimizer_tensors`; other names are passed over. Learning rates stay."""
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".")
            states.setdefault(int(number), {})[key] = _kept(value)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
