"""What the user sees while a run goes on: a bar, the losses under the node, and the loss chart as its preview."""

from __future__ import annotations

import time

import comfy.utils
from PIL import Image
from server import PromptServer

from ...palp_core.methods.personalization import TrainingStep
from ...palp_core.training.chart import loss_chart

SECONDS_BETWEEN_CHARTS = 3.0


def show_text(node_id: str | None, text: str) -> None:
    """Under the node, in the browser of whoever runs the graph."""
    if node_id is not None and PromptServer.instance is not None:
        PromptServer.instance.send_progress_text(text, node_id)


class TrainingProgress:
    def __init__(self, node_id: str | None, steps: int):
        self.node_id = node_id
        self.steps = steps
        self.bar = comfy.utils.ProgressBar(steps, node_id=node_id)
        self.history: list[TrainingStep] = []
        self._next_chart = time.monotonic() + SECONDS_BETWEEN_CHARTS

    def update(self, step: TrainingStep) -> None:
        self.history.append(step)
        preview = None
        if time.monotonic() >= self._next_chart:
            pixels = (loss_chart(self.history) * 255).round().byte().numpy()
            preview = ("JPEG", Image.fromarray(pixels), None)
            self._next_chart = time.monotonic() + SECONDS_BETWEEN_CHARTS
        self.bar.update_absolute(step.index + 1, self.steps, preview)
        show_text(self.node_id, f"step {step.index + 1} of {self.steps}: {losses(step)}")


def losses(step: TrainingStep) -> str:
    parts = [f"{step.placeholder} denoising loss {step.denoising_loss:.4f}".strip()]
    if step.score_gap:
        parts.append(f"score gap {step.score_gap:.3f}")
    if step.regularization:
        parts.append(f"regularization {step.regularization:.4f}")
    return ", ".join(parts)
