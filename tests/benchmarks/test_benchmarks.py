"""The benchmarks on the toy world, at their smallest: their figures are computed from what was asked for, and kept."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from benchmarks.cost import guidance as guidance_cost
from benchmarks.cost import step as step_cost
from benchmarks.cost import word as textual_inversion_cost
from benchmarks.toyworld import guidance, looks, pairs, results, scores, training
from benchmarks.toyworld.__main__ import main
from benchmarks.toyworld.heatmaps import full_scenes, look, overlap, separation
from palp_core.toyworld import world as toyworld
from palp_core.toyworld.scenes import new_individual
from palp_core.toyworld.world import PAPERS_ALIGNMENT, load_world

MODELS = ("vanilla", "palp", "over-fitted")
ONE_PAIR = {"test": (("cat", 11),), "tuning": ()}
ONE_PROMPT = {"test": (("sketch", "hat", "beach"),), "tuning": ()}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(toyworld, "SAMPLING_STEPS", 2)
    for module in (training, guidance):
        monkeypatch.setattr(module, "INDIVIDUALS", ONE_PAIR)
        monkeypatch.setattr(module, "SAMPLES", 2)
    monkeypatch.setattr(pairs, "PROMPTS", ONE_PROMPT)
    monkeypatch.setattr(training, "STEPS", (1, 2))
    for model, (alignment, _) in guidance.TRAININGS.items():
        monkeypatch.setitem(guidance.TRAININGS, model, (alignment, 1))
    monkeypatch.setitem(training.METHODS, "ti", training.Word(steps=3))


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
    rows = results.read_rows(file)
    assert [(row["method"], row["step"]) for row in rows] == [
        ("base", 0),
        ("base, photo", 0),
        ("ti", 3),
        ("ti, photo", 3),
        ("palp", 1),
        ("palp", 2),
    ]
    assert all(0 <= row[name] <= 1 for row in rows for name in ("text_alignment", "attention_share"))

    monkeypatch.setattr(training, "measure", lambda *_: pytest.fail("computed again"))
    run(monkeypatch, *arguments)
    run(monkeypatch, "table", "--results", file)
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 2 + 6
    accessory = table[0].split(" | ").index("accessory, %")
    assert [line.split(" | ")[accessory] == "–" for line in table[2:]] == [False, True, False, True, False, False]
    run(monkeypatch, "figure", "--results", file, "--out", tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 0


def test_guidance_of_weight_nothing_is_no_guidance(monkeypatch, tmp_path, small):
    file = tmp_path / "rows.jsonl"
    run(monkeypatch, "guide", "--parts", "unguided", "pick", "--results", file)
    rows = {row["method"]: row for row in results.read_rows(file)}
    assert list(rows) == [f"{model}, {part}" for model in MODELS for part in ("unguided", "pick")]
    run(monkeypatch, "run", "--methods", "base", "--seeds", 0, "--results", file)
    (base,) = (row for row in results.read_rows(file) if row["method"] == "base")
    assert rows["vanilla, unguided"]["diversity"] == base["diversity"] != rows["vanilla, pick"]["diversity"]


def row(method, step, prompt, text, subject, **other) -> dict:
    labels = {"pairs": "test", "individual": ["cat", 11], "seed": 0, "cell": "one", "diversity": 0.1}
    figures = {"text_alignment": text, "subject_fidelity": subject, "attention_share": 0.2, "elements": {}}
    return {**labels, **figures, "method": method, "step": step, "prompt": prompt, **other}


def write_rows(file, rows: list[dict]) -> None:
    file.write_text(json.dumps({"cell": "one", "world": results.world_digest(), "rows": rows}) + "\n")


def test_comparison_chooses_its_steps_on_other_pairs(monkeypatch, capsys, tmp_path):
    def both(pairs, *given):
        return [row(*some, individual=[who, 1], pairs=pairs) for some in given for who in ("cat", "mug")]

    tuning = both("tuning", *(("ti_db", 1, p, 0.9, 0.4) for p in "ab"), *(("ti_db", 2, p, 0.5, 0.6) for p in "ab"))
    tuning += both(
        "tuning", *(("delta", step, p, 0.9, fidelity) for p in "ab" for step, fidelity in ((1, 0.5), (2, 0.7)))
    )
    # On these pairs the baseline is best after one step, which is not for it to know.
    test = both("test", *(("ti_db", 1, p, 0.9, 0.9) for p in "ab"), *(("ti_db", 2, p, 0.5, 0.6) for p in "ab"))
    test += both("test", ("delta", 2, "a", 0.7, 0.7), ("delta", 2, "b", 0.9, 0.7), ("delta", 2, "c", 0.0, 0.0))
    write_rows(tmp_path / "rows.jsonl", tuning + test)
    run(monkeypatch, "compare", "--results", tmp_path / "rows.jsonl")
    said = capsys.readouterr().out
    assert "delta at 2 steps minus ti_db at 2 steps, 4 pairs" in said
    assert "prompt                       0.300 ± 0.100" in said
    write_rows(tmp_path / "apart.jsonl", [row("ti_db", 1, "a", 0.9, 0.4), row("delta", 1, "b", 0.9, 0.4)])
    with pytest.raises(SystemExit, match="no pair and seed was run with all of delta, ti_db"):
        run(monkeypatch, "compare", "--step", 1, "--baseline-step", 1, "--results", tmp_path / "apart.jsonl")
    with pytest.raises(SystemExit, match="no rows of 'sds' on the tuning pairs; there are those of ti_db, delta"):
        run(monkeypatch, "compare", "--method", "sds", "--results", tmp_path / "rows.jsonl")


def test_a_single_training_can_be_compared(monkeypatch, capsys, tmp_path):
    rows = [
        row(method, 1, "a", text + seed / 10, 0.5, seed=seed)
        for seed in (0, 1)
        for method, text in (("delta", 0.8), ("ti_db", 0.5 - seed / 10))
    ]
    # The steps are chosen on one training, whichever is reported.
    rows += [row(method, 1, "b", 0.5, 0.5, pairs="tuning") for method in ("delta", "ti_db")]
    write_rows(tmp_path / "rows.jsonl", rows)
    for seeds, difference in (((), "0.350"), ((0,), "0.300"), ((1,), "0.400")):
        chosen = ("--seeds", *seeds) if seeds else ()
        run(monkeypatch, "compare", *chosen, "--results", tmp_path / "rows.jsonl")
        assert f"prompt                       {difference}" in capsys.readouterr().out


def test_a_table_of_shared_pairs_leaves_out_what_one_method_lacks(monkeypatch, capsys, tmp_path):
    rows = [row("palp", step, p, text, 0.5) for step in (1, 2) for p, text in (("easy", 1.0), ("hard", 0.0))]
    rows += [row("sds", step, "easy", 0.9, 0.5) for step in (1, 2)] + [row("ti_db", 1, "other", 0.9, 0.5)]
    file = tmp_path / "rows.jsonl"
    write_rows(file, rows)
    run(monkeypatch, "table", "--methods", "palp", "sds", "--shared", "--results", file)
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split(" | ")[:3] for line in lines] == [
        ["| palp", "1", "1.000"],
        ["| palp", "2", "1.000"],
        ["| sds", "1", "0.900"],
        ["| sds", "2", "0.900"],
    ]
    with pytest.raises(SystemExit, match="no pair and seed was run with all of"):
        run(monkeypatch, "table", "--shared", "--results", file)


def test_errors_count_individuals_and_prompts_not_repetitions():
    rows = [
        row("palp", 1, p, 0, 0, individual=[who, 1], seed=seed) for who in "ABC" for p in "xyz" for seed in range(9)
    ]
    by_individual = [float("ABC".index(r["individual"][0])) for r in rows]
    by_prompt = [float("xyz".index(r["prompt"])) for r in rows]
    expected = np.std([0.0, 1.0, 2.0], ddof=1) / 3**0.5
    assert results.standard_error(rows, by_individual) == pytest.approx(expected)
    assert results.standard_error(rows, by_prompt) == pytest.approx(expected)
    of_one_prompt = [n for n, r in enumerate(rows) if r["prompt"] == "x"]
    chosen = [[some[n] for n in of_one_prompt] for some in (rows, by_individual)]
    assert results.standard_error(*chosen) == pytest.approx(expected)
    assert results.standard_error(rows[:9], by_prompt[:9]) is None


def test_settings_that_are_not_the_usual_need_a_name(monkeypatch, tmp_path):
    rows = [row("palp", 1, "a", 0.9, 0.5), row("palp", 1, "a", 0.1, 0.5, cell="other")]
    with pytest.raises(ValueError, match="'palp' was run with two settings"):
        results.grouped(rows)
    monkeypatch.setattr(training, "load_world", lambda: pytest.fail("trained"))
    for change in (("--weight", 0.5), ("--training.rank", 8)):
        with pytest.raises(SystemExit, match="give --label"):
            run(monkeypatch, "run", "--methods", "palp", *change, "--results", tmp_path / "rows.jsonl")


def test_a_part_of_the_prompts_is_the_same_for_every_method():
    cells = list(training.Run(methods=("ti_db", "palp", "sds"), seeds=(0,), prompts=2)._cells())
    prompts = {name: {p for c in cells if c.name == name for p in c.prompts} for name in ("ti_db", "palp", "sds")}
    assert prompts["palp"] == prompts["sds"] < prompts["ti_db"] and len(prompts["palp"]) == 2


def test_words_of_several_lengths_are_rows_of_one_method(monkeypatch, tmp_path, small):
    file = tmp_path / "rows.jsonl"
    for lengths in ((3,), (1, 2)):
        run(monkeypatch, "run", "--methods", "ti", "--seeds", 0, "--word-steps", *lengths, "--results", file)
    curve = results.grouped(results.read_rows(file))["ti"]
    fidelity = [results.values(curve[step].values(), "subject_fidelity") for step in (1, 2, 3)]
    assert len(set(map(tuple, fidelity))) == 3


@pytest.mark.parametrize(
    ("method", "change"), [("ti_db", ("--alpha", 3)), ("ti", ("--training.photos", 2)), ("delta", ("--word-steps", 2))]
)
def test_settings_that_would_do_nothing_are_refused(monkeypatch, tmp_path, method, change):
    monkeypatch.setattr(training, "load_world", lambda: pytest.fail("trained"))
    arguments = ("--methods", method, *change, "--label", "_other", "--results", tmp_path / "rows.jsonl")
    with pytest.raises(SystemExit, match=f"{method} (has no|takes no)"):
        run(monkeypatch, "run", *arguments)


def test_a_line_that_was_cut_off_loses_that_cell_only(monkeypatch, capsys, tmp_path, small):
    file = tmp_path / "new" / "folder" / "rows.jsonl"
    arguments = ["run", "--methods", "base", "ti", "--seeds", 0, "--results", file]
    run(monkeypatch, *arguments)
    whole = results.read_rows(file)
    file.write_bytes(file.read_bytes()[:-20])
    assert [r["method"] for r in results.read_rows(file)] == ["base", "base, photo"]
    run(monkeypatch, *arguments)
    assert results.read_rows(file) == whole


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


def test_scores_are_compared_on_one_and_the_same_noisy_photo(monkeypatch, capsys):
    monkeypatch.setattr(scores, "LEVELS", (0.5,))
    monkeypatch.setitem(scores.OTHERS, "itself", PAPERS_ALIGNMENT)
    monkeypatch.setitem(scores.INDIVIDUALS, "test", pairs.INDIVIDUALS["test"][:2])
    run(monkeypatch, "scores", "--steps", 1, "--every", 1, "--noises", 2)
    sds, nfsd, fresh, itself = (float(cell.split("±")[0]) for cell in capsys.readouterr().out.split("|")[-5:-1])
    assert itself == 1 and max(sds, nfsd, fresh) < 1
    assert fresh < sds  # another noise is another picture


def test_looks_are_told_in_words_and_in_one_token(monkeypatch, capsys, small):
    monkeypatch.setattr(looks, "INDIVIDUALS", ONE_PAIR)
    who = new_individual(11, "cat")
    assert looks.NAMES["one token"](who, who).count("+") == 4
    assert looks.NAMES["words apart"](who, who).split()[-1] == looks.NAMES["class"](who, who) == "cat"
    run(monkeypatch, "looks", "--scenes", 24, "--pictures", 1)
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    error = {name.strip(): float(error.split("±")[0]) for _, name, error, *_ in lines}
    assert error["words apart"] < error["one token"] < error["class"] < error["another's token"]


def test_cells_of_other_weights_count_as_missing(monkeypatch, tmp_path):
    for name in ("evaluators.safetensors", "model/unet/weights.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"weights")
    monkeypatch.setattr(results, "WORLD_FOLDER", tmp_path)
    digest = results.world_digest.__wrapped__
    seen = [digest()]
    for name in ("evaluators.safetensors", "model/unet/weights.safetensors"):
        (tmp_path / name).write_bytes(b"others")
        seen.append(digest())
    monkeypatch.setattr(results, "SAMPLING_STEPS", 7)
    assert len({*seen, digest()}) == 4
    write_rows(tmp_path / "rows.jsonl", [row("palp", 1, "a", 0.9, 0.5)])
    assert len(results.read_rows(tmp_path / "rows.jsonl")) == 1
    monkeypatch.setattr(results, "world_digest", lambda: "another")
    assert not results.read_rows(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("benchmark", [step_cost, guidance_cost, textual_inversion_cost])
def test_costs_are_measured_printed_and_kept(benchmark, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(step_cost, "KINDS", {kind: step_cost.KINDS[kind] for kind in ("plain", "delta")})
    file = tmp_path / "cost.json"
    steps = [] if benchmark is guidance_cost else ["--steps", "1"]
    arguments = ["--rounds", "1", "--resolution", "64", "--batch-size", "1", *steps, "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["cost", *arguments])
    benchmark.main()
    found = json.loads(file.read_text())
    ratios = found.get("ratios") or {name: value for name, value in found.items() if "ratio" in name}
    assert ratios and all(np.isfinite(ratio) and ratio > 0 for ratio in ratios.values())
    assert found["setting"] in capsys.readouterr().out
