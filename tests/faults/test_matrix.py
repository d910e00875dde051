"""Every node with every fault: models as before, no half files, what was learned kept, the error as promised."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from devtools.faults.fault import Fault
from devtools.faults.matrix import COMBINATIONS, SMALL
from devtools.faults.nodes import Node
from devtools.faults.parts import Parts, smallest_parts
from devtools.faults.state import state_of_models
from devtools.faults.world import Course, World, course_of, disturbed

pytestmark = [pytest.mark.host, pytest.mark.fault]


@dataclass
class Bench:
    """Models of each family, and each node's undisturbed run: made once, and again where a fault has changed them."""

    folder: Path
    parts: dict[str, Parts] = field(default_factory=dict)
    states: dict[str, dict] = field(default_factory=dict)
    courses: dict[str, Course] = field(default_factory=dict)

    def world(self, node: Node, root: Path) -> World:
        if node.family not in self.parts:
            self.parts[node.family] = smallest_parts(node.family)
            self.states.pop(node.family, None)
        given = self.given() if node.given else None
        parts, course = self.parts[node.family], self.course(node, given)
        if node.family not in self.states or node.patches:  # the host makes new parameters of what it patches
            self.states[node.family] = state_of_models(parts)
        return World(node, parts, root, course, given, self.states[node.family])

    def course(self, node: Node, given: Path | None = None) -> Course:
        if node.title not in self.courses:
            root = self.folder / str(len(self.courses))
            self.courses[node.title] = course_of(node, self.parts[node.family], root, given)
        return self.courses[node.title]

    def given(self) -> Path:
        """A file that PALP Personalize has saved."""
        file = self.folder / "given.safetensors"
        if not file.exists():
            World(SMALL, self.parts[SMALL.family], self.folder / "lora", Course()).run()
            shutil.copy(self.folder / "lora" / SMALL.whole, file)
        return file


@pytest.fixture(scope="module")
def bench(host, tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.mark.parametrize(("node", "fault"), COMBINATIONS, ids=lambda part: getattr(part, "title", None) or part.name)
def test_all_is_as_promised(bench, tmp_path, node: Node, fault: Fault):
    world, error = bench.world(node, tmp_path), fault.error()
    ending = disturbed(world, fault.inject(world, error), lambda: fault.run(world))
    if ending.changed:
        del bench.parts[node.family]
    assert not ending.changed
    assert fault.promise(world).broken_by(ending.error, error, ending.files) == []
