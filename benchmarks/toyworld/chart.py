"""Text alignment and subject alignment as curves: the paper's Fig. 6, and what it is made of."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from torch import Tensor

from palp_core.training.chart import rendered

from .rows import BySteps
from .statistics import curve

#: What methods are called, where their names in the commands say less.
TITLES = {
    "ti_db": "plain training",
    "delta": "delta in each step",
    "delta_null_prior": "delta in each step, null_prior 1",
    "delta_interval": "delta, the default",
    "output_preservation": "output preservation",
    "blank_preservation": "blank preservation",
    "dco": "DCO",
    "t_lora": "T-LoRA",
}


def title(method: str) -> str:
    """Name a method, which may have a label behind a comma, for whoever has not read the commands."""
    name, *label = method.split(", ", 1)
    return ", ".join([TITLES.get(name, name), *label])


def curves(found: dict[str, BySteps], ranges: tuple[float, ...], costs: Mapping[str, float] | None = None) -> Tensor:
    """Plot both against the steps, and against each other, with standard errors; (H, W, 3) in 0..1.

    ranges: subject alignments to dot a line at. costs: of each method's step, seconds of the processor; with them, both
    are plotted against what was computed.
    """
    figure = Figure(figsize=(15, 4.9), dpi=110, layout="constrained")
    axes = figure.subplots(1, 3)
    for method, steps in found.items():
        text, subject = (curve(steps, name) for name in ("text_alignment", "subject_alignment"))
        for panel, (numbers, means, errors) in zip(axes, (text, subject), strict=False):
            spent = [number * costs[method] for number in numbers] if costs else numbers
            panel.errorbar(spent, means, errors, marker="o", capsize=2)
        axes[2].plot(subject[1], text[1], marker="o", label=title(method))
    spent = "seconds of training" if costs else "steps"
    axes[0].set(xlabel=spent, ylabel="text alignment")
    axes[1].set(xlabel=spent, ylabel="subject alignment")
    axes[2].set(xlabel="subject alignment", ylabel="text alignment")
    for panel in axes:
        panel.grid(alpha=0.25)
    for alignment in ranges:
        axes[1].axhline(alignment, color="grey", linestyle=":")
        axes[2].axvline(alignment, color="grey", linestyle=":")
    figure.legend(*axes[2].get_legend_handles_labels(), loc="outside lower center", ncols=8, frameon=False)
    return rendered(figure)
