"""Faults around the loop: what shows the progress fails, a training is closed or dropped, or its result is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from unittest import mock

import torch

from .fault import ERRORS, Fault, ended, whole
from .folders import host_folders
from .nodes import STEPS
from .promises import Promise
from .seams import at_call, instead_of, raising
from .world import World

NOT_COPIED = "What was learned could not be copied from the model: the device is lost"


def progress_faults() -> list[Fault]:
    """What the host calls at each step raises; the chart cannot be drawn, or not be shown."""
    kinds = ("exception", "interrupt", "Ctrl-C")
    return [
        *(_progress_fault(kind, step) for kind in kinds for step in (1, STEPS)),
        Fault("the chart cannot be drawn", ERRORS["exception"], _undrawn, whole),
        Fault("the chart cannot be shown", lambda: None, _unshown, whole),
    ]


@contextmanager
def failing_progress(error: BaseException, step: int) -> Iterator[None]:
    """Inside, the host's own hook, by which it shows the progress and hears of Cancel, raises at a step, from 1."""
    import comfy.utils

    def hook(value: int, _total: int, _preview: object, **_options) -> None:
        if value == step:
            raise error

    try:
        comfy.utils.set_progress_bar_global_hook(hook)
        yield
    finally:
        comfy.utils.set_progress_bar_global_hook(None)


def _progress_fault(kind: str, step: int) -> Fault:
    def inject(_world: World, error: BaseException) -> AbstractContextManager:
        return failing_progress(error, step)

    return Fault(f"{kind} in the progress of step {step}", ERRORS[kind], inject, partial(ended, kind=kind, done=step))


@contextmanager
def _undrawn(_world: World, error: BaseException) -> Iterator[None]:
    """At each step, and in the end."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from palp_pack.nodes.host import progress

    with (
        mock.patch.object(FigureCanvasAgg, "draw", lambda _: raising(error)(None)),
        mock.patch.object(progress, "SECONDS_BETWEEN_CHARTS", 0.0),
    ):
        yield


@contextmanager
def _unshown(world: World, _error: None) -> Iterator[None]:
    """The host's folder for previews is a file."""
    (world.root / "temp").write_bytes(b"")
    yield


def device_faults() -> list[Fault]:
    """What was learned cannot be copied after a fault, as from a device that is lost: the first fault is told."""
    kinds = ("exception", "out of memory", "interrupt")
    return [_lost_device(kind, where) for kind in kinds for where in ("network", "progress")]


def _lost_device(kind: str, where: str) -> Fault:
    @contextmanager
    def inject(world: World, error: BaseException) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(instead_of(world.learner, "result", raising(RuntimeError("the device is lost"))))
            if where == "network":
                stack.enter_context(at_call(world.parts.network, len(world.course.network), raising(error)))
            else:
                stack.enter_context(failing_progress(error, step=1))
            yield

    promise = partial(ended, kind=kind, done=1, what_became=NOT_COPIED)
    return Fault(f"{kind} in the {where}, and a device that is lost", ERRORS[kind], inject, promise)


def loop_faults() -> list[Fault]:
    """The iteration of a training is closed, dropped or thrown into, before its first step and between two."""
    endings = {"closed": _close, "dropped": _drop, "thrown into": _throw}
    return [_ended_loop(name, end, steps) for name, end in endings.items() for steps in (0, 1)]


def _close(steps: Iterator) -> None:
    steps.close()


def _drop(steps: Iterator) -> None:
    """The caller's own name for it is the last; see `_ended_loop`."""


def _throw(steps: Iterator) -> None:
    with suppress(ZeroDivisionError):
        steps.throw(ZeroDivisionError())


def _ended_loop(name: str, end: Callable[[Iterator], None], done: int) -> Fault:
    def run(world: World) -> None:
        with host_folders(world.root), torch.inference_mode(False):
            training = world.node.training(world.parts)
            steps = training.steps()
            for _ in range(done):
                next(steps)
            end(steps)
            del steps
        learned = training.result.steps if training.result else 0
        assert learned == done, f"{learned} steps are kept of {done}"

    def inject(_world: World, _error: None) -> AbstractContextManager:
        return nullcontext()

    return Fault(f"the loop is {name} after {done} steps", lambda: None, inject, lambda _: Promise("none"), run)
