"""Learning rates that rise and fall, gradients that are added up, and the average that is saved."""

from __future__ import annotations

import math

import pytest
import torch

from devtools.random_models import pictures, tiny_pipeline
from palp_core import Concept, Personalization, PersonalizationConfig, Subject, TextualInversion
from palp_core.errors import FileError
from palp_core.files.run_state import RunState
from palp_core.methods.result import personalization_identity
from palp_core.methods.textual_inversion import TextualInversionConfig
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.training.config import TrainingConfig
from palp_core.training.loop import Training
from palp_core.training.optimizers import Optimizer, mean_of
from palp_core.training.schedule import rate_factor

SHARED = {"steps": 4, "resolution": 64, "batch_size": 1}
CRAFT = {"gradient_accumulation": 2, "warmup_steps": 2, "lr_scheduler": "cosine", "ema_decay": 0.9}


@pytest.fixture
def backbone(tmp_path):
    return DiffusersBackbone(tiny_pipeline("sd1", tmp_path), device="cpu")


def personalization(backbone, **settings) -> Training:
    config = PersonalizationConfig(**{**SHARED, "rank": 2, "learning_rate": 1e-2, **settings})
    return Training(Personalization(backbone, [Subject(pictures((64, 64)), "cat")], "a sketch of [V]", config))


def word(backbone, **settings) -> Training:
    config = TextualInversionConfig(**{**SHARED, "hold_norm": False, "learning_rate": 1e-2, **settings})
    return Training(TextualInversion(backbone, Concept(pictures((64, 64)), "c"), config))


def test_rates_rise_stay_and_fall_to_nothing():
    assert [rate_factor(step, 10, 3, "constant") for step in (0, 1, 2, 3, 9)] == [0.25, 0.5, 0.75, 1, 1]
    linear = [rate_factor(step, 8, 0, "linear") for step in range(8)]
    assert linear == [1 - step / 8 for step in range(8)]
    cosine = [rate_factor(step, 10, 2, "cosine") for step in range(10)]
    assert cosine[2] == 1 and cosine[6] == pytest.approx(0.5) and 0 < cosine[9] < 0.05
    assert rate_factor(4, 3, 5, "linear") <= 1  # warmed up for longer than it trains


def test_gradients_of_several_batches_are_those_of_their_mean(backbone):
    """What a step does then is what it does with one batch as large as all of them."""

    def stepped(parts: int) -> torch.Tensor:
        weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        config = TrainingConfig(steps=3, gradient_accumulation=parts, max_grad_norm=0.5)
        optimizer = Optimizer([{"params": [weight], "lr": 0.1}], backbone, config)
        losses = [(weight * scale).square().sum() for scale in (1.0, 3.0)]
        for loss in losses if parts == 2 else [sum(losses) / 2]:
            optimizer.backward(loss)
        optimizer.step(1, {})
        return weight.detach()

    torch.testing.assert_close(stepped(2), stepped(1))


def test_more_batches_a_step_are_drawn_and_their_mean_is_told(backbone):
    single, double = (list(personalization(backbone, gradient_accumulation=n).steps()) for n in (1, 2))
    first, second = (step.losses["denoising_loss"] for step in single[:2])
    assert double[0].losses["denoising_loss"] != first and math.isfinite(second)
    assert double[0].sigma == pytest.approx((single[0].sigma + single[1].sigma) / 2, rel=1e-5)  # both steps' draws


def test_what_is_told_of_a_step_is_each_names_mean_over_the_batches_that_have_it():
    plain, masked = {"loss": torch.tensor(1.0)}, {"loss": torch.tensor(3.0), "outside": torch.tensor(4.0)}
    for passes in ([plain, masked], [masked, plain]):
        assert mean_of(passes) == {"loss": 2.0, "outside": 4.0}


def test_two_subjects_of_which_one_has_masks_share_a_step(backbone):
    subjects = [
        Subject(pictures((64, 64)), "cat", "[V1]", masks=(torch.eye(64),)),
        Subject(pictures((64, 64)), "dog", "[V2]"),
    ]
    config = PersonalizationConfig(**{**SHARED, "rank": 2, "gradient_accumulation": 2, "masked_prior": 0.5, "steps": 8})
    steps = list(Training(Personalization(backbone, subjects, "[V1] and [V2]", config)).steps())
    assert {step.subject for step in steps} >= {"[V1] [V2]", "[V2] [V1]"}
    assert all(("masked_prior" in step.losses) == ("[V1]" in step.subject) for step in steps)


@pytest.mark.parametrize("make", [personalization, word])
def test_what_is_saved_is_the_average_of_all_steps(backbone, make):
    last, raw = make(backbone), []
    for _ in last.steps():
        raw.append(torch.cat([t.flatten() for t in tensors(last.learner.result())]))
    average = make(backbone, ema_decay=0.9)
    list(average.steps())
    start = make(backbone, steps=1, learning_rate=1e-30)
    list(start.steps())
    expected = torch.cat([t.flatten() for t in tensors(start.result)])
    for number, values in enumerate(raw, 1):
        decay = min(0.9, number / (number + 9))
        expected = expected.lerp(values, 1 - decay)
    found = torch.cat([t.flatten() for t in tensors(average.result)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, raw[-1], atol=1e-4)


def tensors(result) -> list[torch.Tensor]:
    """What a training has learned, but for the scale of the LoRA."""
    if hasattr(result, "vectors"):
        return list(result.vectors.values())
    return [t for name, t in result.lora.items() if not name.endswith(".alpha")]


@pytest.mark.parametrize("make", [personalization, word])
def test_with_all_of_it_a_resumed_run_ends_bit_equal(backbone, make):
    whole, first, second = (make(backbone, **CRAFT) for _ in range(3))
    list(whole.steps())
    for step in first.steps():
        if step.index == 1:
            first.learner.result()  # looking changes nothing
            state = first.learner.state()
            break
    list(second.steps(state))
    assert all(map(torch.equal, tensors(second.result), tensors(whole.result)))
    assert all(torch.equal(whole.state[key], second.state[key]) for key in whole.state)


def test_where_rates_fall_more_steps_are_another_training(backbone):
    def identity(**settings) -> str:
        return personalization_identity(personalization(backbone, **settings).method)

    assert identity(steps=4) == identity(steps=8)
    assert identity(steps=4, lr_scheduler="linear") != identity(steps=8, lr_scheduler="linear")
    assert len({identity(), *(identity(**{name: value}) for name, value in CRAFT.items())}) == 5


def test_averages_that_are_not_of_what_is_trained_are_refused(backbone, tmp_path):
    run = personalization(backbone, ema_decay=0.9)
    rows = [step._asdict() for step in run.steps()]
    kept = RunState(tmp_path / "state.safetensors", "0123")
    kept.save(run.state, rows)
    assert kept.read()[0].keys() == run.state.keys()
    kept.save({**run.state, "average.0": run.state["average.0"][:1]}, rows)
    with pytest.raises(FileError, match="is damaged: its averages are not of what is trained"):
        kept.read()
