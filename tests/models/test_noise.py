"""Noise levels, and the three kinds of prediction against their own definitions."""

from __future__ import annotations

import math

import pytest
import torch

from palp_core.models.noise import PREDICTIONS, NoiseLevels, flow_levels, per_sample, sample_mean

SIGMA = torch.tensor([0.1, 1.0, 20.0])


def drawn():
    """x0, eps and x = x0 + sigma*eps, of five dimensions, as latents of pictures with a time axis are."""
    generator = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(3, 4, 1, 6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return x0, eps, x0 + per_sample(SIGMA.double(), x0) * eps


def outputs(x0, eps):
    """What a perfect network of each kind puts out, and what it takes in, by the papers' own formulas."""
    sigma = per_sample(SIGMA.double(), x0)
    alpha, spread = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
    s = sigma / (1 + sigma)
    return {
        "epsilon": (alpha * x0 + spread * eps, eps),
        "v": (alpha * x0 + spread * eps, alpha * eps - spread * x0),
        "flow": ((1 - s) * x0 + s * eps, eps - x0),
    }


@pytest.mark.parametrize("name", PREDICTIONS)
def test_a_perfect_network_gives_back_the_picture(name):
    x0, eps, x = drawn()
    taken, output = outputs(x0, eps)[name]
    prediction = PREDICTIONS[name]
    torch.testing.assert_close(prediction.network_input(x, SIGMA.double()), taken)
    torch.testing.assert_close(prediction.denoised(x, SIGMA.double(), output), x0, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_the_weighted_error_of_x0_is_the_error_of_what_the_network_predicts(name):
    x0, eps, x = drawn()
    _, output = outputs(x0, eps)[name]
    wrong = output + 0.3 * torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    denoised = PREDICTIONS[name].denoised(x, SIGMA.double(), wrong)
    weighted = PREDICTIONS[name].loss_weight(SIGMA.double()) * sample_mean((denoised - x0).square())
    torch.testing.assert_close(weighted, sample_mean((wrong - output).square()))


def test_levels_are_found_by_share_number_and_part_of_the_schedule():
    levels = NoiseLevels(torch.linspace(1, 10, 10))
    assert levels.at(0.0).item() == 1 and levels.at(0.55).item() == 6
    assert levels.nearest(torch.tensor([1.2, 9.9])).tolist() == [0, 9]
    assert levels.evenly(4) == [1, 4, 7, 10]
    assert levels.span(0, 1) == (0.0, math.inf) and levels.span(0.0, 0.5)[0] == 5


def test_samples_of_a_batch_come_from_all_parts_of_the_schedule():
    levels, random = NoiseLevels(torch.arange(1.0, 101.0)), torch.Generator().manual_seed(0)
    drawn = torch.stack([levels.sample(4, random) for _ in range(100)])
    assert drawn.min() == 1 and drawn.max() == 100
    assert ((drawn[:, 1:] - drawn[:, :-1]) == 25).all()


def test_flows_draw_most_levels_from_the_middle_of_their_schedule():
    """The share of the schedule is the sigmoid of a normal variable, and a batch still has one of each stratum."""
    shares = torch.arange(1, 1001) / 1000
    levels = flow_levels(shares)
    assert len(levels) == 999 and levels.sigmas[499].item() == pytest.approx(1.0)  # s = .5; s = 1 is left out
    random = torch.Generator().manual_seed(0)
    drawn = torch.cat([levels.sample(4, random) for _ in range(500)])
    share = drawn / (1 + drawn)
    logit = (share / (1 - share)).log()
    assert logit.mean().abs() < 0.05 and logit.std() == pytest.approx(1.0, abs=0.03)
    batch = levels.sample(4, random).sort().values
    borders = torch.tensor([-0.6745, 0.0, 0.6745]).sigmoid()  # quartiles
    assert torch.equal(torch.bucketize(batch / (1 + batch), borders), torch.arange(4))
    assert (drawn >= levels.sigmas[0]).all() and torch.isfinite(drawn).all()
