"""Figures of plain pictures by a judge of colors, which are known beforehand, and the files that show them."""

from __future__ import annotations

import base64
import csv
import io
import re

import pytest
import torch
from PIL import Image

from palp_core.errors import FileError
from palp_core.evaluation.layout import read_layout
from palp_core.evaluation.measuring import BATCH, Judges, evaluate
from palp_core.evaluation.pictures import read_picture
from palp_core.evaluation.references import find_references
from palp_core.evaluation.report import write_report
from palp_core.evaluation.table import as_json, as_table

ROOT = 0.5**0.5  # the cosine of red and yellow


def measured(folder, judges, photos=None):
    shown = read_layout(folder)
    return evaluate(shown, find_references(photos, [one.subject for one in shown], "cat"), judges)


@pytest.fixture
def methods(tmp_path, paint):
    """Two methods with two prompts each, and photos of a red subject."""
    paint(tmp_path / "shots/palp/1", "red", "yellow", prompt="a red [V]")
    paint(tmp_path / "shots/palp/2", "yellow", "yellow", prompt="a yellow [V]")
    paint(tmp_path / "shots/base/1", "green", "blue", prompt="a red [V]")
    paint(tmp_path / "shots/base/2", "yellow", "blue", prompt="a yellow [V]")
    paint(tmp_path / "photos", "red", "yellow")
    return tmp_path / "shots"


def test_known_cosines_are_found_and_averaged_over_prompts(methods, judge):
    found = measured(methods, Judges(judge, judge), methods.parent / "photos")
    assert found.methods == ["base", "palp"] and not found.not_measured and not found.notes
    first, second = found.of("palp")
    assert [one.figures["clip_t"] for one in first.pictures] == pytest.approx([1, ROOT])
    assert first.figures["clip_i"] == first.figures["dino"] == pytest.approx((1 + ROOT) / 2)
    assert first.figures["diversity"] == pytest.approx(1 - ROOT)
    assert second.figures["diversity"] == pytest.approx(0, abs=1e-9)
    mean, error = found.figure("palp", "clip_t")
    numbers = (1 + ROOT) / 2, 1.0
    assert mean == pytest.approx(sum(numbers) / 2) and error == pytest.approx(abs(numbers[0] - numbers[1]) / 2)
    assert found.figure("base", "clip_t").mean == pytest.approx((0 + 0.5) / 2)


def test_pictures_keep_their_figures_over_many_batches(tmp_path, paint, judge):
    colors = ["red", "green", "yellow"] * BATCH
    paint(tmp_path / "many", *colors, prompt="a red [V]")
    (cell,) = measured(tmp_path / "many", Judges(judge, None)).cells
    expected = {"red": 1, "green": 0, "yellow": ROOT}
    assert [one.figures["clip_t"] for one in cell.pictures] == pytest.approx([expected[color] for color in colors])


def test_each_subject_is_compared_with_its_own_photos(tmp_path, paint, judge):
    for subject, color in (("ball", "red"), ("leaf", "green")):
        paint(tmp_path / "shots/palp" / subject / "1", color, prompt="a blue [V]")
        paint(tmp_path / "photos" / subject, color)
    found = measured(tmp_path / "shots", Judges(None, judge), tmp_path / "photos")
    assert [cell.figures["dino"] for cell in found.cells] == pytest.approx([1, 1])
    assert set(found.not_measured) == {"clip_t", "clip_i", "diversity"}
    assert "two pictures" in found.not_measured["diversity"]


def test_what_cannot_be_measured_is_said_with_what_it_needs(methods, judge):
    found = measured(methods, Judges(judge, None))
    table = as_table(found)
    assert "not measured: CLIP-I. It needs --photos" in table
    assert "not measured: DINO, diversity. It needs --dino FOLDER with DINOv2. This gets one: hf download" in table
    assert re.search(r"^palp +0\.927 ± 0\.073 +– +– +– +2 +4$", table, re.MULTILINE)
    described = as_json(found)
    assert described["methods"]["palp"]["dino"] is None and described["methods"]["palp"]["clip_t"]["mean"] > 0.9


def test_a_picture_that_cannot_be_read_is_left_out_and_named(methods, judge):
    (methods / "palp/1/broken.png").write_bytes(b"no picture")
    found = measured(methods, Judges(judge, None))
    assert len(found.of("palp")[0].pictures) == 2
    assert "left out, because they cannot be read" in found.notes[0] and "palp/1/broken.png" in found.notes[0]
    for file in methods.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(FileError, match="none of the pictures can be read"):
        measured(methods, Judges(judge, None))


def test_methods_that_drew_other_prompts_are_told(methods, paint, judge):
    paint(methods / "palp/3", "green", prompt="a green [V]")
    (note,) = measured(methods, Judges(judge, None)).notes
    assert "base, palp have not the same subjects and prompts" in note


def test_what_is_transparent_is_white(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 51)).save(tmp_path / "a.png")
    assert torch.allclose(read_picture(tmp_path / "a.png"), torch.tensor([1.0, 0.8, 0.8]), atol=1e-6)


def test_the_page_holds_every_picture_once_and_asks_nobody(methods, judge, tmp_path):
    hostile = '<script src="https://example.com/a.js"></script> a red <img src=//example.com/b.png> [V]'
    (methods / "palp/1/prompt.txt").write_text(hostile)
    found = measured(methods, Judges(judge, judge), methods.parent / "photos")
    text = write_report(found, tmp_path, "Evaluation of <b>").read_text(encoding="utf-8")
    sources = re.findall(r'src="([^"]*)"', text)
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    pictures = [base64.b64decode(source.partition(",")[2]) for source in sources]
    expected = [one.small for cell in found.cells for one in cell.pictures] + list(found.photos[""])
    assert sorted(pictures) == sorted(expected) and len(expected) == 10
    assert Image.open(io.BytesIO(pictures[0])).size == (21, 16)
    assert "<script" not in text and "<b>" not in text and "&lt;script" in text
    assert not re.search(r"(href|url\(|@import)", text) and "default-src 'none'" in text


def test_tables_hold_each_method_and_each_picture(methods, judge, tmp_path):
    write_report(measured(methods, Judges(judge, None)), tmp_path, "title")
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        "figures.csv",
        "by_picture.csv",
        "report.html",
    }
    base, palp = csv.DictReader((tmp_path / "figures.csv").read_text().splitlines())
    assert base["method"] == "base" and palp["pictures"] == "4" and palp["dino"] == palp["dino_error"] == ""
    assert float(palp["clip_t"]) == pytest.approx((3 + ROOT) / 4)
    rows = list(csv.DictReader((tmp_path / "by_picture.csv").read_text().splitlines()))
    assert [float(row["clip_t"]) for row in rows] == pytest.approx([0, 0, 1, 0, 1, ROOT, 1, 1])
    assert rows[4]["file"] == "palp/1/01.png" and rows[4]["prompt"] == "a red [V]"


def test_steps_of_a_training_are_curves_and_its_last_is_in_the_table(tmp_path, paint, judge):
    paint(tmp_path, "red", "yellow", "green", "red")
    steps = zip(("palp", "palp", "palp", "base"), ("200", "50", "100", ""), range(1, 5), strict=True)
    rows = [f"0{number}.png,a red [V],{method},{step}" for method, step, number in steps]
    (tmp_path / "pictures.csv").write_text("\n".join(["file,prompt,method,step", *rows]))
    found = measured(tmp_path, Judges(judge, None))
    assert found.steps("palp") == [50, 100, 200] and found.curved == ["palp"] and found.steps("base") == []
    assert found.figure("palp", "clip_t").mean == pytest.approx(1) == found.figure("base", "clip_t").mean
    assert [found.figure("palp", "clip_t", step).mean for step in (50, 100)] == pytest.approx([ROOT, 0])
    page = write_report(found, tmp_path, "title").read_text(encoding="utf-8")
    (chart,) = re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    assert Image.open(io.BytesIO(base64.b64decode(chart))).size[0] > 400
    assert page.count("data:image/jpeg") == 2, "the grid shows the last step alone"
    curves = list(csv.DictReader((tmp_path / "curves.csv").read_text().splitlines()))
    assert [(row["method"], row["step"]) for row in curves] == [("palp", "50"), ("palp", "100"), ("palp", "200")]
    (tmp_path / "pictures.csv").write_text("file,prompt,step\n01.png,a [V],many")
    with pytest.raises(FileError, match=r"line 2 of .* has the step 'many', which is no whole number"):
        read_layout(tmp_path)
