"""The same graph on a real server, again: after Cancel and a restart it goes on, and what is there is not trained."""

from __future__ import annotations

import json
import re

import pytest
import torch

from devtools.comfy_server import Result
from devtools.graphs import personalize_graph, word_graph
from palp_core import load_lora_file

pytestmark = pytest.mark.host


def steps_taken(result: Result) -> int:
    """How many steps the training node told of; in the end it may show its last one again, with the picture."""
    return len({value for node, value, _ in result.progress if node == "10"})


def said(result: Result) -> str:
    """The last line under the training node."""
    return [text for node, text in result.texts if node == "10"][-1]


def test_a_cancelled_graph_goes_on_after_a_restart_and_a_finished_one_is_taken(server, sd15_checkpoint):
    loras, runs = server.base_directory / "models/loras", server.base_directory / "output/palp"

    def cancel(message):
        if message.type == "progress" and message.data["node"] == "10" and message.data["value"] == 2:
            server.interrupt()

    graph = personalize_graph(sd15_checkpoint, steps=6, seed=71, file_name="whole", options={"memory": "8"})
    whole = server.queue(graph).require_success()
    assert re.search(r"Saved as whole_00001.safetensors. It took \d+:\d\d\.", said(whole))
    assert any(re.search(r"Step \d of 6, .*, \d+:\d\d of \d+:\d\d left, ", text) for _, text in whole.texts)
    assert said(whole).endswith("GB of RAM.")  # and on a CPU 8 GB change nothing, so that what follows is the same
    graph = personalize_graph(
        sd15_checkpoint,
        steps=6,
        seed=71,
        file_name="halved",
        options={"retrain": True},
        links={"images.image0": ["2", 0]},
    )
    server.queue(graph, on_message=cancel)
    (run,) = [path for path in runs.glob("halved_*")]
    kept = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["index"] + 1
    assert 2 <= kept < 6 and not (run / "result.json").exists()
    one = load_lora_file(loras / "whole_00001.safetensors").lora
    for file in (runs / "whole_00001/settings.json", loras / "whole_00001.safetensors"):
        file.unlink()  # by either of them the whole one would be taken
    server.restart()
    graph = personalize_graph(sd15_checkpoint, steps=6, seed=71, file_name="halved")
    again = server.queue(graph).require_success()
    assert [path.name for path in runs.glob("halved_*")] == [run.name], [
        file.read_text() for file in runs.glob("halved_*/settings.json")
    ]
    assert f"Saved as halved_00001.safetensors. It went on from step {kept}." in said(again)
    other = load_lora_file(loras / "halved_00001.safetensors").lora
    assert all(torch.equal(one[key], other[key]) for key in one)

    server.restart()
    taken = server.queue(graph).require_success()
    assert "Taken from halved_00001.safetensors" in said(taken) and steps_taken(taken) == 0
    assert not (loras / "halved_00002.safetensors").exists()
    longer = server.queue(personalize_graph(sd15_checkpoint, steps=8, seed=71, file_name="halved")).require_success()
    assert "It went on from step 6" in said(longer) and steps_taken(longer) == 2


def test_a_word_is_taken_too_and_retrained_when_asked(server, sd15_checkpoint):
    widgets = {"steps": 3, "seed": 72, "name": "taken_word"}
    server.queue(word_graph(sd15_checkpoint, **widgets)).require_success()
    server.restart()
    taken = server.queue(word_graph(sd15_checkpoint, **widgets)).require_success()
    assert "Taken from taken_word.safetensors" in said(taken) and steps_taken(taken) == 0
    refused = server.queue(word_graph(sd15_checkpoint, **widgets, options={"retrain": True}))
    assert "taken_word.safetensors is in the embeddings folder already" in str(refused.error)
    widgets["overwrite"] = True
    anew = server.queue(word_graph(sd15_checkpoint, **widgets, options={"retrain": True})).require_success()
    assert "Saved as taken_word.safetensors." in said(anew) and steps_taken(anew) == 3
