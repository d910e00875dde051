"""Directional Textual Inversion (arXiv 2512.13672; github.com/kunheek/dti, optim.py): a word learns a direction alone.

With m the word's length, which stays, v its direction and mu where it started, each step goes along the sphere:

    g   = m * dL/de - kappa * mu        e = m*v; the second term is the von Mises-Fisher prior
    g_t = g - <g, v> v
    v'  = v - rate * g_t / |g_t|,       then v' / |v'|

The authors' length is the vocabulary's mean. Here it is the class word's, as what is held in Textual Inversion: most of
this world's vocabulary is in no use, and short.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from palp_core.methods.textual_inversion import LearnedWord, TextualInversion, TextualInversionLearner
from palp_core.training.loop import Training

#: The authors' concentration of the prior.
KAPPA = 1e-4
EPS = 1e-8


class OnSphere(torch.optim.Optimizer):
    """Turns each row of what is trained by `lr`, in radians to first order, and leaves its length as it is."""

    def __init__(self, groups: list[dict], kappa: float = KAPPA):
        super().__init__(groups, {"kappa": kappa})
        for row in (row for group in self.param_groups for row in group["params"]):
            length = row.detach().norm(dim=-1, keepdim=True)
            self.state[row] = {"length": length, "start": row.detach() / length}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Take a step of each row that has a gradient."""
        for group in self.param_groups:
            for row in (row for row in group["params"] if row.grad is not None):
                length, start = self.state[row]["length"], self.state[row]["start"]
                direction = row / length
                gradient = row.grad * length - group["kappa"] * start
                gradient -= (gradient * direction).sum(dim=-1, keepdim=True) * direction
                direction -= group["lr"] * gradient / (gradient.norm(dim=-1, keepdim=True) + EPS)
                row.copy_(length * direction / direction.norm(dim=-1, keepdim=True))


def directional_training(method: TextualInversion) -> Training[LearnedWord]:
    """Prepare a training of a word's direction on the concept and settings of a method."""
    return Training(_DirectionalMethod(method))


class _DirectionalMethod:
    def __init__(self, method: TextualInversion):
        self.method, self.config = method, method.config

    @contextmanager
    def learning(self) -> Iterator[TextualInversionLearner]:
        with self.method.learning() as learner:
            learner.optimizer.optimizer = OnSphere(learner.optimizer.optimizer.param_groups)
            yield learner
