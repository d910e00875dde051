"""Judges of toy-world pictures: small networks that name what they see and tell individuals apart.

They take the place of CLIP's text and image similarity in the paper (arXiv 2401.06105, sec. 5), and here can be checked
against the renderer: `devtools.toyworld.judges` prints how often they are right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ..files.safetensors_file import save_tensors
from . import scenes

FILE = Path(__file__).with_name("evaluators.safetensors")

#: What the attribute network names, and the answers it chooses from. None: a plain backdrop, or no accessory.
ATTRIBUTES: Mapping[str, tuple[str | None, ...]] = {
    "style": scenes.STYLES,
    "class_word": scenes.CLASSES,
    "accessory": (*scenes.ACCESSORIES, None),
    "place": (*scenes.PLACES, None),
}
IDENTITY_WIDTH = 64


@dataclass(frozen=True)
class Target:
    """Hold the elements of a prompt; None for one that it does not name."""

    style: scenes.Style | None
    class_word: scenes.ClassWord
    accessory: scenes.Accessory | None
    place: scenes.Place | None

    def prompt(self, subject: str) -> str:
        """Write the prompt. subject: what stands for it, "a cat" or "a [V]"."""
        return scenes.caption(subject, self.style, self.place, self.accessory)

    def elements(self) -> dict[str, str]:
        named = {name: getattr(self, name) for name in ATTRIBUTES}
        return {name: value for name, value in named.items() if value}


class Trunk(nn.Sequential):
    """Sees: (B, 3, 64, 64) in -1..1 -> (B, 128, 8, 8)."""

    def __init__(self) -> None:
        sizes = [(3, 32, 2), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
        layers: list[nn.Module] = []
        for inputs, outputs, stride in sizes:
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(8, outputs), nn.SiLU()]
        super().__init__(*layers)


class AttributeNet(nn.Module):
    """Names what it sees: (B, 3, 64, 64) in -1..1 -> for each attribute the logits of its answers (B, n)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.mix = nn.Sequential(nn.Flatten(), nn.Linear(128 * 16, 128), nn.SiLU(), nn.Dropout(0.2))
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(answers)) for name, answers in ATTRIBUTES.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        features = self.mix(F.avg_pool2d(self.trunk(pictures), 2))
        return {name: head(features) for name, head in self.heads.items()}


class IdentityNet(nn.Module):
    """Tells individuals apart: (B, 3, 64, 64) in -1..1 -> unit vectors (B, 64), alike for one in any style."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(128 * 16, 128), nn.SiLU(), nn.Linear(128, IDENTITY_WIDTH))

    def forward(self, pictures: Tensor) -> Tensor:
        return F.normalize(self.head(F.avg_pool2d(self.trunk(pictures), 2)), dim=-1)


class Evaluators(nn.Module):
    """Both networks, and the figures that are made of their answers. Pictures: (B, 3, 64, 64) in -1..1."""

    def __init__(self) -> None:
        super().__init__()
        self.attributes = AttributeNet()
        self.identity = IdentityNet()

    @torch.no_grad()
    def recognized(self, pictures: Tensor, target: Target) -> dict[str, Tensor]:
        """Say for each element of the target whether each picture shows it: (B,) of 0 or 1."""
        logits = self.attributes(pictures)
        return {
            name: (logits[name].argmax(dim=-1) == ATTRIBUTES[name].index(value)).float()
            for name, value in target.elements().items()
        }

    @torch.no_grad()
    def subject_alignment(self, pictures: Tensor, references: Tensor) -> Tensor:
        """Take each picture's mean cosine to the references, (R, 3, 64, 64), by their identities; (B,) in -1..1."""
        return (self.identity(pictures) @ self.identity(references).T).mean(dim=1)


def diversity(pictures: Tensor) -> float:
    """Take the mean rms difference over all pairs of pictures, (B, C, H, W) in -1..1; 0..1. Needs two pictures."""
    return float(F.pdist(pictures.flatten(1)).mean() / (2 * pictures[0].numel() ** 0.5))


def save_evaluators(evaluators: Evaluators, file: Path) -> None:
    save_tensors(file, {key: value.half() for key, value in evaluators.state_dict().items()})


def load_evaluators(file: Path = FILE) -> Evaluators:
    evaluators = Evaluators().eval().requires_grad_(False)
    evaluators.load_state_dict({key: value.float() for key, value in load_file(file).items()})
    return evaluators
