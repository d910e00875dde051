"""The optimizer of a training: gradients of a step come in, are cut to a norm, and change what is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import DivergedError
from ..models.backbone import Backbone
from .config import TrainingConfig
from .optimizer_kinds import GROUP_STATE, make_optimizer
from .schedule import rate_factor
from .state import group_tensors, load_group_tensors, load_optimizer_tensors, optimizer_tensors
from .workers import ALONE, Workers


def mean_of(passes: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Average what several batches of a step measured, by name, () each; each name over the batches that have it."""
    names = dict.fromkeys(name for one in passes for name in one)
    return {name: torch.stack([one[name].detach() for one in passes if name in one]).mean() for name in names}


class Optimizer:
    """The chosen optimizer with the loss scale of mixed precision, which does nothing where nothing is in fp16.

    groups: as torch.optim takes them, with the highest learning rates. config: says which optimizer, how the rates go,
    how many gradients are added up for a step, how they are cut, and whether an average of what is trained is kept.
    workers: those that train together, over which gradients and what was measured are averaged. hold: called after each
    step; puts back, in place, what has left its bounds. Raises SettingError where the optimizer's package is missing.
    """

    def __init__(
        self,
        groups: list[dict],
        backbone: Backbone,
        config: TrainingConfig,
        workers: Workers = ALONE,
        hold: Callable[[], None] = lambda: None,
    ):
        self.optimizer = make_optimizer(config.optimizer, groups)
        self.config, self.workers, self.hold = config, workers, hold
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.average = [p.detach().clone() for p in self._trained()] if config.ema_decay else []
        self.scaler = torch.amp.GradScaler(backbone.device.type, enabled=backbone.compute_dtype == torch.float16)

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients to those of the step, of which it is one of `gradient_accumulation` parts."""
        self.scaler.scale(loss / self.config.gradient_accumulation).backward()

    def step(self, number: int, measured: Mapping[str, Tensor]) -> dict[str, float]:
        """Take one step along the gradients; then they are gone.

        number: of the step, from 1, for the error. measured: what the step measured, () each; returned as numbers, read
        from the device once. Raises DivergedError before anything is changed.
        """
        config = self.config
        factor = rate_factor(number - 1, config.steps, config.warmup_steps, config.lr_scheduler)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        trained = [p for p in self._trained() if p.grad is not None]
        means = [value.detach().float() for value in measured.values()]
        self.workers.average([*(p.grad for p in trained), *means])
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
        *numbers, length = torch.stack([*means, norm]).tolist()
        if not all(map(math.isfinite, numbers)) or not (self.scaler.is_enabled() or math.isfinite(length)):
            raise DivergedError(number)
        self.scaler.step(self.optimizer)  # leaves out a step whose half-precision gradients overflowed
        self.scaler.update()
        if self.scaler.get_scale() < 1:  # halved again and again: half precision overflows in every step
            raise DivergedError(number)
        self.optimizer.zero_grad(set_to_none=True)
        self.hold()
        self._follow(number)  # behind it: the average of what is within convex bounds is within them
        return dict(zip(measured, numbers, strict=True))

    def _trained(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @torch.no_grad()
    def _follow(self, number: int) -> None:
        """Move the average towards what is trained, exponentially, quickly at the start."""
        if self.average:
            decay = min(self.config.ema_decay, number / (number + 9))
            torch._foreach_lerp_(self.average, [p.detach() for p in self._trained()], 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, what is trained is its average over the last steps, where one is kept; what is learned stays."""
        average = self._own_average() if self.config.optimizer == "schedulefree" else self.average
        pairs = list(zip(self._trained(), average, strict=False))
        kept = [p.data for p, _ in pairs]
        for parameter, value in pairs:
            parameter.data = value
        try:
            yield
        finally:
            for (parameter, _), own in zip(pairs, kept, strict=True):
                parameter.data = own

    def _own_average(self) -> list[Tensor]:
        """Return x of arXiv 2405.15682: what is trained is y = (1 - beta)*z + beta*x; nothing before the first step."""
        found = []
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                z = self.optimizer.state[p].get("z", p.detach())
                found.append(p.detach().lerp(z, 1 - 1 / group["betas"][0]))
        return found

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
        average = {f"average.{number}": tensor.clone() for number, tensor in enumerate(self.average)}
        groups = group_tensors(self.optimizer, GROUP_STATE[self.config.optimizer])
        return {**optimizer_tensors(self.optimizer), **groups, **scale, **average}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave; other names are passed over. Learning rates stay."""
        load_optimizer_tensors(self.optimizer, state)
        load_group_tensors(self.optimizer, GROUP_STATE[self.config.optimizer], state)
        for number, tensor in enumerate(self.average):
            tensor.copy_(state[f"average.{number}"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict({key: state[f"scaler.{key}"].item() for key in self.scaler.state_dict()})
