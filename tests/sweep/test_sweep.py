"""`palp sweep` as a user types it: what is there is taken, what fails is told, what was stopped goes on."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from palp_core.errors import DivergedError, PalpError
from palp_core.evaluation.layout import read_layout
from palp_core.evaluation.references import find_references
from palp_core.sweep.cells import cells_of
from palp_core.sweep.folder import log_begin
from palp_core.sweep.jobs import read_jobs
from palp_core.sweep.work import MOST_LOST, CellWorker, Work


@pytest.fixture
def few(jobs) -> Path:
    """Three cells: the base model, plain training, and the paper's score."""
    text = jobs.read_text().replace("  r2: {class_word: robot, individual: 12}\n", "")
    jobs.write_text(text.replace("seeds: [0, 1, 2, 3, 4, 5]", "seeds: [0]") + "\n")
    jobs.write_text(jobs.read_text().replace("  plain:", "  palp: {score: palp, alpha: 4, beta: 2}\n  plain:"))
    return jobs


def rows(out: Path) -> list[dict]:
    with (out / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def raising(error: BaseException):
    def event() -> None:
        raise error

    return event


def test_cells_are_computed_once_and_the_table_is_a_folder_to_evaluate(monkeypatch, capsys, tmp_path, few, sweep):
    out = tmp_path / "out"
    assert sweep(few, out, "--set", "pictures.at=[2]") is None
    shown = capsys.readouterr()
    assert "palp   " in shown.out and "base, tom, seed 0" in shown.err
    found = rows(out)
    assert [(row["method"], row["step"]) for row in found] == [
        *[("base", "0"), ("palp", "2"), ("palp", "3"), ("plain", "2"), ("plain", "3")],
    ]
    assert all(-1 <= float(row[axis]) <= 1 for row in found for axis in ("clip_t", "clip_i", "dino"))
    lines = [json.loads(line) for line in (out / "table.jsonl").read_text().splitlines()]
    assert [line["dino"] for line in lines] == [float(row["dino"]) for row in found]
    shots = read_layout(out)
    assert [(one.method, str(one.step)) for one in shots] == [(row["method"], row["step"]) for row in found]
    assert all(one.file.is_file() for one in shots)
    assert find_references(out / "photos", ["tom"], "")["tom"].class_word == "cat"
    assert len(list(out.glob("cells/*/palp_00001.safetensors"))) == 2
    assert not list(out.glob("cells/*/*/state.safetensors"))

    monkeypatch.setattr(CellWorker, "__init__", lambda *_: pytest.fail("loaded a model"))
    table = (out / "table.csv").read_text()
    assert sweep(few, out, "--set", "pictures.at=[2]") is None
    assert (out / "table.csv").read_text() == table
    assert "3 of 3 cells are there and are taken." in capsys.readouterr().err


def test_more_pictures_are_drawn_from_the_states_that_were_kept(tmp_path, few, sweep, at_step):
    out = tmp_path / "out"
    assert sweep(few, out, "--keep-states") is None
    first = {file: file.read_bytes() for file in out.rglob("001.png")}
    taken = at_step(0, None)
    assert sweep(few, out, "--keep-states", "--set", "pictures.count=2") is None
    assert not taken and len(list(out.rglob("002.png"))) == 3
    assert {file: file.read_bytes() for file in out.rglob("001.png")} == first
    shutil.rmtree(out)
    assert sweep(few, out, "--set", "pictures.count=2") is None
    assert {file: file.read_bytes() for file in out.rglob("001.png")} == first


def test_a_cell_that_fails_is_told_and_the_rest_goes_on(capsys, tmp_path, few, sweep, at_step):
    out = tmp_path / "out"
    at_step(2, raising(DivergedError(2)))
    told = sweep(few, out)
    assert told == "palp: 1 of 3 cells failed; the same command tries them again."
    assert "failed: palp, tom, seed 0, a sketch of a [V] with a hat on the beach: the loss" in capsys.readouterr().err
    assert [row["method"] for row in rows(out)] == ["base", "plain"]
    assert sweep(few, out) is None
    assert [row["method"] for row in rows(out)] == ["base", "palp", "plain"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_a_signal_the_same_command_goes_on(tmp_path, few, sweep, at_step, number, code):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert sweep(few, whole) is None
    taken = at_step(2, lambda: os.kill(os.getpid(), number))
    assert sweep(few, out) == code
    assert [row["method"] for row in rows(out)] == ["base"] and taken == [0, 1]
    assert sweep(few, out) is None
    assert taken == [0, 1, 2, 0, 1, 2]
    assert (out / "table.csv").read_text() == (whole / "table.csv").read_text()


def test_a_cell_that_ends_its_process_again_and_again_is_given_up(tmp_path, few):
    plan = read_jobs(few)
    cell = cells_of(plan, tmp_path)[0]
    worker = object.__new__(CellWorker)  # it is to load nothing
    worker.work = Work(plan, tmp_path, run="one")
    folder = cell.folder(tmp_path)
    folder.mkdir(parents=True)
    for begun_before in range(MOST_LOST):
        assert log_begin(folder, "one") == begun_before
    with pytest.raises(PalpError, match=f"its process was ended {MOST_LOST} times while it worked"):
        worker(cell)
    assert log_begin(folder, "another run") == 0


def test_cells_are_listed_without_being_computed(capsys, tmp_path, few, sweep):
    assert sweep(few, tmp_path / "out", "--dry-run") is None
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["missing"] * 3


def test_bad_input_is_one_line(tmp_path, few, sweep):
    out = tmp_path / "out"
    assert sweep(few, out, "--paper") == "palp: --paper takes --model and --photos, and no file of jobs."
    assert sweep(few, out, "--set", "settings") == "palp: set has 'settings'; write it as settings.steps=100."
    assert "no such file" in str(sweep(tmp_path / "missing.yaml", out)).lower()
