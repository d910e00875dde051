"""Unfinished trainings: what is damaged is told in a sentence with the file and the remedy."""

from __future__ import annotations

import json
import random

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from devtools.random_files import PROJECTIONS, random_state
from palp_core.errors import FileError
from palp_core.files.run_state import RunState

DOWN = f"{PROJECTIONS[0]}.lora_down.weight"
REFUSED = r"state\.safetensors .*Delete its folder"


@pytest.fixture
def unfinished(tmp_path) -> RunState:
    kept = RunState(tmp_path / "state.safetensors", "0123abcd")
    kept.save(*random_state())
    return kept


def refused(kept: RunState) -> str:
    with pytest.raises(FileError, match=REFUSED) as refusal:
        kept.read()
    return str(refusal.value)


def test_what_is_read_is_what_was_kept(unfinished):
    state, history = random_state()
    read, rows = unfinished.read()
    assert rows == history and read.keys() == state.keys()
    assert all(torch.equal(read[key], value) and read[key].dtype == value.dtype for key, value in state.items())


def test_a_word_that_no_step_has_read_has_no_moments(unfinished):
    """Where no loss reads all words, as in a baseline without alignment, they begin to learn one after the other."""
    state, history = random_state()
    state["word.[V2].clip_l"] = state["word.[V].clip_l"].clone()
    for name in ("step", "exp_avg", "exp_avg_sq"):
        state[f"optimizer.5.{name}"] = state.pop(f"optimizer.4.{name}")
    unfinished.save(state, history)
    assert unfinished.read()[1] == history


@pytest.mark.parametrize("part", [0, 4, 8, 9, 100, 0.1, 0.5, 0.9, 0.999])
def test_a_state_that_is_cut_off_is_named(unfinished, part):
    content = unfinished.file.read_bytes()
    unfinished.file.write_bytes(content[: part if isinstance(part, int) else int(part * len(content))])
    refused(unfinished)


def test_a_flipped_bit_is_noticed_wherever_it_is(unfinished):
    content = unfinished.file.read_bytes()
    state, history = random_state()
    chosen = random.Random(0)
    header = int.from_bytes(content[:8], "little") + 8
    places = [*range(0, 8), *chosen.sample(range(8, header), 200), *chosen.sample(range(header, len(content)), 100)]
    unnoticed = []
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << chosen.randrange(8)
        unfinished.file.write_bytes(flipped)
        try:
            read, rows = unfinished.read()
        except FileError as error:
            assert unfinished.file.name in str(error)
            continue
        same = rows == history and read.keys() == state.keys()
        if not same or not all(torch.equal(read[key], value) for key, value in state.items()):
            unnoticed.append(place)
    assert unnoticed == []


def change_history(**row):
    def put(state, history) -> None:
        history[1] = {**history[1], **row}

    return put


def change_tensor(key: str, change):
    def put(state, history) -> None:
        state[key] = change(state[key])

    return put


WRONG = {
    "no LoRA pair": lambda state, history: state.pop(DOWN),
    "another rank": change_tensor(DOWN, lambda t: t[:2]),
    "NaN in the LoRA": change_tensor(DOWN, lambda t: t * float("nan")),
    "integers in the LoRA": change_tensor(DOWN, lambda t: t.long()),
    "no vectors": change_tensor("word.[V].clip_l", lambda t: t[:0]),
    "NaN in the word": change_tensor("word.[V].clip_l", lambda t: t * float("nan")),
    "no random numbers": lambda state, history: state.pop("random"),
    "random numbers cut": change_tensor("random", lambda t: t[:100]),
    "random numbers of another kind": change_tensor("random", lambda t: t.float()),
    "random numbers that are none": change_tensor("random", lambda t: t * 0 + 255),
    "alignment's random numbers cut": change_tensor("alignment_random", lambda t: t[:100]),
    "no number of steps": lambda state, history: state.pop("steps"),
    "another number of steps": change_tensor("steps", lambda t: t + 5),
    "steps below 0": change_tensor("steps", lambda t: -t),
    "steps as a row": change_tensor("steps", lambda t: t.repeat(3)),
    "steps NaN": change_tensor("steps", lambda t: t * float("nan")),
    "no moment": lambda state, history: state.pop("optimizer.0.exp_avg"),
    "a moment of another shape": change_tensor("optimizer.0.exp_avg", lambda t: t[:1]),
    "both moments of another shape": lambda state, history: state.update(
        {key: state[key][:1] for key in ("optimizer.0.exp_avg", "optimizer.0.exp_avg_sq")}
    ),
    "NaN in a moment": change_tensor("optimizer.0.exp_avg_sq", lambda t: t * float("nan")),
    "moments of a parameter that there is none of": lambda state, history: state.update(
        {key.replace(".4.", ".9."): state.pop(key) for key in list(state) if key.startswith("optimizer.4.")}
    ),
    "a moment that has no number": lambda state, history: state.update({"optimizer.x.exp_avg": torch.ones(1)}),
    "a moment that has no name": lambda state, history: state.update({"optimizer.0": torch.ones(1)}),
    "a foreign tensor": lambda state, history: state.update({"something": torch.ones(1)}),
    "history too short": lambda state, history: history.pop(),
    "a row that is a number": lambda state, history: history.__setitem__(0, 3),
    "a row with another field": change_history(colour="blue"),
    "an index that is a text": change_history(index="1"),
    "another index": change_history(index=7),
    "a sigma that is a list": change_history(sigma=[1]),
    "a loss that is a text": change_history(losses={"denoising_loss": "low"}),
    "a loss that is NaN": change_history(losses={"denoising_loss": float("nan")}),
    "losses that are a number": change_history(losses=3),
    "a subject that is a number": change_history(subject=3),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_state_that_no_training_has_is_refused_though_its_checksum_is_right(unfinished, case):
    state, history = random_state()
    WRONG[case](state, history)
    unfinished.save(state, history)
    refused(unfinished)


@pytest.mark.parametrize(
    "change",
    [
        lambda metadata: metadata.pop("identity"),
        lambda metadata: metadata.pop("history"),
        lambda metadata: metadata.pop("palp_sha256", None),
        lambda metadata: metadata.clear(),
        lambda metadata: metadata.update(history="["),
        lambda metadata: metadata.update(history="{}"),
        lambda metadata: metadata.update(history="[" * 100_000 + "]" * 100_000),
        lambda metadata: metadata.update(palp_sha256="0" * 64),
    ],
)
def test_a_state_without_what_it_says_of_itself_is_refused(unfinished, change):
    with safe_open(unfinished.file, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(unfinished.file)
    change(metadata)
    save_file(tensors, unfinished.file, metadata)
    refused(unfinished)


def test_a_long_training_is_kept_whole(tmp_path):
    """A hundred thousand steps are the most that a setting allows; other files have shorter headers."""
    kept = RunState(tmp_path / "state.safetensors", "0123abcd")
    state, _ = random_state()
    losses = {"denoising_loss": 0.12345678901234567, "score_gap": 0.12345678901234567}
    row = {"sigma": 12.345678901234567, "losses": losses, "subject": "[V]"}
    history = [{"index": index, **row} for index in range(100_000)]
    state["steps"] = torch.tensor(len(history))
    kept.save(state, history)
    assert len(json.dumps(kept.read()[1])) > 10_000_000


def test_the_state_of_another_training_is_refused(unfinished):
    other = RunState(unfinished.file, "ffff")
    with pytest.raises(FileError, match="another model, other photos"):
        other.read()


def test_a_folder_in_the_states_place_is_named(tmp_path):
    (tmp_path / "state.safetensors").mkdir()
    refused(RunState(tmp_path / "state.safetensors", "0123abcd"))
