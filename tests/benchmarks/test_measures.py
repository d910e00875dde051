"""What is measured beside the rows: heat maps against masks, scores against each other, captions of looks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.toyworld import looks, pairs, scores
from benchmarks.toyworld.heatmaps import ROLES, full_scenes, look, overlap, separation
from benchmarks.toyworld.layers import ALL, by_layer
from palp_core.toyworld.scenes import new_individual
from palp_core.toyworld.world import PAPERS_ALIGNMENT, load_world


def test_overlap_is_that_of_hot_places_and_mask():
    heat, mask = torch.tensor([[0.9, 0.1], [0.8, 0.0]]), np.array([[1.0, 1.0], [0.0, 0.0]])
    assert overlap(heat, mask, 0.5) == pytest.approx(1 / 3)
    assert overlap(heat, mask, 0.05) == pytest.approx(2 / 3)


def test_separation_is_the_share_of_pairs_in_the_right_order():
    mask = np.array([[1.0, 1.0], [0.0, 0.0]])
    assert separation(torch.tensor([[0.9, 0.5], [0.5, 0.0]]), mask) == pytest.approx((2 + 1.5) / 4)
    assert separation(torch.zeros(2, 2), mask) == 0.5


def test_words_look_at_what_they_name():
    world = load_world("cpu")
    looked = [look(world, scene) for scene in full_scenes(12, 6)]
    for role in ("subject", "accessory", "place"):
        assert np.mean([separation(one.heat[role], getattr(one.picture, role)) for one in looked]) > 0.75, role


def test_all_layers_of_the_transformer_together_find_a_subject():
    world = load_world("cpu", "transformer")
    found = [by_layer(world, scene) for scene in full_scenes(6, 6)]
    assert len(found[0]) == 5  # four layers in which picture and prompt are together, and all of them
    assert np.mean([areas[ALL][ROLES.index("subject")] for areas in found]) > 0.85


def test_scores_are_compared_on_one_and_the_same_noisy_photo(monkeypatch, capsys, run):
    monkeypatch.setattr(scores, "LEVELS", (0.5,))
    monkeypatch.setitem(scores.OTHERS, "itself", PAPERS_ALIGNMENT)
    monkeypatch.setitem(pairs.INDIVIDUALS, "test", pairs.INDIVIDUALS["test"][:2])
    run("scores", "--steps", 1, "--every", 1, "--noises", 2)
    sds, nfsd, fresh, itself = (float(cell.split("±")[0]) for cell in capsys.readouterr().out.split("|")[-5:-1])
    assert itself == 1 and max(sds, nfsd, fresh) < 1
    assert fresh < sds  # another noise is another picture


def test_looks_are_told_in_words_and_in_one_token(monkeypatch, capsys, run, small):
    monkeypatch.setitem(pairs.INDIVIDUALS, "test", (("cat", 11), ("mug", 12)))  # an error takes two
    who = new_individual(11, "cat")
    assert looks.NAMES["one token"](who, who).count("+") == 4
    assert looks.NAMES["words apart"](who, who).split()[-1] == looks.NAMES["class"](who, who) == "cat"
    run("looks", "--scenes", 24, "--pictures", 1)
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    error = {name.strip(): float(error.split("±")[0]) for _, name, error, *_ in lines}
    assert error["words apart"] < error["one token"] < error["class"] < error["another's token"]
