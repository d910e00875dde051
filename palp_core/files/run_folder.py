"""The state of a training between two runs of the command, to go on from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..methods.personalization import Personalization, Subject, TrainingStep
from .safetensors_file import save_tensors


@dataclass(frozen=True)
class Unfinished:
    """identity: it goes on with the same inputs only."""

    file: Path
    identity: str

    def earlier(self, resume: bool) -> tuple[dict[str, Tensor] | None, list[TrainingStep]]:
        """What to go on from, and the steps until there. Raises ValueError where that is not what the user meant."""
        if not resume and self.file.exists():
            raise ValueError(
                f"{self.file} holds an unfinished training. Go on with --resume, take another --name, or delete it."
            )
        if not resume:
            return None, []
        if not self.file.exists():
            raise ValueError(f"there is no unfinished training {self.file}. Leave out --resume.")
        with safe_open(self.file, "pt") as opened:
            found = opened.metadata()
        if found["identity"] != self.identity:
            raise ValueError(
                f"{self.file} was begun with another model, other photos, prompts or settings. Give the same, or "
                "another --name."
            )
        return load_file(self.file), [TrainingStep(*row) for row in json.loads(found["history"])]

    def save(self, run: Personalization, history: list[TrainingStep]) -> None:
        """While the run's steps are being iterated."""
        save_tensors(self.file, run.state(), {"identity": self.identity, "history": json.dumps(history)})


def run_identity(subject: Subject, run: Personalization) -> str:
    """Model, photos, prompts and settings of a run in a few letters.

    Apart from the number of steps and what only saves memory: both may be others when it goes on.
    """
    config = replace(run.config, steps=1, gradient_checkpointing=False)
    texts = [run.target_prompt, run.clean_prompt, subject.class_word, subject.personalization_prompt]
    digest = sha256(
        json.dumps([asdict(config), texts, run.backbone.prediction, str(run.backbone.compute_dtype)]).encode()
    )
    some = torch.cat([p.detach().flatten()[:4].float() for p in run.backbone.denoiser.parameters()])
    learned = subject.initial_embedding.vectors.values() if subject.initial_embedding else ()
    for tensor in (some.cpu(), *subject.images, *subject.masks, *learned):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
