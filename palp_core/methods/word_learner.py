"""What every training of a word alone does, whatever the word is made of: steps, progress, overlays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..models.backbone import Backbone
from ..training.config import TrainingConfig
from ..training.data import Example
from ..training.loop import Step
from ..training.optimizers import Optimizer, mean_of
from ..training.workers import ALONE, Workers
from .concept import Concept
from .overlay import overlays


class WordLearner(ABC):
    """A word while it learns: what changes from step to step.

    trained: all that learns, by the names it is kept under. workers: this process among those that share out batches.
    hold: as `Optimizer` takes it.
    """

    def __init__(
        self,
        backbone: Backbone,
        concept: Concept,
        config: TrainingConfig,
        examples: list[Example],
        trained: Mapping[str, nn.Parameter],
        weight_decay: float = 0.0,
        workers: Workers = ALONE,
        hold: Callable[[], None] = lambda: None,
    ):
        self.backbone, self.concept, self.config = backbone, concept, config
        self.examples, self.trained, self.workers = examples, dict(trained), workers
        self.done = 0
        self.random = torch.Generator().manual_seed(config.seed)
        group = {"params": [*self.trained.values()], "lr": config.learning_rate, "weight_decay": weight_decay}
        self.optimizer = Optimizer([group], backbone, config, workers, hold)

    def step(self) -> Step:
        with self.optimizer.undone_on_failure(self.random):
            return self._step()

    @torch.enable_grad()
    def _step(self) -> Step:
        measured = mean_of([self._pass() for _ in range(self.config.gradient_accumulation)])
        numbers = self.optimizer.step(self.done + 1, measured)
        self.done += 1
        return Step(self.done - 1, numbers.pop("sigma"), numbers)

    @abstractmethod
    def _pass(self) -> dict[str, Tensor]:
        """Add the gradients of one batch to those of the step; returns what it measured, () each."""

    def overlays(self) -> dict[str, Tensor]:
        """Show what of each image is learned, as `Painter` says."""
        return overlays("", self.concept.images, self.examples)

    def state(self) -> dict[str, Tensor]:
        trained = {name: tensor.detach().clone() for name, tensor in self.trained.items()}
        progress = {"random": self.random.get_state(), "steps": torch.tensor(self.done)}
        return {**trained, **self.optimizer.state(), **progress}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self.trained.items():
            tensor.copy_(state[name])
        self.optimizer.load_state(state)
        self.random.set_state(state["random"])
        self.done = int(state["steps"])
