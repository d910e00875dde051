"""The loss history as a picture."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from .loop import Step

INK = "#8a8a8a"  # of a chart that lies on a page whose color is not known
COLORS = ("#2f6fde", "#e4572e", "#3a9d5d", "#8e5bc0")
WIDTH, HEIGHT = 960, 540  # pixels
SMOOTHING_SHARE = 0.05  # of the run, to either side of a step, that its running mean covers


def loss_chart(history: list[Step], width: int = WIDTH, height: int = HEIGHT, title: str = "") -> Tensor:
    """Plot what the steps measured, as far as it is shown, against their number. Returns (H, W, 3) in 0..1.

    The first loss has the left axis, all others share the right one. Single steps are faint, their running mean is
    bold: one step's loss depends more on its noise level than on what the model has learned.
    """
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, layout="constrained")
    axes = figure.add_subplot(title=title)
    axes.set_xlabel("step")
    axes.grid(alpha=0.25)
    first, *others = dict.fromkeys(name for step in history for name in step.shown) or [""]
    lines = [_plotted(axes, history, first, COLORS[0])]
    if others:
        right = axes.twinx()
        colored = zip(others, COLORS[1:], strict=False)
        lines += [_plotted(right, history, name, color) for name, color in colored]
    axes.legend(handles=lines, loc="upper right", frameon=False)
    return rendered(figure)


def chart_on_page(history: list[Step]) -> Tensor:
    """Plot the first loss alone, small and on no background, in colors that are read on light and dark pages.

    Returns (H, W, 4) in 0..1.
    """
    figure = Figure(figsize=(4.8, 2.6), dpi=100, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot(facecolor="none")
    first, *_ = dict.fromkeys(name for step in history for name in step.shown) or [""]
    _plotted(axes, history, first, COLORS[0])
    axes.set_xlabel("step")
    axes.tick_params(colors=INK)
    axes.xaxis.label.set_color(INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
    return _pixels(figure)


def drawn_chart(history: list[Step]) -> Tensor:
    """Plot the losses as `loss_chart` does; a white picture where that fails, for what it shows is saved elsewhere."""
    try:
        return loss_chart(history)
    except Exception as error:
        logging.warning("the loss chart could not be drawn: %s", error)
        return torch.ones(HEIGHT, WIDTH, 3)


def rendered(figure: Figure) -> Tensor:
    """(H, W, 3) in 0..1."""
    return _pixels(figure)[..., :3]


def _pixels(figure: Figure) -> Tensor:
    """(H, W, 4) in 0..1."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.asarray(canvas.buffer_rgba()).copy()).float() / 255


def _plotted(axes, history: list[Step], name: str, color: str):
    """One loss on these axes; returns its line."""
    label = name.replace("_", " ")
    measured = [(step.index + 1, step.losses[name]) for step in history if name in step.losses]
    steps, values = zip(*measured, strict=True) if measured else ((), ())
    axes.plot(steps, values, color=color, alpha=0.25, linewidth=1)
    axes.set_ylabel(label, color=color)
    axes.margins(x=0.01)
    axes.spines["top"].set_visible(False)
    return axes.plot(steps, running_mean(values), color=color, linewidth=2, label=label)[0]


def running_mean(values: Sequence[float]) -> np.ndarray:
    """Centred mean over a tenth of the run, at least five steps; narrower at both ends."""
    values = np.asarray(values, dtype=float)
    half = max(2, round(len(values) * SMOOTHING_SHARE))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)
