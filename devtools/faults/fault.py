"""A column of the matrix, and the errors that are raised in it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from .nodes import STEPS
from .promises import Promise
from .world import World

NOTHING = "No step was completed, so nothing was saved."
MEMORY = "Out of memory. Switch on gradient_checkpointing"
MOMENTS = ("first", "middle", "last")


@dataclass(frozen=True)
class Fault:
    """inject: puts it in. promise: what then holds. run: what it is put into, where that is not the node itself."""

    name: str
    error: Callable[[], BaseException | None]
    inject: Callable[[World, BaseException | None], AbstractContextManager]
    promise: Callable[[World], Promise]
    run: Callable[[World], object] = World.run


def _memory() -> BaseException:
    import comfy.model_management

    return comfy.model_management.OOM_EXCEPTION("no memory left")


def _interrupt() -> BaseException:
    import comfy.model_management

    return comfy.model_management.InterruptProcessingException()


#: What is raised, by kind; "NaN" is not raised, but comes out.
ERRORS: dict[str, Callable[[], BaseException | None]] = {
    "exception": lambda: RuntimeError("the kernel was not launched."),
    "out of memory": _memory,
    "interrupt": _interrupt,
    "Ctrl-C": KeyboardInterrupt,
    "NaN": lambda: None,
}


def ended(world: World, kind: str, done: int = 0, what_became: str = "") -> Promise:
    """Promise what holds of a fault of this kind after so many steps.

    what_became: of what was learned, where it is not kept in the node's folder.
    """
    if not world.node.trains:
        return Promise("the host's out of memory" if kind == "out of memory" else "the fault itself")
    files = frozenset() if what_became else frozenset(world.node.kept(done))
    outcome = what_became or _outcome(world, done)
    if kind == "exception":
        return Promise("the fault in a sentence", (outcome,), files)
    if kind == "out of memory":
        return Promise("the host's out of memory", (MEMORY, outcome), files)
    if kind == "NaN":
        return Promise("PalpError in a sentence", (f"the loss is not finite at step {done + 1}.", outcome), files)
    return Promise("the fault itself", (), files)


def _outcome(world: World, done: int) -> str:
    if done == 0:
        return NOTHING
    (file,) = world.node.kept(done)
    return f"What was learned in {done} steps is kept in {file.partition('/')[2]}."


def whole(world: World) -> Promise:
    """Promise that nothing is noticed: the node ends as it should."""
    return Promise("none", (), frozenset(world.node.kept(STEPS) if world.node.trains else ()))


def numbered(moment: str, calls: int) -> int:
    """The number of the call, from 1, that is the first, in the middle, or the last of so many."""
    return {"first": 1, "middle": calls // 2 + 1, "last": calls}[moment]
