"""Direct Consistency Optimization (arXiv 2402.12004; github.com/kyungmnlee/dco, customize.py).

With F what the network predicts, F_target what it should, and c_P the photo's prompt with the class word, of which the
base model learned no other:

    L = -log sigmoid(-beta * (|F_theta(x_t, y_P) - F_target|^2 - |F_pre(x_t, c_P) - F_target|^2))

A photo that is told better than the base model tells it counts less and less. The paper has one such term for each
photo; the authors' code takes the mean over a batch before the sigmoid, and so does this.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from palp_core.methods.personalization_learner import PersonalizationLearner

from .training import Rival, Sample


@dataclass(frozen=True)
class Dco(Rival):
    """Learns a photo until it is told better than by the base model."""

    #: The authors' default; they have 1000 to 2000.
    beta: float = 1000.0

    def loss(self, sample: Sample) -> Tensor:
        ours = sample.error(sample.personalized(sample.photo), sample.x0)
        theirs = sample.error(sample.base(sample.class_photo), sample.x0)
        return -F.logsigmoid(-self.beta * (ours - theirs))

    def prepared(self, learner: PersonalizationLearner) -> AbstractContextManager[None]:
        return nullcontext()
