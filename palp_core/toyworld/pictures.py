"""Scenes as pictures in the form that personalization takes them in."""

from __future__ import annotations

import torch
from torch import Tensor

from .drawing import render
from .scenes import Individual, Scene, reference_scenes


def picture(scene: Scene) -> Tensor:
    """Render a scene, (64, 64, 3) in 0..1."""
    return torch.from_numpy(render(scene)).float() / 255


def photos(individual: Individual, count: int = 4) -> tuple[Tensor, ...]:
    """Render the reference photos, (64, 64, 3) in 0..1 each; count: 1 to 4."""
    return tuple(picture(scene) for scene in reference_scenes(individual, count))
