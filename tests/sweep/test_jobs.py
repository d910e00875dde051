"""A file of jobs: what it says becomes cells, and what is wrong in it is told with its line."""

from __future__ import annotations

import pytest

from palp_core.errors import FileError, PromptError, SettingError
from palp_core.methods.scores import Delta, Palp
from palp_core.sweep.cells import cells_of
from palp_core.sweep.jobs import read_jobs

JOBS = """\
model: demo
subjects:
  tom: {class_word: cat, individual: 11}
  r2:
    class_word: robot
    individual: 12
    prompts: a sketch of a [V]
prompts:
  - a sketch of a [V] on the beach
  - a neon sign of a [V]
methods:
  base: {}
  plain: {alignment_weight: 0}
  palp: {score: palp, alpha: 4, beta: 2, learning_rate: 1e-4}
  delta:
    push: 0.5
settings: {steps: 7, push: 0.1}
seeds: [0, 1]
"""


@pytest.fixture
def plan_of(tmp_path):
    """Read a plan from text."""

    def plan_of(text: str, *changes: str):
        file = tmp_path / "jobs.yaml"
        file.write_text(text)
        return read_jobs(file, changes)

    return plan_of


def test_methods_have_the_shared_settings_and_their_own(plan_of):
    base, plain, palp, delta = plan_of(JOBS).methods
    assert not base.trains and base.steps == 0 and plain.trains
    assert plain.config.alignment.weight == 0 and not plain.reads_prompt and palp.reads_prompt
    assert palp.config.alignment.score == Palp(alpha=4, beta=2) and palp.config.learning_rate == 1e-4
    assert delta.config.alignment.score == Delta(push=0.5)
    assert {method.config.steps for method in (plain, palp, delta)} == {7}
    assert delta.config.learning_rate == 2e-3, "what suits the demo world"


def test_a_training_that_reads_no_prompt_serves_all(plan_of, tmp_path):
    cells = cells_of(plan_of(JOBS), tmp_path / "out")
    count = {name: sum(cell.method.name == name for cell in cells) for name in ("base", "plain", "palp", "delta")}
    assert count == {"base": 4, "plain": 4, "palp": 6, "delta": 6}
    assert len({cell.training for cell in cells}) == len({cell.key for cell in cells}) == len(cells)
    assert len(list((tmp_path / "out/photos/tom").iterdir())) == 4


def test_a_cell_is_known_by_what_it_depends_on(plan_of, tmp_path):
    def keys(*changes: str) -> list[tuple[str, str]]:
        return [(cell.training, cell.key) for cell in cells_of(plan_of(JOBS, *changes), tmp_path / "out")]

    before = keys()
    assert keys() == before and len(keys("seeds=[0]")) == 10 and set(keys("seeds=[0]")) < set(before)
    renamed = plan_of(JOBS.replace("  palp:", "  the_papers:").replace("tom:", "thomas:"))
    assert [(cell.training, cell.key) for cell in cells_of(renamed, tmp_path / "out")] == before
    drawn = keys("pictures.count=2")
    assert [training for training, _ in drawn] == [training for training, _ in before]
    assert not {key for _, key in drawn} & {key for _, key in before}
    for change in ("settings.steps=8", "settings.rank=3", "subjects.tom.individual=13", "subjects.tom.trigger=ohwx"):
        changed = {training for training, _ in keys(change)}
        assert len(changed & {training for training, _ in before}) < len(changed)


@pytest.mark.parametrize(
    ("before", "after", "error", "told"),
    [
        ("push: 0.5", "puch: 0.5", SettingError, r"line 16: methods.delta.puch is unknown; perhaps push is meant"),
        ("alpha: 4", "push: 4", SettingError, r"line 14: methods.palp.push is unknown"),
        ("alpha: 4", "alpha: 0.5", SettingError, r"line 14: methods.palp: alpha is 0.5; it must be 1 to 100"),
        ("steps: 7", "steps: many", SettingError, r"line 17: settings.steps is 'many'; it must be a whole number"),
        ("steps: 7", "steps: 0", SettingError, r"steps is 0; it must be 1 to 100000"),
        ("score: palp", "score: pals", SettingError, r"line 14: methods.palp.score is 'pals'; it must be one of delta"),
        ("individual: 11", "individual: eleven", SettingError, r"line 3: subjects.tom.individual is 'eleven'"),
        ("individual: 11", "photos: missing/", FileError, r"there is no image .*missing"),
        ("class_word: cat, ", "", SettingError, r"line 3: subjects.tom.class_word is missing"),
        ("a sketch of a [V]\n", "a sketch of a cat\n", PromptError, r"line 4: subjects.r2: target_prompt"),
        (
            "a sketch of a [V]\n",
            "a [V] and a [X]\n",
            PromptError,
            r"line 4: .*target_prompt uses \[X\], but no subject",
        ),
        ("on the beach", "on the moon", PromptError, r"subject tom: the demo's world has no 'moon'"),
        ("seeds: [0, 1]", "seeds: [0, 0]", SettingError, r"line 18: seeds has 0, which is negative or there twice"),
        ("model: demo", "model: sd15.safetensors", SettingError, r"line 1: model is 'sd15.safetensors': there is no"),
        ("model: demo", "modle: demo", SettingError, r"line 1: modle is unknown; perhaps model is meant"),
        ("methods:", "methods: palp\nunused:", SettingError, r"unused is unknown"),
        ("  r2:", "  tom:", FileError, r"line 4: subjects.tom is there twice"),
        ("seeds: [0, 1]", "seeds: [0, 1", FileError, r"is no YAML that can be read"),
    ],
)
def test_what_is_wrong_is_told_with_its_key_and_line(plan_of, tmp_path, before, after, error, told):
    assert before in JOBS
    with pytest.raises(error, match=told):
        cells_of(plan_of(JOBS.replace(before, after, 1)), tmp_path / "out")


def test_paths_are_taken_from_the_folder_of_the_file(plan_of, tmp_path):
    (tmp_path / "sd.safetensors").touch()
    text = "model: sd.safetensors\nsubjects: {tom: {SUBJECT, class_word: cat}}\nprompts: a [V]\nmethods: {delta: {}}"
    plan = plan_of(text.replace("SUBJECT", "photos: cats"))
    assert plan.model == tmp_path / "sd.safetensors" and plan.subjects["tom"].photos == (tmp_path / "cats",)
    with pytest.raises(SettingError, match=r"line 2: subjects.tom.individual is of the demo world"):
        plan_of(text.replace("SUBJECT", "individual: 1"))
