"""The command that trains and judges: what is asked for, as cells."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from palp_core.errors import SettingError
from palp_core.methods.alignment import AlignmentConfig
from palp_core.methods.personalization_config import PersonalizationConfig
from palp_core.sweep.cluster import Cluster, on_ray
from palp_core.sweep.engine import Worker, in_process
from palp_core.toyworld.world import TRAINING_OF, DemoModel, ToyTraining

from . import training
from .methods import METHODS, Method, Trained, Word, at_guidance, changed, is_curve, own_settings, reads_prompt
from .pairs import INDIVIDUALS, PROMPTS, Pairs, Prompt, prompts_of_trainings
from .rows import RESULTS_OF, compute
from .training import TrainingCell
from .twin import weights_digest, world_of


@dataclass(frozen=True)
class Run:
    """Train and judge what is missing."""

    methods: tuple[Method, ...] = ("base", "ti_db", "delta", "palp")
    pairs: Pairs = "test"
    seeds: tuple[int, ...] = (0, 1, 2)
    #: Of methods that train for a prompt, only the first so many prompts of each individual; none for all.
    prompts: int | None = None
    #: One prompt for each individual, another for each.
    one_prompt_each: bool = False
    #: Only the first so many individuals; none for all.
    individuals: int | None = None
    #: Added to the methods' names, where settings below are not the usual.
    label: str = ""
    #: Other settings of the alignment branch; none for the method's.
    weight: float | None = None
    push: float | None = None
    interval: int | None = None
    null_prior: float | None = None
    alpha: float | None = None
    beta: float | None = None
    #: Other settings of the rivals; none for the method's.
    multiplier: float | None = None
    least: float | None = None
    #: Steps of a word alone, each number a training of its own; none for the method's.
    word_steps: tuple[int, ...] = ()
    #: The usual stands for what suits the model.
    training: ToyTraining = field(default_factory=ToyTraining)
    #: Which of the embedded models is trained.
    model: DemoModel = "unet"
    #: Weights of a UNet that predicts noise, of devtools/toyworld/eps_twin.py, in the place of the embedded one's.
    unet: Path | None = None
    #: Scale of guidance at which pictures are drawn; none for the world's own. The paper's alpha and beta follow it.
    guidance: float | None = None
    #: Other settings of PALP's own trainings, such as ema_decay=0.98; docs/settings.md lists them.
    set: tuple[str, ...] = ()
    #: Pictures of each prompt; none for the usual.
    pictures: int | None = None
    #: Steps at which a LoRA is judged, ascending; none for the model's own.
    steps: tuple[int, ...] = ()
    #: File of the rows; none for the model's own.
    results: Path | None = None
    #: A Ray cluster to compute on, as of `palp sweep --ray`; none for this process. Each worker takes one CPU.
    ray: str | None = None

    def run(self) -> None:
        for name in self.methods:
            self._check_settings(name)
        others = self.training != ToyTraining() or bool(self.set)
        require_label(self.label, changed=bool(self._changes()) or others)
        if self.unet and (self.model != "unet" or self.results is None):
            raise ValueError(
                "--unet takes another model's weights: give --results, a file of their own, and no --model."
            )
        executor = on_ray(self.worker, Cluster(self.ray)) if self.ray else in_process(self.worker)
        compute(self.cells(), executor, self.results or RESULTS_OF[self.model])

    def worker(self) -> Worker[TrainingCell]:
        """Load the world in which cells are measured."""
        world = world_of(self.unet, self.guidance, self.model)
        return lambda cell: training.measure(world, cell)

    def _check_settings(self, name: Method) -> None:
        """Raises ValueError for settings that would do nothing to a method."""
        method = METHODS[name]
        if without := self._changes().keys() - own_settings(method):
            raise ValueError(f"{name} has no {' or '.join(sorted(without))}.")
        if self.training != ToyTraining() and not is_curve(method):
            raise ValueError(f"{name} takes no settings of training but its own.")
        if self.set and not isinstance(method, AlignmentConfig):
            raise ValueError(f"{name} takes no --set: it is no training of ours.")
        if self.word_steps and not isinstance(method, Word):
            raise ValueError(f"{name} takes no --word-steps: it is no word alone.")

    def cells(self) -> Iterator[TrainingCell]:
        """Name all that is asked for, whether it is there or not."""
        individuals = list(enumerate(INDIVIDUALS[self.pairs]))[: self.individuals]
        for seed, (at, (class_word, number)), name in product(self.seeds, individuals, self.methods):
            for method in self._settings(METHODS[name]):
                for prompts in self._prompts(at, method):
                    who = (self.pairs, class_word, number, seed)
                    yield TrainingCell(f"{name}{self.label}", *who, prompts, method, **self._shared())

    def _shared(self) -> dict:
        """What all cells have in common."""
        return {
            "training": TRAINING_OF[self.model] if self.training == ToyTraining() else self.training,
            "model": self.model,
            "samples": self.pictures or training.SAMPLES,
            "steps": self.steps or training.STEPS_OF[self.model],
            "unet": weights_digest(self.unet) if self.unet else None,
            "guidance_scale": self.guidance,
            "settings": settings_of(self.set),
        }

    def _prompts(self, individual: int, method: Trained) -> list[tuple[Prompt, ...]]:
        """Choose the prompts of each training of an individual, which is named by its place in the list."""
        if self.one_prompt_each:
            prompts = PROMPTS[self.pairs]
            return [(prompts[individual % len(prompts)],)]
        return prompts_of_trainings(self.pairs, reads_prompt(method))[: self.prompts]

    def _settings(self, method: Trained) -> list[Trained]:
        """What is trained of a method: with the changes that concern it."""
        if isinstance(method, Word):
            return [replace(method, steps=steps) for steps in self.word_steps or (method.steps,)]
        if self.guidance is not None:
            method = at_guidance(method, self.guidance)
        return [changed(method, self._changes())] if own_settings(method) else [method]

    def _changes(self) -> dict[str, float]:
        return given(self, "weight", "push", "interval", "null_prior", "alpha", "beta", "multiplier", "least")


def given(command: object, *names: str) -> dict[str, float]:
    """Return the settings of a command that were given, of these."""
    return {name: getattr(command, name) for name in names if getattr(command, name) is not None}


def settings_of(changes: Sequence[str]) -> dict[str, Any] | None:
    """Read settings of a training from NAME=VALUE. Raises ValueError for what is none, or has a value out of range."""
    settings = {}
    for change in changes:
        name, _, value = change.partition("=")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    try:
        PersonalizationConfig(**settings)
    except (TypeError, SettingError) as error:
        raise ValueError(f"--set {' '.join(changes)}: {error}") from error
    return settings or None


def require_label(label: str, changed: bool) -> None:
    """Raise ValueError where other settings than the usual have no name of their own."""
    if changed and not label:
        raise ValueError("these settings are not the usual: give --label, a name under which their rows are kept.")
