"""What the page shows of a training, while it goes on and in the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill

import comfy.utils
from comfy_api.latest import io, ui
from comfy_execution.utils import get_executing_context
from PIL import Image
from server import PromptServer
from torch import Tensor

from ...palp_core.methods.recording import Recording
from ...palp_core.methods.summary import summary
from ...palp_core.training.chart import chart_on_page, drawn_chart
from ...palp_core.training.contact_sheet import contact_sheet
from ...palp_core.training.loop import Step

SECONDS_BETWEEN_CHARTS = 3.0
#: Letters for which a node of usual size has room; the page breaks longer lines at any letter, also in a file's name.
LINE = 40
#: The one loss whose meaning is known without the papers.
TOLD = "denoising_loss"


def show_text(node_id: str | None, text: str) -> None:
    """Under the node, in the browser of whoever runs the graph."""
    if node_id is not None and PromptServer.instance is not None:
        lines = (fill(line, LINE, break_long_words=False, break_on_hyphens=False) for line in text.splitlines())
        PromptServer.instance.send_progress_text("\n".join(lines), node_id, _page())


def _page() -> str | None:
    """The page that queued the graph, while it is open; else None, for all: opened again, it has another name.

    Another graph in another page may have a node of the same number, so that not all are told at once.
    """
    server = PromptServer.instance
    return server.client_id if server.client_id in server.sockets else None


def show_bar_in_reopened_page(node_id: str | None, done: int, total: int) -> None:
    """Draw the bar where the page that queued the graph is closed: the host goes on to tell that one alone."""
    if node_id is None or PromptServer.instance is None or _page() is not None:
        return
    prompt_id = get_executing_context().prompt_id
    bar = {"node_id": node_id, "display_node_id": node_id, "real_node_id": node_id, "parent_node_id": None}
    state = {**bar, "prompt_id": prompt_id, "value": done, "max": total, "state": "running"}
    PromptServer.instance.send_sync("progress_state", {"prompt_id": prompt_id, "nodes": {node_id: state}})


class TrainingProgress:
    """What the page shows of a training: what it learns, how far it is, its losses and its last picture."""

    def __init__(self, node_id: str | None, recording: Recording):
        self.node_id, self.recording = node_id, recording
        self.steps = recording.method.config.steps
        self.bar = comfy.utils.ProgressBar(self.steps, node_id=node_id)
        self.summary = summary(recording.method)
        #: Steps that were there before.
        self.begun = len(recording.history)
        #: What was measured last, by name: not every step measures everything.
        self.losses: dict[str, float] = {}
        self._began = time.monotonic()
        self._first: tuple[int, float] | None = None
        #: Whether the page has a picture of the running training, which it keeps beside what a node returns.
        self._is_seen = False
        self._next_chart = time.monotonic() + SECONDS_BETWEEN_CHARTS

    def say(self, text: str) -> None:
        """Show a text, and below it what the training is about: a node of usual size has room for the first lines."""
        show_text(self.node_id, f"{text}\n{self.summary}")

    def begin(self) -> None:
        """Say what comes before the first step."""
        self.say(f"Going on from step {self.begun}." if self.begun else "Encoding the photos.")

    def update(self, step: Step, picture: Tensor | None = None) -> None:
        """Show a step; the chart and the last picture every few seconds, and when there is a new one."""
        self.losses |= step.losses
        preview = None
        if picture is not None or time.monotonic() >= self._next_chart:
            preview = self._view()
            self._next_chart = time.monotonic() + SECONDS_BETWEEN_CHARTS
        self._is_seen |= preview is not None
        done = step.index + 1
        self.bar.update_absolute(done, self.steps, preview)
        show_bar_in_reopened_page(self.node_id, done, self.steps)
        told = [f"Step {done} of {self.steps}", *self._pace(done), in_words(step.subject, self.losses)]
        self.say(", ".join(filter(None, told)))

    def took(self) -> str:
        """Say how long the training has taken, from its beginning here."""
        return f"It took {clock(time.monotonic() - self._began)}."

    def _view(self) -> tuple | None:
        """Show how it stands, as the host takes it: a picture that cannot be drawn is no reason to end a training."""
        try:
            return "PNG", live_view(self.recording), None
        except Exception as error:
            logging.warning("the chart of the losses could not be drawn: %s", error)
            return None

    def _pace(self, done: int) -> list[str]:
        """Steps per second and the time left, from the second step on: the first is slower than those after it."""
        now = time.monotonic()
        if self._first is None:
            self._first = done, now
            return []
        first, begun = self._first
        rate = (done - first) / max(now - begun, 1e-6)
        pace = f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / rate:.1f} s/step"
        left = (self.steps - done) / rate
        return [pace, f"{clock(left)} of {clock(now - self._began + left)} left"]

    def ending(self, node: type[io.ComfyNode]) -> tuple[Tensor, Tensor, Tensor, ui.PreviewImage | None]:
        """Return the host's IMAGEs of losses, pictures and subject, (1, H, W, 3), and what the node itself shows.

        That is all pictures, or the chart where there are none. It takes the place of the picture of the running
        training, which the page would show beside it, and keep. The training is saved by then: a picture that cannot be
        written, as on a full disk, is not shown.
        """
        recording = self.recording
        chart, sheet = drawn_chart(recording.history)[None], recording.contact_sheet()[None]
        subject = (contact_sheet({}) if recording.overlay is None else recording.overlay)[None]
        last = sheet if recording.previews.pictures else chart
        try:
            if self._is_seen:
                self.bar.update_absolute(self.steps, self.steps, ("PNG", _image(last[0]), None))
                return chart, sheet, subject, None
            return chart, sheet, subject, ui.PreviewImage(last, cls=node)
        except Exception as error:
            logging.warning("the pictures of the training could not be shown: %s", error)
            return chart, sheet, subject, None


def live_view(recording: Recording) -> Image.Image:
    """Draw the last picture above the chart of the losses until now; before there is one, what is learned from."""
    chart, pictures = _image(chart_on_page(recording.history)), recording.previews.pictures
    shown = pictures[max(pictures)] if pictures else recording.overlay
    if shown is None:
        return chart
    width, picture = chart.width, _image(shown)
    picture = picture.resize((width, round(picture.height * width / picture.width)))
    whole = Image.new("RGBA", (width, picture.height + chart.height))
    whole.paste(picture, (0, 0))
    whole.paste(chart, (0, picture.height))
    return whole


def _image(pixels: Tensor) -> Image.Image:
    """(H, W, 3 or 4) in 0..1."""
    return Image.fromarray((pixels * 255).round().byte().numpy())


def came_from(path: Path, taken: bool, begun: int) -> str:
    """Say where a file comes from. taken: from an earlier training; begun: steps that were there already."""
    if taken:
        return f"Taken from {path.name}, which was trained before."
    return f"Saved as {path.name}." + (f" It went on from step {begun}." if begun else "")


def in_words(subject: str, losses: Mapping[str, float]) -> str:
    """Say how far the photo is from being learned, and of which subject; the chart has what else was measured."""
    measured = f"denoising loss {losses[TOLD]:.4f}" if TOLD in losses else ""
    return f"{subject} {measured}".strip()


def clock(seconds: float) -> str:
    """Write a time as minutes and seconds, and hours where there are any: 3:07, 1:02:45."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
