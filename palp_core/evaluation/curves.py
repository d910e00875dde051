"""Figures over the steps of a training: what longer trainings win of the subject, and lose of the prompt."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..training.chart import INK
from .results import AXES, Evaluation

PANEL = (4.2, 3.4)  # inches, of which each has 110 pixels


def curves(evaluation: Evaluation) -> bytes:
    """Plot each axis that is measured against the steps, with standard errors, as a PNG without a background.

    A method without steps, as the base model, is a line from end to end.
    """
    axes = [axis for axis in AXES if axis not in evaluation.not_measured]
    figure = Figure(figsize=(PANEL[0] * len(axes), PANEL[1]), dpi=110, layout="constrained")
    figure.patch.set_alpha(0)
    for panel, axis in zip(figure.subplots(1, len(axes), squeeze=False)[0], axes, strict=True):
        for number, method in enumerate(evaluation.methods):
            _plot(panel, evaluation, method, axis, f"C{number}")
        _on_any_page(panel, AXES[axis][0])
    lines = {n: line for panel in figure.axes for line, n in zip(*panel.get_legend_handles_labels(), strict=True)}
    named = {"ncols": len(lines), "frameon": False, "labelcolor": INK}
    figure.legend(list(lines.values()), list(lines), loc="outside lower center", **named)
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()


def _plot(panel, evaluation: Evaluation, method: str, axis: str, color: str) -> None:
    if method not in evaluation.curved:
        if figure := evaluation.figure(method, axis):
            panel.axhline(figure.mean, label=method, color=color, linestyle=":")
        return
    found = {step: evaluation.figure(method, axis, step) for step in evaluation.steps(method)}
    known = {step: figure for step, figure in found.items() if figure}
    means, errors = [figure.mean for figure in known.values()], [figure.error or 0.0 for figure in known.values()]
    panel.errorbar(list(known), means, errors, marker="o", capsize=2, label=method, color=color)


def _on_any_page(panel, name: str) -> None:
    """In colors that are read on light and dark pages."""
    panel.set_facecolor("none")
    panel.set_title(name, color=INK)
    panel.set_xlabel("step", color=INK)
    panel.tick_params(colors=INK)
    panel.grid(alpha=0.25)
    for spine in panel.spines.values():
        spine.set_color(INK)
