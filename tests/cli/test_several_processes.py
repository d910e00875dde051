"""`torchrun ... -m palp_core train`: processes that share each batch learn what one process learns."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from devtools.comfy_server import REPO
from devtools.forking import Forked, run_script
from devtools.random_models import pictures, tiny_pipeline

SCRIPT = f"""
import sys
sys.path.insert(0, {str(REPO)!r})
from palp_core.cli.main import main
main()
"""
PHOTOS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny model, photos with different captions, and the command as a script."""
    folder = tmp_path_factory.mktemp("shared")
    tiny_pipeline("sd1", folder / "made").save_pretrained(folder / "model", safe_serialization=True)
    (folder / "photos").mkdir()
    for number, picture in enumerate(pictures(*[(64, 64)] * PHOTOS)):
        Image.fromarray((picture * 255).byte().numpy()).save(folder / f"photos/{number}.png")
    (folder / "photos/1.txt").write_text("a cat in the snow")
    (folder / "palp.py").write_text(SCRIPT)
    return folder


def begun(folder: Path, out: str, count: int, **options: object) -> list[Forked]:
    """Start processes as torchrun does, `palp train` in each; what process N tells is in OUT_N.txt."""
    named = {"model": folder / "model", "images": folder / "photos", "class-word": "cat", "out": folder / out}
    named |= {"target-prompt": "a sketch of [V]", "rank": 2, "resolution": 64, "device": "cpu", "batch-size": 4}
    arguments = ["train", *(part for k, v in (named | options).items() for part in (f"--{k}", v))]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}

    def process(rank: int) -> Forked:
        environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        return run_script(folder / "palp.py", arguments, folder, environment, folder / f"{out}_{rank}.txt")

    return [process(rank) for rank in range(count)]


def ended(processes: list[Forked]) -> list[int]:
    return [process.wait(300) for process in processes]


def learned(folder: Path) -> dict[str, torch.Tensor]:
    """What the one file there holds."""
    [file] = folder.glob("*.safetensors")
    return load_file(file)


def assert_equal_to_rounding(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        torch.testing.assert_close(other[key].float(), value.float(), rtol=2e-3, atol=2e-5)


@pytest.fixture(scope="module")
def alone(folder) -> dict[str, torch.Tensor]:
    """What one process learns."""
    assert ended(begun(folder, "alone", 1, steps=6)) == [0]
    return learned(folder / "alone")


def test_two_processes_learn_what_one_learns_and_one_of_them_writes(folder, alone):
    assert ended(begun(folder, "both", 2, steps=6)) == [0, 0]
    assert any(value.abs().sum() > 0 for key, value in alone.items() if "lora_up" in key)
    assert_equal_to_rounding(alone, learned(folder / "both"))
    assert len(list((folder / "both/runs").iterdir())) == 1
    assert "Learning [V] (cat) from 3 photos" in (folder / "both_0.txt").read_text()
    assert (folder / "both_1.txt").read_text() == ""


def test_sigterm_to_one_ends_both_and_they_go_on_together(folder, alone):
    processes = begun(folder, "cut", 2, steps=100_000)
    while not list((folder / "cut/runs").glob("*/subject.png")) and processes[0].poll() is None:
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    assert ended(processes) == [0, 0]
    [kept] = (folder / "cut").glob("palp_step*.safetensors")
    kept.unlink()
    steps = int(kept.name.split("_")[1].removeprefix("step")) + 2
    assert ended(begun(folder, "cut", 2, steps=steps)) == [0, 0]
    assert "goes on from step" in (folder / "cut_0.txt").read_text()
    assert ended(begun(folder, "whole", 1, steps=steps)) == [0]
    assert_equal_to_rounding(learned(folder / "whole"), learned(folder / "cut"))


def test_a_batch_that_cannot_be_shared_is_named(folder):
    assert ended(begun(folder, "odd", 2, **{"batch-size": 3, "steps": 6})) == [1, 1]
    told = (folder / "odd_0.txt").read_text()
    assert "palp: batch_size is 3, and 2 processes share each batch. Set it to a multiple of 2." in told
