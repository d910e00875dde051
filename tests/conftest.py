"""Says at the end how many host tests ran, so that a run without ComfyUI does not pass for a full one; and faults."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

# Tiny models lose more to handing work around than they win; what the tests start beside themselves, a hundredfold.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


def make_importable(package: Path) -> None:
    """By its own path: the repository's root on sys.path would put our `nodes` before ComfyUI's nodes.py."""
    spec = importlib.util.spec_from_file_location(package.name, package / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[package.name] = module
    spec.loader.exec_module(module)


for name in ("benchmarks", "devtools"):
    make_importable(Path(__file__).parents[1] / name)
FEW = importlib.import_module("devtools.few").FEW


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of noise and of pictures on the way."""
    for (module, constant), few in FEW.items():
        monkeypatch.setattr(f"{module}.{constant}", few)


#: Files that take minutes: begun last, one of two workers would stand idle. Others keep pytest's order.
LONGEST = (
    "test_world.py",
    "test_workflows.py",
    "test_transformers.py",
    "test_demo_world.py",
    "test_pick_and_draw.py",
    "test_textual_inversion.py",
    "test_server_ends.py",
    "test_matrix.py",
    "test_harness.py",
)


def pytest_collection_modifyitems(items: list) -> None:
    def place(item) -> int:
        return LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST)

    items.sort(key=place)


def pytest_terminal_summary(terminalreporter) -> None:
    def count(*outcomes: str, when: tuple[str, ...], marker: str = "host") -> int:
        reports = [report for outcome in outcomes for report in terminalreporter.stats.get(outcome, [])]
        return len({report.nodeid for report in reports if report.when in when and marker in report.keywords})

    ran = count("passed", "failed", "xfailed", "xpassed", when=("call",))
    skipped = count("skipped", when=("setup", "call"))
    broken = count("error", when=("setup",))
    line = f"host tests: {ran} ran, {skipped} skipped"
    terminalreporter.write_line(f"{line}, {broken} failed in setup" if broken else line)
    if faults := count("passed", "failed", when=("call",), marker="fault"):
        promised = count("passed", when=("call",), marker="fault")
        terminalreporter.write_line(f"faults: {faults} combinations of node and fault: {promised} as promised")
