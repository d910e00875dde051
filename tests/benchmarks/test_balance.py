"""Ways to draw a trained model: what is measured is what a sampler draws, with more or less of the LoRA."""

from __future__ import annotations

import pytest
import torch

from benchmarks.toyworld import balance, rows
from benchmarks.toyworld.balance import BalanceCell, Way, drawn
from benchmarks.toyworld.training import lora_training
from palp_core.toyworld.scenes import new_individual
from palp_core.toyworld.world import load_world, paint
from palp_core.training.loop import closing

PROMPT = "a sketch of a [V] with a hat on the beach"


@pytest.fixture
def cell():
    return BalanceCell("ti_db", "test", "cat", 11, 0, 2, (("sketch", "hat", "beach"),), {}, samples=2)


def test_the_first_way_is_what_samplers_draw_and_none_of_the_lora_is_the_base_model(small, cell):
    world = load_world("cpu")
    run = lora_training(world, cell.training, new_individual(11, "cat"))
    with closing(run.steps()) as steps:
        next(steps)
        words = run.learner.result().words
        with torch.no_grad():
            for part in run.learner.lora.parameters():
                part.add_(0.02)
        usual = drawn(world, run.learner, cell, PROMPT, balance.WAYS["as trained"])
        assert torch.equal(usual, paint(world, PROMPT, words, 2, 0))
        none = drawn(world, run.learner, cell, PROMPT, Way(0, 0, base_null=True))
        with run.learner.lora.disabled():
            assert torch.allclose(none, paint(world, PROMPT, words, 2, 0), atol=1e-4)
        halves = [
            drawn(world, run.learner, cell, PROMPT, way) for way in (Way(0.5, 0.5), Way(0.5, 0.5, base_null=True))
        ]
        assert not torch.equal(*halves) and not torch.equal(halves[0], usual)
        assert torch.equal(usual, drawn(world, run.learner, cell, PROMPT, balance.WAYS["as trained"]))


def test_ways_are_rows_with_their_own_names(tmp_path, run, small):
    file = tmp_path / "rows.jsonl"
    run("balance", "--models", "ti_db", "--steps", 2, "--ways", "as trained", "0.4, base", "--results", file)
    found = rows.read_rows(file)
    assert [row["method"] for row in found] == ["ti_db, as trained", "ti_db, 0.4, base"]
    run("table", "--results", file)
    with pytest.raises(SystemExit, match=r"there is no way 0\.7; there are as trained"):
        run("balance", "--ways", "0.7", "--results", file)
