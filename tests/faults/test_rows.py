"""The matrix itself: every node of the pack has a row, and a change of any kind in a model is noticed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from devtools.faults.matrix import COMBINATIONS, MATRIX
from devtools.faults.parts import Parts, smallest_parts
from devtools.faults.state import differences, state_of

NODES = Path(__file__).parents[2] / "nodes"


def test_every_node_of_the_pack_has_a_row():
    texts = [file.read_text(encoding="utf-8") for file in NODES.glob("*.py")]
    ids = sum(len(re.findall(r"node_id=", text)) for text in texts)
    names = [name for text in texts for name in re.findall(r'^            display_name="([^"]+)"', text, re.MULTILINE)]
    names += re.findall(r'^NAME = "([^"]+)"', "\n".join(texts), re.MULTILINE)
    rows = [node.name for node in MATRIX]
    short = [re.sub(r".*\((.+)\)", r"\1", name) for name in names]  # LoRA Training (PALP Personalize)
    assert len(names) == ids and all(any(name in row for row in rows) for name in short)


def test_no_combination_is_there_twice():
    titles = [(node.title, fault.name) for node, fault in COMBINATIONS]
    assert len(set(titles)) == len(titles)


@pytest.fixture(scope="module")
def parts(host) -> Parts:
    return smallest_parts("sd1")


def first_weight(parts: Parts) -> torch.nn.Parameter:
    return next(parts.network.parameters())


CHANGES: dict[str, Callable[[Parts], object]] = {
    "a weight of the MODEL": lambda parts: first_weight(parts).data.view(-1)[:1].add_(1e-6),
    "a weight of the VAE": lambda parts: next(parts.vae.first_stage_model.parameters()).data.view(-1)[:1].add_(1.0),
    "a flag": lambda parts: first_weight(parts).requires_grad_(not first_weight(parts).requires_grad),
    "a hook of the CLIP": lambda parts: parts.encoders[0].register_forward_hook(lambda *_: None),
    "a mode": lambda parts: parts.network.train(not parts.network.training),
    "a forward": lambda parts: setattr(parts.network, "forward", print),
    "a wrapper": lambda parts: parts.model.add_wrapper_with_key("apply_model", "test", print),
    "a tokenizer": lambda parts: setattr(parts.clip, "tokenizer", None),
    "random numbers": lambda _: torch.rand(1),
    "a setting of torch": lambda _: torch.set_float32_matmul_precision("medium"),
}


@pytest.mark.host
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(parts, change):
    before = state_of(parts)
    assert differences(before, state_of(parts)) == []
    try:
        CHANGES[change](parts)
        assert differences(before, state_of(parts))
    finally:
        torch.set_float32_matmul_precision("highest")
