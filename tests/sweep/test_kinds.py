"""Methods that learn a word alone, beside LoRA: from a file of jobs to the rows, stopped and gone on."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

from devtools.random_models import pictures, tiny_pipeline
from palp_core.errors import PalpError, SettingError
from palp_core.files.embedding_file import described_word
from palp_core.files.images import write_image
from palp_core.methods.subjects import mean_vectors
from palp_core.methods.textual_inversion import TextualInversionConfig, TextualInversionLearner
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.sweep.cells import Cell, cells_of
from palp_core.sweep.jobs import read_jobs
from palp_core.sweep.learning import method_of
from palp_core.sweep.plan import Method, SubjectJob

JOBS = """\
model: demo
subjects:
  tom: {class_word: cat, individual: 11}
prompts: ["a sketch of a [V] on the beach", "a neon sign of a [V]"]
methods:
  ti: {kind: textual_inversion, vectors: 2}
settings: {steps: 2, batch_size: 1, rank: 2, alignment_weight: 0}
pictures: {count: 1, sampling_steps: 2}
"""


@pytest.fixture
def words(tmp_path) -> Path:
    """A file that lists a cell of each kind."""
    file = tmp_path / "jobs.yaml"
    file.write_text(JOBS)
    return file


def rows(out: Path) -> list[dict]:
    with (out / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_kind_has_the_settings_that_it_knows(words, tmp_path):
    plan = read_jobs(words, ["methods.plain={}", "methods.palp={score: palp, alignment_weight: 0.1}"])
    by_name = {method.name: method for method in plan.methods}
    assert by_name["ti"].kind == "textual_inversion" and by_name["plain"].kind == "personalization"
    assert (by_name["ti"].config.steps, by_name["ti"].config.vectors, by_name["plain"].config.rank) == (2, 2, 2)
    assert by_name["ti"].config.learning_rate == 5e-3, "what suits the demo world"
    assert not by_name["ti"].reads_prompt and by_name["palp"].reads_prompt
    cells = cells_of(plan, tmp_path / "out")
    assert [cell.method.name for cell in cells] == ["ti", "plain", "palp", "palp"]
    assert len({cell.training for cell in cells}) == 4


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("methods.ti.rank=4", "methods.ti.rank is unknown"),
        ("methods.ti.kind=dreambooth", "line 6: methods.ti.kind is 'dreambooth'; it must be one of personalization"),
        ("methods.ti.vectors=0", "line 6: methods.ti: vectors is 0"),
        ("settings.vectrs=2", "settings.vectrs is unknown; perhaps vectors is meant"),
    ],
)
def test_what_a_kind_does_not_know_is_told(words, change, told):
    with pytest.raises(SettingError, match=told):
        read_jobs(words, [change])


def test_each_kind_goes_from_photos_to_rows_and_on_from_where_it_was_ended(monkeypatch, words, tmp_path, sweep):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert sweep(words, whole, "--set", "pictures.at=[1]") is None
    assert [(row["method"], row["step"]) for row in rows(whole)] == [("ti", "1"), ("ti", "1"), ("ti", "2"), ("ti", "2")]
    assert all(-1 <= float(row[axis]) <= 1 for row in rows(whole) for axis in ("clip_t", "clip_i", "dino"))
    (file,) = whole.glob("cells/*/palp_00001.safetensors")
    assert described_word(file)["steps"] == 2
    with safe_open(file, "pt") as opened:
        assert opened.get_slice("emb_params").get_shape() == [2, 128]

    step, taken = TextualInversionLearner.step, []

    def ended_once(learner):
        taken.append(learner.done)
        if taken == [0, 1]:
            raise PalpError("ended")
        return step(learner)

    monkeypatch.setattr(TextualInversionLearner, "step", ended_once)
    assert "1 of 1 cells failed" in sweep(words, out, "--set", "pictures.at=[1]")
    assert sweep(words, out, "--set", "pictures.at=[1]") is None and taken == [0, 1, 1]
    assert (out / "table.csv").read_text() == (whole / "table.csv").read_text()
    (again,) = out.glob("cells/*/palp_00001.safetensors")
    with safe_open(file, "pt") as first, safe_open(again, "pt") as second:
        assert first.get_tensor("emb_params").equal(second.get_tensor("emb_params"))


def test_a_class_word_of_several_tokens_and_captions_serve_a_word(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    write_image(pictures((64, 64))[0], photos / "1.png")
    (photos / "1.txt").write_text("a cat toy on a sofa")
    backbone = DiffusersBackbone(tiny_pipeline("sd1", tmp_path), device="cpu")
    config = TextualInversionConfig(vectors=2, resolution=64)
    job = SubjectJob("cat toy", (photos,))
    cell = Cell("toy", job, Method("ti", config), 3, ("a sketch of [V]",), "training", "key")
    method = method_of(cell, backbone)
    assert method.concept.captions == ("a {} on a sofa",)
    mean = mean_vectors(backbone.word_vectors("cat toy"))["clip_l"]
    assert method.initial["clip_l"].shape == (2, 32) and method.initial["clip_l"][:1].equal(mean)
    neutral = method_of(replace(cell, subject=replace(job, captions=False)), backbone)
    assert neutral.concept.templates == () and neutral.concept.captions == ()
