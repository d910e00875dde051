"""The toy world's judges plugged into the evaluation of folders: the same figures, and so the same order of methods."""

from __future__ import annotations

import pytest
import torch

from palp_core.errors import PromptError
from palp_core.evaluation.layout import read_layout
from palp_core.evaluation.measuring import Judges, evaluate
from palp_core.evaluation.references import find_references
from palp_core.files.images import write_image
from palp_core.toyworld.evaluators import Target, load_evaluators
from palp_core.toyworld.judges import ElementsJudge, IdentityJudge
from palp_core.toyworld.metrics import judge
from palp_core.toyworld.pictures import photos
from palp_core.toyworld.scenes import new_individual
from palp_core.toyworld.world import references, true_pictures

ASKED = Target("sketch", "cat", "hat", "beach")
PHOTO = Target("photo", "cat", None, None)


@pytest.fixture(scope="module")
def evaluators():
    return load_evaluators()


def test_a_folder_is_judged_as_the_toy_world_judges(tmp_path, evaluators):
    """Each element of the prompt is named, and so its cosine is the share of elements that are found."""
    cat, stranger = new_individual(3, "cat"), new_individual(4, "cat")
    drawn = {"both": (cat, ASKED), "prompt alone": (stranger, ASKED), "subject alone": (cat, PHOTO)}
    expected = {}
    for method, (individual, target) in drawn.items():
        pictures = true_pictures(individual, target, 3)
        expected[method] = judge(evaluators, pictures, ASKED, references(cat))
        folder = tmp_path / "shots" / method / "1"
        folder.mkdir(parents=True)
        (folder / "prompt.txt").write_text(ASKED.prompt("a [V]"))
        for number, picture in enumerate((pictures.movedim(1, -1) + 1) / 2):
            write_image(picture, folder / f"{number}.png")
    (tmp_path / "photos").mkdir()
    for number, photo in enumerate(photos(cat)):
        write_image(photo, tmp_path / "photos" / f"{number}.png")
    shown = read_layout(tmp_path / "shots")
    judges = Judges(ElementsJudge(evaluators), IdentityJudge(evaluators))
    found = evaluate(shown, find_references(tmp_path / "photos", [""], "cat"), judges)
    for method, figures in expected.items():
        assert found.figure(method, "clip_t").mean == pytest.approx(figures.text_alignment, abs=1e-6)
        assert found.figure(method, "dino").mean == pytest.approx(figures.subject_alignment, abs=1e-3)
    means = {axis: {m: found.figure(m, axis).mean for m in drawn} for axis in ("clip_t", "dino")}
    assert min(means["clip_t"], key=means["clip_t"].get) == "subject alone"
    assert min(means["dino"], key=means["dino"].get) == "prompt alone"


def test_a_text_is_its_elements(evaluators):
    several, fewer = ElementsJudge(evaluators).encode_texts(["a sketch of a cat with a hat on the beach", "a cat"])
    assert several.sum() == 4 and fewer.sum() == 1 and torch.equal(several * fewer, fewer)
    with pytest.raises(PromptError, match="'a hat' is to name one of"):
        ElementsJudge(evaluators).encode_texts(["a hat"])
