"""Makes the example workflows and subgraph blueprints in ComfyUI's own page; run by hand after a node has changed.

    python -m devtools.workflows [NAME ...]

A picture of each graph lies in build/workflows, to look at; `devtools.cards` draws what the page's list shows. It needs
ComfyUI as the tests find it, Chromium and `pip install .[test]`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page

from .. import frontend
from ..comfy_server import ComfyServer, find_comfyui, make_base_directory
from . import IN_FILES, WORKFLOWS
from .app import app_settings
from .blocks import SD15, Workflow
from .blueprints import BLUEPRINTS, converted
from .transformers import FOLDERS, KLEIN, Z_IMAGE

REPO = Path(__file__).parents[2]
SEEN = REPO / "build/workflows"

TRIES, SETTLING = 3, 1500  # milliseconds
NAME = "my_cat_00001"


def base_directory(folder: Path) -> Path:
    """Make empty files that stand for the models a user picks: nothing is run here."""
    base = make_base_directory(folder / "base")
    (base / "models/checkpoints" / SD15).touch()
    for files in (Z_IMAGE, KLEIN):
        for kind, (name, _) in zip(FOLDERS, files, strict=True):
            (base / "models" / kind).mkdir(exist_ok=True)
            (base / "models" / kind / name).touch()
    (base / f"models/loras/{NAME}.safetensors").touch()
    return base


def settled(page: Page, wanted: Workflow) -> dict:
    """Lay a workflow out and return it. The page may still bring its own default graph, and lay that over it."""
    for _ in range(TRIES):
        frontend.build_graph(page, wanted.nodes, wanted.links)
        workflow = frontend.add_groups(page, wanted.groups)
        page.wait_for_timeout(SETTLING)
        there = page.evaluate("() => app.graph.nodes.map((n) => n.type)")
        if sorted(there) == sorted(spec["type"] for spec in wanted.nodes.values()):
            return workflow
    raise RuntimeError(f"the page shows {there}, and not the workflow that was laid out.")


def example(page: Page, name: str) -> None:
    """Make a template."""
    made(page, WORKFLOWS[name](), REPO / f"example_workflows/{name}.json")


def in_file(page: Page, family: str) -> None:
    """Make what the saved files of a family open as."""
    made(page, IN_FILES[family](), REPO / f"nodes/host/workflows/{family}.json")


def made(page: Page, wanted: Workflow, file: Path) -> None:
    """Write a workflow, and a picture of its graph to look at."""
    workflow = settled(page, wanted)
    if wanted.app:
        workflow["extra"] = {**workflow.get("extra", {}), **app_settings(wanted)}
    write(file, workflow)
    SEEN.mkdir(parents=True, exist_ok=True)
    (SEEN / f"{file.stem}.png").write_bytes(frontend.picture_of_graph(page))


def blueprint(page: Page, name: str) -> None:
    """Make a subgraph blueprint."""
    wanted = BLUEPRINTS[name]()
    settled(page, wanted.workflow)
    write(REPO / f"subgraphs/{name}.json", converted(page, wanted, name))


def write(file: Path, workflow: dict) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(workflow, indent=1) + "\n")


def main() -> None:
    """Make the workflows, blueprints and files' workflows that the command line names, or all of them."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ComfyServer(find_comfyui(), base_directory(Path(folder))) as server,
        frontend.open_browser(frontend.find_chromium()) as browser,
    ):
        makers = {**dict.fromkeys(WORKFLOWS, example), **dict.fromkeys(BLUEPRINTS, blueprint)}
        makers |= dict.fromkeys(IN_FILES, in_file)
        for name in sys.argv[1:] or makers:
            with frontend.open_page(browser, server) as page:
                makers[name](page, name)


if __name__ == "__main__":
    main()
