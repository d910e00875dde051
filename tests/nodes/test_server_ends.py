"""A real server that is told to end while a node trains: what was learned is saved first."""

from __future__ import annotations

import signal

import pytest

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
    assert f"PALP Personalize was cancelled. What was learned in {load_lora_file(kept).info.steps} steps" in log
