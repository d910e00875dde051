"""The loss chart."""

import numpy as np
import torch

from palp_core.training.chart import drawn_chart, loss_chart, running_mean
from palp_core.training.loop import Step


def history(steps: int, other: float, name: str = "regularization") -> list[Step]:
    second = {name: other} if other else {}
    return [Step(i, 1.0, {"denoising_loss": 1 / (1 + i), **second}, "[V]") for i in range(steps)]


def test_chart_is_a_picture_that_shows_the_losses():
    chart = loss_chart(history(50, 0.5), width=480, height=270)
    assert chart.shape == (270, 480, 3) and 0 <= chart.min() and chart.max() <= 1
    assert not torch.equal(chart, loss_chart(history(50, 0.0), width=480, height=270))  # the second line is gone
    assert loss_chart(history(1, 0.5)).isfinite().all()


def test_what_rises_in_every_training_is_not_shown():
    assert torch.equal(loss_chart(history(50, 0.5, "score_gap")), loss_chart(history(50, 0.0)))


def test_a_loss_that_not_every_step_measures_is_shown_where_it_is():
    one = [Step(0, 1.0, {"denoising_loss": 1.0}, "[V]")]
    assert not torch.equal(loss_chart(one + history(9, 0.5)[1::2]), loss_chart(one + history(9, 0.0)[1::2]))


def test_running_mean_is_a_mean_of_neighbours_that_exist():
    values = list(range(100))
    smooth = running_mean(values)
    np.testing.assert_allclose(smooth[10:90], values[10:90])  # a line stays a line
    assert smooth[0] == 2.5  # of 0 to 5
    np.testing.assert_allclose(running_mean([3.0]), [3.0])


def test_a_chart_that_cannot_be_drawn_is_white_and_told_in_the_log(monkeypatch, caplog):
    def broken(_figure):
        raise RuntimeError("no font")

    monkeypatch.setattr("palp_core.training.chart.rendered", broken)
    chart = drawn_chart(history(3, 0.5))
    assert chart.shape == (540, 960, 3) and chart.min() == 1
    assert "the loss chart could not be drawn: no font" in caplog.text
