"""Two subjects in one picture: each is judged where it stands, and the model that is kept draws both."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.toyworld import pairs, rows, two_subjects
from benchmarks.toyworld.two_subjects import CellOfTwo, judge_two
from devtools.toyworld.two_subjects import SceneOfTwo, TwoPlan, draw_pairs, pair_captions, render_two
from palp_core.toyworld.evaluators import load_evaluators
from palp_core.toyworld.world import as_pictures

PEOPLE = (("cat", 11), ("mug", 15))


def cell(who=PEOPLE) -> CellOfTwo:
    return CellOfTwo("base", "test", who, "watercolor", "beach", 0, None, "")


def rendered(of: CellOfTwo, count: int = 8) -> torch.Tensor:
    scenes = [SceneOfTwo(tuple(of.individuals), of.style, of.place, jitter) for jitter in range(count)]
    return as_pictures([torch.from_numpy(render_two(scene)[0]).float() / 255 for scene in scenes])


def test_each_subject_is_judged_where_it_stands():
    evaluators, pictures = load_evaluators(), rendered(cell())
    right = judge_two(evaluators, pictures, cell())
    assert right.text_alignment > 0.95 and right.subject_alignment > 0.5
    swapped = judge_two(evaluators, pictures, cell(PEOPLE[::-1]))
    assert swapped.text_alignment == right.text_alignment and swapped.subject_alignment == right.subject_alignment
    one_of_them = judge_two(evaluators, pictures, cell((PEOPLE[0], ("house", 13))))
    assert 0.4 < one_of_them.elements["class_word"] < 0.6 and one_of_them.subject_alignment < right.subject_alignment
    others = judge_two(evaluators, pictures, cell((("cat", 31), ("mug", 32))))
    assert others.elements["class_word"] > 0.95 and others.subject_alignment < 0.3


def test_captions_name_both_from_left_to_right():
    drawn, rng = draw_pairs(20, seed=0), np.random.default_rng(0)
    assert (drawn.labels[:, 1] != drawn.labels[:, 2]).all()
    captions = [caption for caption in pair_captions(drawn, TwoPlan.captions, rng) if caption]
    assert 10 < len(captions) < 20
    classes = {caption.split(" and a ")[-1].replace("+", " ") for caption in captions}
    assert all(" and a " in caption for caption in captions) and len(classes) > 5


@pytest.fixture
def two_people(small, monkeypatch):
    monkeypatch.setitem(pairs.INDIVIDUALS, "test", PEOPLE)
    monkeypatch.setattr(two_subjects.CellOfTwo, "samples", 2)


def test_trainings_for_two_are_rows_of_a_table(tmp_path, run, two_people, capsys):
    file = tmp_path / "rows.jsonl"
    run("two", "--methods", "base", "delta", "--individuals", 1, "--steps", 2, "--results", file)
    found = rows.read_rows(file)
    assert [(row["method"], row["step"], row["individual"]) for row in found] == [
        ("base", 0, [["cat", 11], ["mug", 15]]),
        ("delta", 2, [["cat", 11], ["mug", 15]]),
    ]
    run("table", "--results", file)
    assert "| delta | 2 |" in capsys.readouterr().out


def test_the_model_that_is_kept_draws_both():
    world = two_subjects.twin_world(two_subjects.UNET, "v_prediction")
    shown = [
        judge_two(world.evaluators, two_subjects.paint(world, one.prompt, {}, 4, 0), one).text_alignment
        for one in (cell(), cell((("house", 13), ("robot", 12))))
    ]
    assert np.mean(shown) > 0.85
