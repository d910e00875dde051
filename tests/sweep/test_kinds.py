"""Methods that learn a word alone, beside LoRA: from a file of jobs to the rows, stopped and gone on."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from devtools.random_models import pictures, tiny_pipeline
from palp_core.errors import FileError, PalpError, SettingError
from palp_core.files.images import write_image
from palp_core.files.lora_file import load_lora_file
from palp_core.files.metadata import LAYERED_KEY
from palp_core.methods.layered_words.learner import LayeredWordLearner
from palp_core.methods.subjects import mean_vectors
from palp_core.methods.textual_inversion import TextualInversionConfig, TextualInversionLearner
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.sweep.cells import Cell, cells_of
from palp_core.sweep.folder import CELL
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
  p_plus: {kind: p_plus}
  neti: {kind: neti}
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
    assert (by_name["p_plus"].config.steps, by_name["neti"].config.gradient_accumulation) == (2, 1)
    assert by_name["p_plus"].config.batch_size == 1, "what settings say is before the paper's"
    assert by_name["ti"].config.learning_rate == 5e-3, "what suits the demo world"
    assert not by_name["ti"].reads_prompt and by_name["palp"].reads_prompt
    cells = cells_of(plan, tmp_path / "out")
    assert [cell.method.name for cell in cells] == ["ti", "p_plus", "neti", "plain", "palp", "palp"]
    assert len({cell.training for cell in cells}) == 6


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


def learned(out: Path) -> dict[str, dict]:
    """Method -> the tensors of its file."""
    found = {}
    for file in out.glob("cells/*/palp_00001.safetensors"):
        found[json.loads((file.parent / CELL).read_text())["method"]] = load_file(file)
    return found


def test_each_kind_goes_from_photos_to_rows_and_on_from_where_it_was_ended(monkeypatch, words, tmp_path, sweep):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert sweep(words, whole, "--set", "pictures.at=[1]") is None
    kinds = ("ti", "p_plus", "neti")
    found = [(row["method"], row["step"]) for row in rows(whole)]
    assert found == [(kind, step) for kind in kinds for step in "1122"]
    assert all(-1 <= float(row[axis]) <= 1 for row in rows(whole) for axis in ("clip_t", "clip_i", "dino"))
    assert learned(whole)["ti"]["emb_params"].shape == (2, 128)
    assert learned(whole)["p_plus"]["vectors.clip_l"].shape == (10, 1, 128), "one for each layer"
    assert learned(whole)["neti"]["mapper.out.weight"].shape == (2 * 128, 128), "word and bypass"

    taken = []
    for learner in (TextualInversionLearner, LayeredWordLearner):
        monkeypatch.setattr(learner, "step", ended_once_in_a_cell(learner.step, taken))
    assert "3 of 3 cells failed" in sweep(words, out, "--set", "pictures.at=[1]")
    assert sweep(words, out, "--set", "pictures.at=[1]") is None and taken == [0, 1] * 3 + [1] * 3
    assert (out / "table.csv").read_text() == (whole / "table.csv").read_text()
    for kind, tensors in learned(whole).items():
        assert all(tensor.equal(learned(out)[kind][name]) for name, tensor in tensors.items()), kind


def ended_once_in_a_cell(step, taken: list[int]):
    """A step that fails as the second one of each of three cells; the steps are noted."""

    def ended(learner):
        taken.append(learner.done)
        if learner.done == 1 and len(taken) <= 6:
            raise PalpError("ended")
        return step(learner)

    return ended


def test_a_file_says_what_word_it_holds(words, tmp_path, sweep):
    assert sweep(words, tmp_path / "out", "--set", "settings.steps=1", "methods={p: {kind: p_plus}}") is None
    (file,) = tmp_path.glob("out/cells/*/palp_00001.safetensors")
    with safe_open(file, "pt") as opened:
        info = json.loads(opened.metadata()[LAYERED_KEY])
    assert (info["method"], info["initial_word"], info["steps"], len(info["layers"])) == ("P+", "cat", 1, 10)
    with pytest.raises(FileError, match=r"palp_00001.safetensors holds a word of P\+ or NeTI"):
        load_lora_file(file)


def test_what_needs_layers_fails_alone_on_a_transformer(capsys, words, tmp_path, sweep):
    change = ["model=demo-transformer", "methods={base: {}, p: {kind: p_plus}}"]
    assert "1 of 2 cells failed" in sweep(words, tmp_path / "out", "--set", *change)
    assert "P+ learns a word for each layer that attends to the prompt, but the model" in capsys.readouterr().err
    assert {row["method"] for row in rows(tmp_path / "out")} == {"base"}


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
