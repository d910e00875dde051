"""`palp train` that is ended early, or fails: what it has learned is kept, and the first cause is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from devtools.faults.seams import no_space
from devtools.random_models import pictures, tiny_pipeline
from palp_core.cli import main as cli
from palp_core.errors import OUT_OF_MEMORY
from palp_core.files import writing
from palp_core.files.lora_file import load_lora_file
from palp_core.methods.personalization_learner import PersonalizationLearner

KEPT = "my_cat_step2_00001.safetensors"


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    """Of a training of five steps on a tiny model, into the folder `loras`."""
    tiny_pipeline("sd1", tmp_path / "made").save_pretrained(tmp_path / "model", safe_serialization=True)
    photo = tmp_path / "cat.png"
    Image.fromarray((pictures((64, 64))[0] * 255).byte().numpy()).save(photo)
    named = {"model": tmp_path / "model", "images": photo, "class-word": "cat", "target-prompt": "a sketch of [V]"}
    settings = {
        "out": tmp_path / "loras",
        "file-name": "my_cat",
        "steps": 5,
        "rank": 2,
        "resolution": 64,
        "device": "cpu",
    }
    return ["train", *(str(part) for name, value in (named | settings).items() for part in (f"--{name}", value))]


def palp(monkeypatch, arguments: list[str]) -> int | str | None:
    """What the command exits with."""
    monkeypatch.setattr(sys, "argv", ["palp", *arguments])
    try:
        cli.main()
    except SystemExit as ending:
        return ending.code
    return None


def at_third_step(monkeypatch, event) -> None:
    """Let something happen in the place of the third step."""
    step = PersonalizationLearner.step

    def or_event(learner):
        if learner.done == 2:
            event()
        return step(learner)

    monkeypatch.setattr(PersonalizationLearner, "step", or_event)


def raising(error: BaseException) -> None:
    raise error


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".safetensors" and path.name[0] != ".")


def test_an_interrupted_step_keeps_those_before_it(monkeypatch, tmp_path, arguments):
    at_third_step(monkeypatch, partial(raising, KeyboardInterrupt()))
    assert palp(monkeypatch, arguments) == f"palp: stopped. What was learned in 2 steps is kept in {KEPT}."
    assert load_lora_file(tmp_path / "loras" / KEPT).info.steps == 2


def test_sigterm_ends_the_step_and_saves(monkeypatch, capsys, tmp_path, arguments):
    usual = signal.getsignal(signal.SIGTERM)
    at_third_step(monkeypatch, partial(os.kill, os.getpid(), signal.SIGTERM))
    assert palp(monkeypatch, arguments) == 143
    told = capsys.readouterr()
    assert told.out.strip().endswith("my_cat_step3_00001.safetensors")
    assert "stopped: what was learned until now is kept; the same command goes on from there." in told.err
    assert files(tmp_path / "loras") == ["my_cat_step3_00001.safetensors"]
    assert signal.getsignal(signal.SIGTERM) is usual


def test_a_process_that_gets_sigterm_exits_with_143_and_its_file(tmp_path, arguments):
    arguments[arguments.index("--steps") + 1] = "100000"
    command = [sys.executable, "-m", "palp_core.cli.main", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        kept = tmp_path / "loras/runs/my_cat_00001/settings.json"  # it trains from now on
        while not kept.exists() and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 143 and "Traceback" not in err
    assert files(tmp_path / "loras") == [Path(out.strip()).name]


def test_a_card_that_is_too_small_is_one_line_with_the_remedy(monkeypatch, tmp_path, arguments):
    at_third_step(monkeypatch, partial(raising, torch.cuda.OutOfMemoryError("Tried to allocate 2.00 GiB.")))
    told = palp(monkeypatch, arguments)
    assert told == f"palp: {OUT_OF_MEMORY} What was learned in 2 steps is kept in {KEPT}."
    assert files(tmp_path / "loras") == [KEPT]


def test_an_error_that_is_ours_to_mend_keeps_its_traceback_and_what_was_learned(monkeypatch, capsys, arguments):
    at_third_step(monkeypatch, partial(raising, TypeError("a mistake in the code")))
    with pytest.raises(TypeError, match="a mistake in the code"):
        palp(monkeypatch, arguments)
    assert f"What was learned in 2 steps is kept in {KEPT}." in capsys.readouterr().err


def test_a_full_disk_does_not_hide_why_a_training_failed(monkeypatch, tmp_path, arguments):
    at_third_step(monkeypatch, partial(raising, OSError("the first cause")))
    with no_space(writing, "at the first byte"):
        told = palp(monkeypatch, arguments)
    assert told.startswith("palp: the first cause What was learned could not be saved.") and "No space left" in told


def test_a_device_that_is_lost_does_not_hide_why_a_training_failed(monkeypatch, tmp_path, arguments):
    at_third_step(monkeypatch, partial(raising, OSError("the first cause")))
    monkeypatch.setattr(PersonalizationLearner, "result", lambda _: raising(RuntimeError("device lost")))
    told = palp(monkeypatch, arguments)
    assert told == "palp: the first cause What was learned could not be copied from the model: device lost"


def test_a_chart_that_fails_is_told_and_the_file_is_there(monkeypatch, caplog, tmp_path, arguments):
    fill = writing.fill

    def full_for_charts(path, content) -> None:
        if list((tmp_path / "loras").glob("my_cat_*")):  # the training is saved
            raise OSError("No space left")
        fill(path, content)

    monkeypatch.setattr(writing, "fill", full_for_charts)
    assert palp(monkeypatch, arguments) is None
    assert [path.name for path in (tmp_path / "loras").glob("my_cat*")] == ["my_cat_00001.safetensors"]
    assert "the loss chart could not be written: No space left" in caplog.text
