"""The one loop of every training: a generator that yields what each step measured.

Whoever iterates it owns progress, previews, cancelling and saving; closing it puts the model back.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

#: Measured for comparisons alone: how large the score's difference is, and how far the empty prompt has moved, say
#: nothing of how a training goes.
UNSHOWN = ("score_gap", "null_prior")


class Step(NamedTuple):
    """What one step measured."""

    index: int  # from 0
    sigma: float  # mean noise level of the batch, latent units
    losses: dict[str, float]  # by name: denoising_loss, score_gap, regularization
    subject: str = ""  # the placeholder of the subject that was drawn; empty where a word is all that is learned

    @property
    def shown(self) -> dict[str, float]:
        """Return what is shown to whoever trains."""
        return {name: value for name, value in self.losses.items() if name not in UNSHOWN}


class Learned(Protocol):
    """What a training has learned."""

    steps: int  # optimisation steps behind it


Result = TypeVar("Result", bound=Learned, covariant=True)


class Learner(Protocol[Result]):
    """What changes from step to step: weights, optimizer, random numbers. It lives while the model is being trained."""

    #: Steps taken until now.
    done: int

    def step(self) -> Step:
        """Take one step. Raises DivergedError; the weights are those before that step."""

    def state(self) -> dict[str, Tensor]:
        """Name everything that the next step depends on."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""

    def result(self) -> Result:
        """Copy what has been learned until now."""


class Method(Protocol[Result]):
    """A way to learn, with its input checked and its settings."""

    #: Settings; `steps` is one of them.
    config: object

    def learning(self) -> AbstractContextManager[Learner[Result]]:
        """Make the model ready and give the learner; inside, the model is trained, and at the end it is put back."""


class Training(Generic[Result]):
    """One training of a method: iterate `steps()`, then take `result`."""

    def __init__(self, method: Method[Result]):
        self.method = method
        #: What was learned, once the iteration has ended, was closed or has failed.
        self.result: Result | None = None
        #: What to go on from, once the iteration has ended, early or not; None where it could not be copied.
        self.state: dict[str, Tensor] | None = None
        #: Why there is no result of a training that has failed: a second fault, as of a device that is lost.
        self.lost: Exception | None = None
        self._learner: Learner[Result] | None = None

    @property
    def learner(self) -> Learner[Result]:
        """While `steps()` is being iterated: what learns. Raises RuntimeError before and after."""
        if self._learner is None:
            raise RuntimeError("there is no training under way: ask between two steps of `steps()`.")
        return self._learner

    def steps(self, state: Mapping[str, Tensor] | None = None) -> Generator[Step, None, None]:
        """Train. The model is put back when the iteration ends, is closed or fails.

        state: `learner.state()` of an unfinished training of the same method, to go on from; the result is that of a
        training that was never interrupted. Raises DivergedError; `result` then holds what was learned before.
        """
        if torch.is_inference_mode_enabled():
            raise RuntimeError("training needs gradients: call it inside torch.inference_mode(False).")
        with self.method.learning() as learner:
            self._learner = learner
            if state is not None:
                learner.load_state(state)
            try:
                while learner.done < self.method.config.steps:
                    yield learner.step()
            except GeneratorExit:  # closed by whoever iterates: no fault
                self._rescue(learner)
                if self.lost is not None:
                    raise self.lost from None
                raise
            except BaseException:
                self._rescue(learner)
                raise
            else:
                self.result, self.state = learner.result(), _on_the_cpu(learner.state())
            finally:
                self._learner = None

    def _rescue(self, learner: Learner[Result]) -> None:
        """Copy what was learned before a fault, or note why that fails: the first fault is the one to be told."""
        try:
            self.result, self.state = learner.result(), _on_the_cpu(learner.state())
        except Exception as error:
            self.lost = error


def _on_the_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state that takes no memory of the card from whoever works there next."""
    return {name: tensor.cpu() for name, tensor in state.items()}


@contextmanager
def closing(steps: Generator[Step, None, None]) -> Iterator[Generator[Step, None, None]]:
    """Close the iteration in the end. A fault of whoever iterates is the one to be told, whatever closing raises."""
    try:
        yield steps
    except BaseException:
        try:
            steps.close()
        except Exception as error:
            logging.warning("the training could not be closed: %s", error)
        raise
    steps.close()
