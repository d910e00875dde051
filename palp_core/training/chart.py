"""The loss history as a picture."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from ..methods.personalization import TrainingStep

DENOISING_COLOUR, SECOND_COLOUR = "#2f6fde", "#e4572e"
#: What a training has beside the denoising loss, PALP's or Textual Inversion's, and its name in the legend.
SECOND = {"score_gap": "score gap, rms of Delta", "regularization": "regularization"}
SMOOTHING_SHARE = 0.05  # of the run, to either side of a step, that its running mean covers


def loss_chart(history: list[TrainingStep], width: int = 960, height: int = 540, title: str = "") -> Tensor:
    """Denoising loss and, where there was one, what else was measured, against steps. Returns (H, W, 3) in 0..1.

    Single steps are faint, their running mean is bold: one step's loss depends more on its noise level than on what
    the model has learned.
    """
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, layout="constrained")
    axes = figure.add_subplot(title=title)
    steps = [step.index + 1 for step in history]
    lines = [_draw(axes, steps, [s.denoising_loss for s in history], DENOISING_COLOUR, "denoising loss")]
    axes.set_xlabel("step")
    axes.set_ylabel("denoising loss", color=DENOISING_COLOUR)
    axes.grid(alpha=0.25)
    axes.margins(x=0.01)
    second = next((name for name in SECOND if any(getattr(step, name) for step in history)), None)
    if second:
        others = axes.twinx()
        lines.append(_draw(others, steps, [getattr(s, second) for s in history], SECOND_COLOUR, SECOND[second]))
        others.set_ylabel(second.replace("_", " "), color=SECOND_COLOUR)
        others.margins(x=0.01)
        others.spines["top"].set_visible(False)
    axes.spines["top"].set_visible(False)
    axes.legend(handles=lines, loc="upper right", frameon=False)
    return rendered(figure)


def rendered(figure: Figure) -> Tensor:
    """(H, W, 3) in 0..1."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy()).float() / 255


def _draw(axes, steps: list[int], values: list[float], colour: str, label: str):
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
    return axes.plot(steps, running_mean(values), color=colour, linewidth=2, label=label)[0]


def running_mean(values: list[float]) -> np.ndarray:
    """Centred mean over a tenth of the run, at least five steps; narrower at both ends."""
    values = np.asarray(values, dtype=float)
    half = max(2, round(len(values) * SMOOTHING_SHARE))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)
