"""The output preservation of ai-toolkit (github.com/ostris/ai-toolkit, extensions_built_in/sd_trainer/SDTrainer.py).

With F what the network predicts, F_target what it should, and y' the photo's caption with the class word in the place
of the trigger (diff_output_preservation) or the empty prompt (blank_prompt_preservation):

    L = |F_theta(x_t, y_P) - F_target|^2 + multiplier * |F_theta(x_t, y') - F_pre(x_t, y')|^2
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from palp_core.methods.personalization_learner import PersonalizationLearner

from .training import Rival, Sample


@dataclass(frozen=True)
class Preservation(Rival):
    """Holds the predictions for another prompt to those of the base model, on the noisy photos."""

    prompt: Literal["class_photo", "null"]
    #: The tool's default.
    multiplier: float = 1.0

    def loss(self, sample: Sample) -> Tensor:
        prompt = getattr(sample, self.prompt)
        held = sample.error(sample.personalized(prompt), sample.base(prompt))
        return sample.error(sample.personalized(sample.photo), sample.x0) + self.multiplier * held

    def prepared(self, learner: PersonalizationLearner) -> AbstractContextManager[None]:
        return nullcontext()
