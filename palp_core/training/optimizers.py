"""The optimizer of a training: gradients of a step come in, are cut to a norm, and change what is trained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import DivergedError
from ..models.backbone import Backbone
from .state import load_optimizer_tensors, optimizer_tensors


class Optimizer:
    """AdamW with the loss scale of mixed precision, which does nothing where the model does not compute in fp16.

    groups: as torch.optim takes them. max_grad_norm: of the gradients of all that is trained together.
    """

    def __init__(self, groups: list[dict], backbone: Backbone, max_grad_norm: float):
        self.optimizer = torch.optim.AdamW(groups)
        self.max_grad_norm = max_grad_norm
        self.scaler = torch.amp.GradScaler(backbone.device.type, enabled=backbone.compute_dtype == torch.float16)

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients to those of the step."""
        self.scaler.scale(loss).backward()

    def step(self, number: int, measured: Mapping[str, Tensor]) -> dict[str, float]:
        """Take one step along the gradients; then they are gone.

        number: of the step, from 1, for the error. measured: what the step measured, () each; returned as numbers, read
        from the device once. Raises DivergedError before anything is changed.
        """
        self.scaler.unscale_(self.optimizer)
        trained = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(trained, self.max_grad_norm)
        *numbers, length = torch.stack([*(value.detach().float() for value in measured.values()), norm]).tolist()
        if not all(map(math.isfinite, numbers)) or not (self.scaler.is_enabled() or math.isfinite(length)):
            raise DivergedError(number)
        self.scaler.step(self.optimizer)  # leaves out a step whose half-precision gradients overflowed
        self.scaler.update()
        if self.scaler.get_scale() < 1:  # halved again and again: half precision overflows in every step
            raise DivergedError(number)
        self.optimizer.zero_grad(set_to_none=True)
        return dict(zip(measured, numbers, strict=True))

    @contextmanager
    def undone_on_failure(self, *randoms: torch.Generator) -> Iterator[None]:
        """Inside, a step that fails or is cancelled leaves no gradients, and its random numbers come again."""
        before = [random.get_state() for random in randoms]
        try:
            yield
        except BaseException:
            for random, state in zip(randoms, before, strict=True):
                random.set_state(state)
            self.optimizer.zero_grad(set_to_none=True)
            raise

    def state(self) -> dict[str, Tensor]:
        """Name everything that the next step depends on."""
        scale = {f"scaler.{key}": torch.tensor(value) for key, value in self.scaler.state_dict().items()}
        return {**optimizer_tensors(self.optimizer), **scale}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave; other names are passed over. Learning rates stay."""
        load_optimizer_tensors(self.optimizer, state)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict({key: state[f"scaler.{key}"].item() for key in self.scaler.state_dict()})
