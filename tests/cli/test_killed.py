"""`palp train` that is killed at any moment: the same command goes on, and ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file

from devtools.comfy_server import REPO
from devtools.forking import Forked, run_script
from devtools.random_models import pictures, tiny_pipeline

#: Keeps its state after each step, in place of every two minutes.
EAGER = f"""
import sys
sys.path.insert(0, {str(REPO)!r})
from palp_core.methods import recording
recording.SECONDS_BETWEEN_STATES = 0.0
from palp_core.cli.main import main
main()
"""
STEPS = 60


def begun(folder: Path, out: str) -> Forked:
    """`palp train` in a process of its own; what it tells is added to told.txt."""
    named = {"model": folder / "model", "images": folder / "cat.png", "class-word": "cat", "out": folder / out}
    named |= {"target-prompt": "a sketch of [V]", "steps": STEPS, "rank": 2, "resolution": 64, "device": "cpu"}
    script = folder / "eager.py"
    script.write_text(EAGER)
    arguments = ["train", *(part for k, v in named.items() for part in (f"--{k}", v))]
    return run_script(script, arguments, folder, os.environ, folder / "told.txt")


def killed(process: Forked, runs: Path, wait: float) -> None:
    """Let it work until it has a state, for a while more, and end it as a power cut would."""
    while process.poll() is None and not list(runs.glob("*/state.safetensors")):
        time.sleep(0.01)
    time.sleep(wait)
    process.kill()
    process.wait()


def test_killed_three_times_it_ends_bit_equal_to_a_training_that_was_not(tmp_path):
    tiny_pipeline("sd1", tmp_path / "made").save_pretrained(tmp_path / "model", safe_serialization=True)
    Image.fromarray((pictures((64, 64))[0] * 255).byte().numpy()).save(tmp_path / "cat.png")
    assert begun(tmp_path, "whole").wait() == 0
    moments = random.Random(0)
    for _ in range(3):
        killed(begun(tmp_path, "cut"), tmp_path / "cut/runs", moments.uniform(0, 1))
    (tmp_path / "told.txt").unlink()
    assert begun(tmp_path, "cut").wait() == 0
    assert "goes on from step" in (tmp_path / "told.txt").read_text()
    whole, cut = (load_file(next((tmp_path / out).glob("*.safetensors"))) for out in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(torch.equal(whole[key], cut[key]) for key in whole)
    assert len(list((tmp_path / "cut/runs").iterdir())) == 1
