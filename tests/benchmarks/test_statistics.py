"""What is said of rows: errors of means, comparisons, tables."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.toyworld.statistics import standard_error, step_seconds


def test_comparison_chooses_its_steps_on_other_pairs(capsys, tmp_path, run, row, write_rows):
    def both(pairs, *given):
        return [row(*some, individual=[who, 1], pairs=pairs) for some in given for who in ("cat", "mug")]

    tuning = both("tuning", *(("ti_db", 1, p, 0.9, 0.4) for p in "ab"), *(("ti_db", 2, p, 0.5, 0.6) for p in "ab"))
    tuning += both(
        "tuning", *(("delta", step, p, 0.9, subject) for p in "ab" for step, subject in ((1, 0.5), (2, 0.7)))
    )
    # On these pairs the baseline is best after one step, which is not for it to know.
    test = both("test", *(("ti_db", 1, p, 0.9, 0.9) for p in "ab"), *(("ti_db", 2, p, 0.5, 0.6) for p in "ab"))
    test += both("test", ("delta", 2, "a", 0.7, 0.7), ("delta", 2, "b", 0.9, 0.7), ("delta", 2, "c", 0.0, 0.0))
    write_rows(tmp_path / "rows.jsonl", tuning + test)
    run("compare", "--results", tmp_path / "rows.jsonl")
    said = capsys.readouterr().out
    assert "delta at 2 steps minus ti_db at 2 steps, 4 pairs" in said
    assert "text alignment               0.300 ± 0.100" in said
    write_rows(tmp_path / "apart.jsonl", [row("ti_db", 1, "a", 0.9, 0.4), row("delta", 1, "b", 0.9, 0.4)])
    with pytest.raises(SystemExit, match="no pair and seed was run with all of delta, ti_db"):
        run("compare", "--step", 1, "--baseline-step", 1, "--results", tmp_path / "apart.jsonl")
    with pytest.raises(SystemExit, match="no rows of 'sds' on the tuning pairs; there are those of ti_db, delta"):
        run("compare", "--method", "sds", "--results", tmp_path / "rows.jsonl")


def test_a_single_training_can_be_compared(capsys, tmp_path, run, row, write_rows):
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
        run("compare", *chosen, "--results", tmp_path / "rows.jsonl")
        assert f"text alignment               {difference}" in capsys.readouterr().out


def test_a_table_of_shared_pairs_leaves_out_what_one_method_lacks(capsys, tmp_path, run, row, write_rows):
    timed = {"seconds": 7.4}
    rows = [row("palp", step, p, text, 0.5, **timed) for step in (1, 2) for p, text in (("easy", 1.0), ("hard", 0.0))]
    rows += [row("sds", step, "easy", 0.9, 0.5) for step in (1, 2)] + [row("ti_db", 1, "other", 0.9, 0.5)]
    file = tmp_path / "rows.jsonl"
    write_rows(file, rows)
    run("table", "--methods", "palp", "sds", "--shared", "--results", file)
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert "| text alignment | subject alignment | diversity |" in head
    assert [line.split(" | ")[:4] for line in lines] == [
        ["| palp", "1", "7", "1.000"],
        ["| palp", "2", "7", "1.000"],
        ["| sds", "1", "–", "0.900"],
        ["| sds", "2", "–", "0.900"],
    ]
    with pytest.raises(SystemExit, match="no pair and seed was run with all of"):
        run("table", "--shared", "--results", file)


def test_errors_count_individuals_and_prompts_not_repetitions(row):
    rows = [
        row("palp", 1, p, 0, 0, individual=[who, 1], seed=seed) for who in "ABC" for p in "xyz" for seed in range(9)
    ]
    by_individual = [float("ABC".index(r["individual"][0])) for r in rows]
    by_prompt = [float("xyz".index(r["prompt"])) for r in rows]
    expected = np.std([0.0, 1.0, 2.0], ddof=1) / 3**0.5
    assert standard_error(rows, by_individual) == pytest.approx(expected)
    assert standard_error(rows, by_prompt) == pytest.approx(expected)
    of_one_prompt = [n for n, r in enumerate(rows) if r["prompt"] == "x"]
    chosen = [[some[n] for n in of_one_prompt] for some in (rows, by_individual)]
    assert standard_error(*chosen) == pytest.approx(expected)
    assert standard_error(rows[:9], by_prompt[:9]) is None


def test_a_step_costs_what_all_of_them_took(row):
    took = {"ti_db": 0.5, "delta": 1.5}
    rows = [{**row(m, step, "a", 1, 1), "seconds": took[m] * step} for m in took for step in (10, 20)]
    assert step_seconds([*rows, row("palp", 10, "a", 1, 1)], ["delta", "ti_db"]) == {"delta": 1.5, "ti_db": 0.5}
    with pytest.raises(ValueError, match="no row of palp says"):
        step_seconds(rows, ["palp"])
