"""The paper's comparison on a tiny random Stable Diffusion with tiny judges, from photos to the table."""

from __future__ import annotations

import csv

import pytest

from devtools.random_judges import save_tiny_clip, save_tiny_dino
from devtools.random_models import pictures, tiny_pipeline
from palp_core.files.images import write_image
from palp_core.methods.layered_words.neti import NetiConfig
from palp_core.methods.layered_words.p_plus import PPlusConfig
from palp_core.sweep.cells import cells_of
from palp_core.sweep.jobs import read_jobs
from palp_core.sweep.paper import METHODS, prompts

#: What a training has only little of, in all that says it.
FEW = {"steps": 2, "batch_size": 1, "gradient_accumulation": 1}
OWN = ("settings", "methods.p_plus", "methods.neti")

#: DreamBench's list, as it ships: subjects without a folder, and prompts below.
DREAMBENCH = """Classes

subject_name,class
clock,clock
dog6,dog
wolf_plushie,stuffed animal

Prompts

Object Prompts
"""


@pytest.fixture
def given(tmp_path) -> list:
    """The options of the command: a model, photos of two subjects, judges."""
    tiny_pipeline("sd1", tmp_path / "made").save_pretrained(tmp_path / "model", safe_serialization=True)
    for subject in ("dog6", "clock"):
        (tmp_path / "photos" / subject).mkdir(parents=True)
        write_image(pictures((64, 64))[0], tmp_path / "photos" / subject / "1.png")
    (tmp_path / "photos/class_words.csv").write_text("subject,class_word,kind\ndog6,dog,live\nclock,clock,\n")
    save_tiny_clip(tmp_path / "clip")
    save_tiny_dino(tmp_path / "dino")
    options = {name: tmp_path / name for name in ("model", "photos", "clip", "dino")}
    return ["--paper", *(part for name, path in options.items() for part in (f"--{name}", path))]


def test_it_is_the_papers(given, tmp_path, paper):
    assert paper(tmp_path / "out", *given, "--dry-run") is None
    plan = read_jobs(tmp_path / "out/jobs.yaml")
    assert [method.name for method in plan.methods] == list(METHODS)
    by_name = {method.name: method.config for method in plan.methods}
    p_plus, neti = by_name.pop("p_plus"), by_name.pop("neti")
    assert isinstance(p_plus, PPlusConfig) and (p_plus.steps, p_plus.learning_rate) == (500, 5e-3)
    assert isinstance(neti, NetiConfig) and (neti.steps, neti.learning_rate) == (1000, 8e-3)
    assert [config.batch_size * config.gradient_accumulation for config in (p_plus, neti)] == [8, 8]
    assert {config.steps for config in by_name.values()} == {500}
    assert {config.batch_size * config.gradient_accumulation for config in by_name.values()} == {32}
    assert (by_name["palp"].alignment.score.alpha, by_name["palp"].alignment.score.beta) == (15, 7.5)
    assert by_name["fresh_noise"].alignment.noise == "fresh" and not by_name["no_rescale"].alignment.rescale
    assert len(prompts("live")) == len(set(prompts("live"))) == 35 == len(set(prompts("")))
    assert len(cells_of(plan, tmp_path / "out")) == 2 * (6 * 35 + 4)


def test_one_command_goes_from_photos_and_a_checkpoint_to_the_table(given, tmp_path, paper, capsys):
    few = [f"{where}.{name}={FEW[name]}" for where in OWN for name in FEW] + ["settings.rank=2"]
    few += ["settings.resolution=64", "pictures={count: 1, at: [1], sampling_steps: 2}"]
    one = ["subjects.dog6.prompts=a sketch of [V] in Paris", "subjects.clock.prompts=a photo of a red [V]"]
    assert paper(tmp_path / "out", *given, "--set", *few, *one) is None
    with (tmp_path / "out/table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows if row["subject"] == "dog6" and row["step"] in "02"] == list(METHODS)
    assert all(-1 <= float(row[axis]) <= 1 for row in rows for axis in ("clip_t", "clip_i", "dino"))
    assert "no_rescale" in capsys.readouterr().out


def test_dreambench_is_read_as_it_is_downloaded(given, tmp_path, paper):
    told, listed = tmp_path / "photos/class_words.csv", tmp_path / "photos/prompts_and_classes.txt"
    assert paper(tmp_path / "own", *given, "--dry-run") is None
    told.unlink()
    listed.write_text(DREAMBENCH)
    assert paper(tmp_path / "its", *given, "--dry-run") is None
    own, its = (read_jobs(tmp_path / name / "jobs.yaml").subjects for name in ("own", "its"))
    assert its == own

    def refused(text: str) -> str:
        listed.write_text(text)
        return str(paper(tmp_path / "out", *given))

    assert "line 4 of" in (message := refused(DREAMBENCH.replace("clock,clock", "clock"))) and "'clock'" in message
    assert "has no line subject_name,class" in refused("dog6,dog")
    assert "none of the subjects" in refused("subject_name,class\ncat2,cat\n")


def test_what_is_missing_is_said(given, tmp_path, paper):
    (tmp_path / "photos/class_words.csv").unlink()
    assert "class_words.csv is missing, or empty. It says what" in paper(tmp_path / "out", *given)
    assert paper(tmp_path / "out", "--paper") == "palp: --paper takes --model and --photos, and no file of jobs."
