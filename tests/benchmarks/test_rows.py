"""Rows of the toy world's benchmarks: computed from what was asked for, kept, and found again."""

from __future__ import annotations

import pytest

from benchmarks.toyworld import commands as guide_command
from benchmarks.toyworld import guidance, pairs, rows, training
from benchmarks.toyworld import run as run_command
from benchmarks.toyworld.commands import Guide
from benchmarks.toyworld.methods import METHODS
from benchmarks.toyworld.run import Run

MODELS = ("base", "palp", "over-fitted")


def test_tuning_and_test_pairs_are_apart_and_as_many_as_are_claimed():
    for table in (pairs.INDIVIDUALS, pairs.PROMPTS):
        assert not set(table["test"]) & set(table["tuning"])
    assert len(pairs.INDIVIDUALS["test"]) >= 4 and len(pairs.PROMPTS["test"]) >= 6
    assert len(pairs.INDIVIDUALS["test"]) * len(pairs.PROMPTS["test"]) >= 30


def test_the_rows_that_are_shipped_are_those_of_the_settings_as_they_are():
    ablations = ("sds", "nfsd", "fresh_noise", "no_rescale")
    asked = [
        *Run(methods=("ti_db", "delta")).cells(),
        *Run(methods=("base", "palp"), seeds=(0,)).cells(),
        *Run(methods=ablations, seeds=(0,), prompts=2).cells(),
        *Run(methods=("palp",), seeds=(0,), prompts=1, label=", beta 1", beta=1.0).cells(),
    ]
    words = Run(methods=("ti", "ti_8_vectors", "ti_free_norm", "ti_8_free_norm"), seeds=(0,)).cells()
    for cells, file in (
        (asked, rows.RESULTS),
        (words, rows.FOLDER / "toyworld_words.jsonl"),
        (Guide().cells(), rows.GUIDANCE_RESULTS),
    ):
        there = {cell["cell"]: {row["method"] for row in cell["rows"]} for cell in rows.read_cells(file)}
        for cell in cells:
            name = cell.labels.get("method")
            assert name is None or name in there[rows.cell_key(cell)]
            assert rows.cell_key(cell) in there


def test_nothing_that_is_shipped_is_computed_again(monkeypatch, run):
    files = (rows.RESULTS, rows.GUIDANCE_RESULTS, rows.RESULTS_OF["transformer"])
    before = [file.read_bytes() for file in files]
    for command, loads in ((run_command, "world_of"), (guide_command, "load_world")):
        monkeypatch.setattr(command, loads, lambda *_: pytest.fail("loaded a model"))
    run("run", "--methods", "ti_db", "delta")
    run("run", "--methods", "base", "palp", "--seeds", 0)
    run("run", "--model", "transformer", "--methods", "base", "ti_db", "delta", "--seeds", 0, "--one-prompt-each")
    run("guide")
    assert [file.read_bytes() for file in files] == before


def test_a_cell_that_fails_is_told_and_the_others_are_kept(monkeypatch, capsys, tmp_path, run, small):
    file, measure = tmp_path / "rows.jsonl", training.measure

    def failing(world, cell):
        if cell.seed == 0:
            raise OSError("no space")
        return measure(world, cell)

    monkeypatch.setattr(training, "measure", failing)
    with pytest.raises(SystemExit, match="1 of 2 cells failed; the same command tries them again"):
        run("run", "--methods", "base", "--seeds", 0, 1, "--results", file)
    assert "no space" in capsys.readouterr().err and {row["seed"] for row in rows.read_rows(file)} == {1}


def test_no_two_methods_have_one_key():
    keys = [rows.cell_key(cell) for cell in Run(methods=tuple(METHODS), seeds=(0,), prompts=1).cells()]
    assert len(set(keys)) == len(keys)


def test_trainings_are_measured_at_each_step_kept_and_not_computed_again(monkeypatch, capsys, tmp_path, run, small):
    file = tmp_path / "rows.jsonl"
    arguments = ["run", "--methods", "base", "ti", "palp", "--seeds", 0, "--results", file]
    run(*arguments)
    found = rows.read_rows(file)
    assert [(row["method"], row["step"]) for row in found] == [
        ("base", 0),
        ("base, photo", 0),
        ("ti", 3),
        ("ti, photo", 3),
        ("palp", 1),
        ("palp", 2),
    ]
    assert all(0 <= row[name] <= 1 for row in found for name in ("text_alignment", "attention_share"))

    monkeypatch.setattr(training, "measure", lambda *_: pytest.fail("computed again"))
    run(*arguments)
    run("table", "--results", file)
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 2 + 6
    accessory = table[0].split(" | ").index("accessory, %")
    assert [line.split(" | ")[accessory] == "–" for line in table[2:]] == [False, True, False, True, False, False]
    run("figure", "--results", file, "--out", tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 0


def test_the_transformer_is_trained_with_a_text_for_the_subject(tmp_path, run, small):
    file = tmp_path / "rows.jsonl"
    asked = ["run", "--model", "transformer", "--methods", "base", "delta", "--seeds", 0, "--one-prompt-each"]
    run(*asked, "--results", file)
    found = rows.read_rows(file)
    assert [(row["method"], row["step"]) for row in found] == [
        ("base", 0),
        ("base, photo", 0),
        ("delta", 1),
        ("delta", 2),
    ]
    assert all(0 <= row[name] <= 1 for row in found for name in ("text_alignment", "attention_share"))
    assert not {cell["cell"] for cell in rows.read_cells(file)} & {rows.cell_key(cell) for cell in Run().cells()}


def test_each_individual_can_have_a_prompt_of_its_own():
    cells = list(Run(methods=("ti_db", "delta"), seeds=(0,), one_prompt_each=True).cells())
    assert len(cells) == 12 and {len(cell.prompts) for cell in cells} == {1}
    assert len({cell.prompts for cell in cells}) == len({cell.individual for cell in cells}) == 6


def test_guidance_of_weight_nothing_is_no_guidance(tmp_path, run, small):
    file = tmp_path / "rows.jsonl"
    run("guide", "--parts", "unguided", "pick", "--results", file)
    guided = {row["method"]: row for row in rows.read_rows(file)}
    assert list(guided) == [f"{model}, {part}" for model in MODELS for part in ("unguided", "pick")]
    run("run", "--methods", "base", "--seeds", 0, "--results", file)
    (base,) = (row for row in rows.read_rows(file) if row["method"] == "base")
    assert guided["base, unguided"]["diversity"] == base["diversity"] != guided["base, pick"]["diversity"]


def test_the_template_of_the_layout_is_of_the_base_model(monkeypatch, tmp_path, run, small):
    entered = []
    of_base_model = guidance.of_base_model
    monkeypatch.setattr(
        guidance, "of_base_model", lambda base, denoiser: entered.append(base) or of_base_model(base, denoiser)
    )
    run("guide", "--models", "over-fitted", "--parts", "draw", "--results", tmp_path / "rows.jsonl")
    assert [base.__name__ for base in entered] == ["disabled"]


def test_words_of_several_lengths_are_rows_of_one_method(tmp_path, run, small):
    file = tmp_path / "rows.jsonl"
    for lengths in ((3,), (1, 2)):
        run("run", "--methods", "ti", "--seeds", 0, "--word-steps", *lengths, "--results", file)
    curve = rows.grouped(rows.read_rows(file))["ti"]
    alignment = [[row["subject_alignment"] for row in curve[step].values()] for step in (1, 2, 3)]
    assert len(set(map(tuple, alignment))) == 3


def test_a_line_that_was_cut_off_loses_that_cell_only(tmp_path, run, small):
    file = tmp_path / "new" / "folder" / "rows.jsonl"
    arguments = ["run", "--methods", "base", "--seeds", 0, 1, "--results", file]
    run(*arguments)
    whole = rows.read_rows(file)
    file.write_bytes(file.read_bytes()[:-20])
    assert [row["seed"] for row in rows.read_rows(file)] == [0, 0]
    run(*arguments)
    assert rows.read_rows(file) == whole


def test_cells_of_other_weights_count_as_missing(monkeypatch, tmp_path, row, write_rows):
    for name in ("evaluators.safetensors", "model/unet/weights.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"weights")
    monkeypatch.setattr(rows, "WORLD_FOLDER", tmp_path)
    digest = rows.world_digest.__wrapped__
    seen = [digest()]
    for name in ("evaluators.safetensors", "model/unet/weights.safetensors"):
        (tmp_path / name).write_bytes(b"others")
        seen.append(digest())
    monkeypatch.setattr(rows, "SAMPLING_STEPS", 7)
    assert len({*seen, digest()}) == 4
    write_rows(tmp_path / "rows.jsonl", [row("palp", 1, "a", 0.9, 0.5)])
    assert len(rows.read_rows(tmp_path / "rows.jsonl")) == 1
    monkeypatch.setattr(rows, "world_digest", lambda: "another")
    assert not rows.read_rows(tmp_path / "rows.jsonl")


def test_settings_that_are_not_the_usual_need_a_name(monkeypatch, tmp_path, run, row):
    found = [row("palp", 1, "a", 0.9, 0.5), row("palp", 1, "a", 0.1, 0.5, cell="other")]
    with pytest.raises(ValueError, match="'palp' was run with two settings"):
        rows.grouped(found)
    monkeypatch.setattr(run_command, "world_of", lambda *_: pytest.fail("trained"))
    for change in (("--weight", 0.5), ("--training.rank", 8)):
        with pytest.raises(SystemExit, match="give --label"):
            run("run", "--methods", "palp", *change, "--results", tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("ti_db", ("--alpha", 3)),
        ("sds", ("--beta", 3)),
        ("ti", ("--training.photos", 2)),
        ("delta", ("--word-steps", 2)),
    ],
)
def test_settings_that_would_do_nothing_are_refused(monkeypatch, tmp_path, run, method, change):
    monkeypatch.setattr(run_command, "world_of", lambda *_: pytest.fail("trained"))
    arguments = ("--methods", method, *change, "--label", "_other", "--results", tmp_path / "rows.jsonl")
    with pytest.raises(SystemExit, match=f"{method} (has no|takes no)"):
        run("run", *arguments)


def test_a_part_of_the_prompts_is_the_same_for_every_method():
    cells = list(Run(methods=("ti_db", "palp", "sds"), seeds=(0,), prompts=2).cells())
    prompts = {name: {p for c in cells if c.name == name for p in c.prompts} for name in ("ti_db", "palp", "sds")}
    assert prompts["palp"] == prompts["sds"] < prompts["ti_db"] and len(prompts["palp"]) == 2
