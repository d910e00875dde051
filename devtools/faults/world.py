"""A node on its models in folders of its own, run once undisturbed to know what there is to disturb."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from .folders import files_in, host_folders
from .nodes import Node
from .parts import Parts
from .state import differences, state_around, state_of, state_of_models


@dataclass
class Course:
    """An undisturbed run. Of each call of network and text encoder: the steps of the training that were done."""

    network: list[int] = field(default_factory=list)
    text: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class World:
    """What a fault may reach. given: a file for the node that reads one."""

    node: Node
    parts: Parts
    root: Path
    course: Course
    given: Path | None = None
    #: The state of the models, where it is known already.
    models: dict | None = None

    @property
    def writing(self) -> ModuleType:
        """The module of the pack through which every file is written."""
        from palp_pack.palp_core.files import writing

        return writing

    @property
    def folder(self) -> Path:
        """Where the node saves."""
        return self.root / self.node.whole.partition("/")[0]

    @property
    def learner(self) -> type:
        """The class of what learns."""
        module, name = self.node.learner
        return getattr(importlib.import_module(f"palp_pack.palp_core.{module}"), name)

    def run(self) -> object:
        """Run the node in its folders."""
        with host_folders(self.root):
            if self.given is not None:
                shutil.copy(self.given, self.root / self.node.given)
            return self.node.run(self.parts, self.root)


def course_of(node: Node, parts: Parts, root: Path, given: Path | None = None) -> Course:
    """Run a node undisturbed, and note its calls."""
    import comfy.model_management
    import comfy.utils

    course, done, handles = Course(), [0], []

    def note(calls: list[int]) -> Callable:
        return lambda *_: calls.append(done[0])

    def count(*_args, **_options) -> None:
        done[0] += node.trains

    handles.append(parts.network.register_forward_pre_hook(note(course.network)))
    handles += [encoder.register_forward_pre_hook(note(course.text)) for encoder in parts.encoders]
    try:
        comfy.utils.set_progress_bar_global_hook(count)
        World(node, parts, root, course, given).run()
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
        for handle in handles:
            handle.remove()
    if node.patches:
        comfy.model_management.unload_all_models()
    return course


@dataclass(frozen=True)
class Ending:
    """How a run ended. changed: what is not as it was."""

    error: BaseException | None
    files: set[str]
    changed: list[str]


def disturbed(world: World, fault: AbstractContextManager, run: Callable[[], object]) -> Ending:
    """Run something with a fault in it, and look at what it leaves."""
    import comfy.model_management as host

    before, error = (world.models or state_of_models(world.parts)) | state_around(), None
    try:
        with fault:
            run()
    except BaseException as raised:
        error = raised
    host.interrupt_current_processing(False)
    if world.node.patches:
        host.unload_all_models()
    return Ending(error, files_in(world.root) - {world.node.given}, differences(before, state_of(world.parts)))
