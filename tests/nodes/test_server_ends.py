"""A real server that is told to end while a node trains: what was learned is saved first."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
import torch

from devtools.graphs import personalize_graph
from palp_core import load_lora_file

pytestmark = pytest.mark.host


class EndedError(Exception):
    """Leaves the run that is being followed."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_ended_keeps_what_was_learned(server, sd15_checkpoint, number):
    process, loras = server._process, server.base_directory / "models/loras"

    def end(message):
        if message.type == "progress" and message.data["node"] == "10" and message.data["value"] >= 2:
            process.send_signal(number)
            raise EndedError

    prompt = personalize_graph(sd15_checkpoint, steps=100_000, file_name=f"ended_by_{number.name}")
    try:
        with pytest.raises(EndedError):
            server.queue(prompt, on_message=end)
        status = process.wait(90)
        log = server.log()
    finally:
        server.restart()
    assert (status == -signal.SIGTERM) == (number == signal.SIGTERM)
    (kept,) = loras.glob(f"ended_by_{number.name}_step*_00001.safetensors")
    assert load_lora_file(kept).info.steps >= 2
    assert f"(PALP Personalize) was cancelled. What was learned in {load_lora_file(kept).info.steps} steps" in log


def killed_in_a_save(server, graph: dict, folder: Path) -> None:
    """Queue, and kill the server in the moment in which a file of the training's folder is being written."""
    process, left = server._process, {*os.listdir(folder)}  # as of an earlier kill

    def watch() -> None:
        while process.poll() is None:
            if any(name.endswith(".part") for name in {*os.listdir(folder)} - left):
                process.kill()

    watcher = threading.Thread(target=watch)
    watcher.start()
    with pytest.raises(RuntimeError, match="The server went away"):
        server.queue(graph)
    watcher.join()


def test_a_server_that_is_killed_five_times_loses_what_came_after_the_last_state_and_no_more(server, sd15_checkpoint):
    """Its state is kept with each picture, and two kills fall into that. It ends bit for bit as an unkilled run."""
    loras, process = server.base_directory / "models/loras", None

    def graph(name: str, **options) -> dict:
        chosen = {"preview_every": 2, **options}
        return personalize_graph(sd15_checkpoint, steps=12, seed=91, file_name=name, options=chosen)

    def killed_at(step: int):
        def kill(message):
            if message.type == "progress" and message.data["node"] == "10" and message.data["value"] >= step:
                process.kill()
                raise EndedError

        return kill

    for step in (3, None, 7, None, 11):
        process = server._process
        if step is None:
            killed_in_a_save(server, graph("killed"), server.base_directory / "output/palp/killed_00001")
        else:
            with pytest.raises(EndedError):
                server.queue(graph("killed"), on_message=killed_at(step))
        process.wait(90)
        server.restart()
    ended = server.queue(graph("killed")).require_success()
    told = [text for node, text in ended.texts if node == "10"][-1]
    assert int(told.partition("It went on from step ")[2].split(".")[0]) >= 10
    assert not list(loras.glob("*.part*"))
    server.queue(graph("unkilled", retrain=True)).require_success()
    one, other = (load_lora_file(loras / f"{name}_00001.safetensors").lora for name in ("unkilled", "killed"))
    assert all(torch.equal(one[key], other[key]) for key in one)
