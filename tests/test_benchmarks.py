"""The benchmarks on the toy world, at their smallest: their figures are computed from what was asked for, and kept."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from benchmarks.toyworld import guidance, pairs, results, training
from benchmarks.toyworld.__main__ import main
from benchmarks.toyworld.heatmaps import full_scenes, look, overlap
from palp_core.toyworld.world import load_world

ONE_PAIR = {"test": (("cat", 11),), "tuning": ()}
ONE_PROMPT = {"test": (("sketch", "hat", "beach"),), "tuning": ()}


@pytest.fixture
def small(monkeypatch):
    for module in (training, guidance):
        monkeypatch.setattr(module, "INDIVIDUALS", ONE_PAIR)
        monkeypatch.setattr(module, "PROMPTS", ONE_PROMPT)
        monkeypatch.setattr(module, "SAMPLES", 2)
    monkeypatch.setattr(training, "STEPS", (1, 2))


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *(str(a) for a in arguments)])
    main()


def test_tuning_and_test_pairs_are_apart_and_as_many_as_are_claimed():
    for table in (pairs.INDIVIDUALS, pairs.PROMPTS):
        assert not set(table["test"]) & set(table["tuning"])
    assert len(pairs.INDIVIDUALS["test"]) >= 4 and len(pairs.PROMPTS["test"]) >= 6
    assert len(pairs.INDIVIDUALS["test"]) * len(pairs.PROMPTS["test"]) >= 30


def test_trainings_are_measured_at_each_step_kept_and_not_computed_again(monkeypatch, capsys, tmp_path, small):
    file = tmp_path / "rows.jsonl"
    arguments = ["run", "--methods", "base", "ti", "palp", "--seeds", 0, "--results", file]
    run(monkeypatch, *arguments)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["method"], row["step"]) for row in rows] == [
        *(("base", 0), ("ti", 1), ("ti", 2)),
        *(("palp", 1), ("palp", 2)),
    ]
    assert all(0 <= row[name] <= 1 for row in rows for name in ("text_alignment", "attention_share"))

    monkeypatch.setattr(training, "measure", lambda *_: pytest.fail("computed again"))
    run(monkeypatch, *arguments)
    run(monkeypatch, "table", "--results", file)
    assert len(capsys.readouterr().out.splitlines()) == 2 + 5
    run(monkeypatch, "figure", "--results", file, "--out", tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 0


def test_guidance_of_weight_nothing_is_no_guidance(monkeypatch, tmp_path, small):
    file = tmp_path / "rows.jsonl"
    run(monkeypatch, "guide", "--steps", 1, "--parts", "unguided", "pick", "--results", file)
    rows = {row["method"]: row for row in map(json.loads, file.read_text().splitlines())}
    assert list(rows) == [f"{model}, {part}" for model in ("vanilla", "personalized") for part in ("unguided", "pick")]
    run(monkeypatch, "run", "--methods", "base", "--seeds", 0, "--results", file)
    base = json.loads(file.read_text().splitlines()[-1])
    assert rows["vanilla, unguided"]["diversity"] == base["diversity"] != rows["vanilla, pick"]["diversity"]


def test_comparison_takes_the_baseline_at_its_best(monkeypatch, capsys, tmp_path):
    def row(method, step, prompt, text, subject):
        shared = {"pairs": "test", "individual": ["cat", 11], "seed": 0, "diversity": 0.1, "attention_share": 0.2}
        return shared | dict(method=method, step=step, prompt=prompt, text_alignment=text, subject_fidelity=subject)

    rows = [row("ti_db", 1, p, 0.9, 0.4) for p in "ab"] + [row("ti_db", 2, p, 0.5, 0.6) for p in "ab"]
    rows += [row("palp", 1, p, 0.9, 0.3) for p in "ab"]
    rows += [row("palp", 2, "a", 0.7, 0.7), row("palp", 2, "b", 0.9, 0.7), row("palp", 3, "a", 0.1, 0.9)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    run(monkeypatch, "compare", "--results", file)
    said = capsys.readouterr().out
    assert (
        "palp at 2 steps minus ti_db at 2 steps, 2 pairs" in said
        and "prompt                       0.300 ± 0.100" in said
    )


def test_overlap_is_that_of_hot_places_and_mask():
    heat, mask = torch.tensor([[0.9, 0.1], [0.8, 0.0]]), np.array([[1.0, 1.0], [0.0, 0.0]])
    assert overlap(heat, mask, 0.5) == pytest.approx(1 / 3)
    assert overlap(heat, mask, 0.05) == pytest.approx(2 / 3)


def test_the_place_word_looks_around_the_subject_and_the_class_word_at_it():
    (scene,) = full_scenes(1, 6)
    looked = look(load_world("cpu"), scene)
    assert set(looked.heat) == {"subject", "accessory", "place"}
    subject = torch.from_numpy(looked.picture.subject) > 0.5
    assert looked.heat["subject"][subject].mean() > looked.heat["subject"][~subject].mean()
    assert looked.heat["place"][~subject].mean() > looked.heat["place"][subject].mean()


def test_cells_of_other_weights_count_as_missing(monkeypatch):
    cell = training.TrainingCell("base", "test", "cat", 11, 0, (), None, training.ToyTraining())
    key = results.cell_key(cell)
    monkeypatch.setattr(results, "weights_digest", lambda: b"others")
    assert results.cell_key(cell) != key
