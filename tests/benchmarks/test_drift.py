"""How far a training moves what the model says for the empty prompt."""

from __future__ import annotations

import pytest
import torch

from benchmarks.toyworld.drift import Drift, base_pictures, distances, drift, lines
from benchmarks.toyworld.training import lora_training
from palp_core.toyworld.scenes import new_individual
from palp_core.toyworld.world import load_world


def test_drift_is_told_as_shares_of_what_the_target_prompt_moved(run, small):
    moved = torch.tensor([[[1.0, 2.0, 4.0]] * 5, [[1.0, 2.0, 4.0]] * 5])
    assert next(lines(moved, scale=2.0)) == "10% | 0.250 ± 0.000 | 0.500 ± 0.000 | 0.125 ± 0.000"
    with pytest.raises(SystemExit, match="base: no LoRA is trained"):
        run("drift", "--methods", "base")


def test_what_is_not_trained_yet_has_not_moved_and_what_is_trained_has(small):
    """A word begins as its class word, and the LoRA as nothing."""
    world = load_world("cpu")
    (cell,) = Drift(("ti_db",), "test", 1, steps=3, pictures=2).cells("ti_db")
    pictures = base_pictures(world, cell)
    with lora_training(world, cell, new_individual(11, "cat")).method.learning() as learner:
        assert distances(world, learner, pictures).max() < 1e-5
    moved = drift(world, cell)
    assert moved.shape == (5, 3) and (moved > 1e-4).all()
    assert moved[:, 2].mean() > moved[:, 0].mean()
