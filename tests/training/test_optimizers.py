"""Optimizers to choose from: packages that may be missing, runs that go on bit by bit, files that are looked at."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import pytest
import torch

from devtools.random_models import pictures, tiny_pipeline
from palp_core import Concept, Personalization, PersonalizationConfig, Subject, TextualInversion
from palp_core.errors import FileError, SettingError
from palp_core.files.run_state import RunState
from palp_core.methods.memory import workload
from palp_core.methods.result import personalization_identity
from palp_core.methods.textual_inversion import TextualInversionConfig
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.training.demand import demand
from palp_core.training.loop import Training
from palp_core.training.optimizer_kinds import KEPT_BYTES, PACKAGES

SHARED = {"steps": 6, "resolution": 64, "batch_size": 1, "learning_rate": 1e-2}


#: adamw8bit's package is large and for cards: tests/test_cuda.py has its tests.
OTHERS = ["prodigy", "schedulefree"]


@pytest.fixture
def backbone(tmp_path):
    return DiffusersBackbone(tiny_pipeline("sd1", tmp_path), device="cpu")


def personalization(backbone, optimizer: str, **settings) -> Training:
    # A LoRA of rank 64 has matrices of 4096 numbers and more, which are kept in 8 bits.
    config = PersonalizationConfig(**{**SHARED, "rank": 64, "hold_norm": False, "optimizer": optimizer, **settings})
    return Training(Personalization(backbone, [Subject(pictures((64, 64)), "cat")], "a sketch of [V]", config))


def word(backbone, optimizer: str) -> Training:
    config = TextualInversionConfig(**SHARED, hold_norm=False, optimizer=optimizer)
    return Training(TextualInversion(backbone, Concept(pictures((64, 64)), "c"), config))


def tensors(result) -> list[torch.Tensor]:
    return list(result.vectors.values() if hasattr(result, "vectors") else result.lora.values())


@pytest.mark.parametrize("make", [personalization, word])
@pytest.mark.parametrize("optimizer", OTHERS)
def test_a_run_that_is_resumed_from_its_file_ends_bit_equal(backbone, tmp_path, optimizer, make):
    whole, first, second = (make(backbone, optimizer) for _ in range(3))
    rows = [step._asdict() for step in whole.steps()]
    kept = RunState(tmp_path / "state.safetensors", "0123")
    for step in first.steps():
        if step.index == 2:
            first.learner.result()  # looking changes nothing
            kept.save(first.learner.state(), rows[:3])
            break
    list(second.steps(kept.read()[0]))
    assert all(map(torch.equal, tensors(second.result), tensors(whole.result)))
    assert whole.state.keys() == second.state.keys()
    assert all(torch.equal(whole.state[key], second.state[key]) for key in whole.state)


@pytest.mark.parametrize("optimizer", OTHERS)
def test_each_optimizer_learns(backbone, optimizer):
    start, run = personalization(backbone, "adamw", steps=1, learning_rate=1e-30), personalization(backbone, optimizer)
    for training in (start, run):
        list(training.steps())
    moved = [(a - b).abs().max() for a, b in zip(tensors(run.result), tensors(start.result), strict=True)]
    assert 0 < max(moved) < 1


def test_eight_bits_keep_a_quarter_of_what_adam_keeps(backbone):
    full = workload(personalization(backbone, "adamw").method)
    eight = replace(full, optimizer="adamw8bit")
    assert demand(backbone, eight).step < demand(backbone, full).step
    assert KEPT_BYTES["adamw"] == 4 * KEPT_BYTES["adamw8bit"]


def test_schedulefree_saves_its_average(backbone):
    """x of the paper's eq. 3 to 5: the mean of z over all steps, where the rate stays."""
    run, z = word(backbone, "schedulefree"), []
    for _ in run.steps():
        (state,) = run.learner.optimizer.optimizer.state.values()
        z.append(state["z"].clone())
    torch.testing.assert_close(tensors(run.result)[0], torch.stack(z).mean(dim=0), atol=1e-5, rtol=1e-4)


def test_prodigy_asks_for_no_learning_rate(backbone):
    runs = [personalization(backbone, "prodigy", learning_rate=rate) for rate in (1e-6, 1e-1)]
    for run in runs:
        list(run.steps())
    assert all(map(torch.equal, *(tensors(run.result) for run in runs)))


@pytest.mark.parametrize("optimizer", PACKAGES)
def test_a_missing_package_is_named_before_anything_is_trained(backbone, monkeypatch, optimizer):
    package = PACKAGES[optimizer]
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(SettingError, match=f"optimizer is {optimizer}.*pip install {package}.*or choose adamw"):
        personalization(backbone, optimizer)


def test_a_package_that_does_not_work_is_named(backbone, monkeypatch, tmp_path):
    (tmp_path / "schedulefree.py").write_text("raise RuntimeError('no such library')")
    monkeypatch.delitem(sys.modules, "schedulefree", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingError, match="its package schedulefree does not work: no such library"):
        personalization(backbone, "schedulefree")


def test_settings_that_work_against_schedulefree_are_refused():
    with pytest.raises(SettingError, match=r"ema_decay is 0\.9\. Set it to 0"):
        PersonalizationConfig(optimizer="schedulefree", ema_decay=0.9)
    with pytest.raises(SettingError, match="Switch hold_norm off"):
        TextualInversionConfig(optimizer="schedulefree")


def test_another_optimizer_is_another_training(backbone):
    identities = [personalization_identity(personalization(backbone, name).method) for name in ("adamw", "prodigy")]
    assert len(set(identities)) == 2


@pytest.mark.parametrize(
    ("optimizer", "name", "damage"),
    [
        ("adamw8bit", "absmax1", lambda t: t[:-1]),
        ("adamw8bit", "state1", lambda t: t.float()),
        ("adamw8bit", "qmap2", lambda t: t[:10]),
        ("prodigy", "s", lambda t: t[:-1]),
        ("schedulefree", "z", lambda t: t.half()),
        ("schedulefree", "z", lambda t: t[..., :-1]),
    ],
)
def test_what_is_not_an_optimizers_is_refused(backbone, tmp_path, optimizer, name, damage):
    run = personalization(backbone, "adamw" if optimizer == "adamw8bit" else optimizer, steps=1)
    rows = [step._asdict() for step in run.steps()]
    state = in_8_bits(run.state) if optimizer == "adamw8bit" else run.state
    kept = RunState(tmp_path / "state.safetensors", "0123")
    kept.save(state, rows)
    kept.read()
    key = max((key for key in state if key.endswith(f".{name}")), key=lambda key: state[key].numel())
    kept.save({**state, key: damage(state[key]).clone()}, rows)
    with pytest.raises(FileError, match="is damaged: the optimizer's numbers of parameter"):
        kept.read()


def in_8_bits(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Adam's numbers as bitsandbytes lays them out: a byte each, 256 levels, and a scale for each 256 of them."""
    found = {}
    for key, tensor in state.items():
        parameter, _, name = key.rpartition(".")
        if key.startswith("optimizer.") and name in ("exp_avg", "exp_avg_sq"):
            number = 1 if name == "exp_avg" else 2
            found[f"{parameter}.state{number}"] = torch.zeros(tensor.shape, dtype=torch.uint8)
            found[f"{parameter}.qmap{number}"] = torch.zeros(256)
            found[f"{parameter}.absmax{number}"] = torch.zeros(math.ceil(tensor.numel() / 256))
        else:
            found[key] = tensor
    return found
