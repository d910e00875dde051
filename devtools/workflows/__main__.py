"""Makes the example workflows in ComfyUI's own page, with a picture of each; run by hand after a node has changed.

    python -m devtools.workflows [NAME ...]

It needs ComfyUI as the tests find it, Chromium and `pip install .[test]`.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from .. import frontend
from ..comfy_server import ComfyServer, find_comfyui, make_base_directory
from . import WORKFLOWS
from .blocks import SD15, Workflow
from .transformers import FOLDERS, KLEIN, Z_IMAGE

REPO = Path(__file__).parents[2]

TRIES, SETTLING = 3, 1500  # milliseconds
THUMBNAIL = (1400, 900)  # at most
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


def main() -> None:
    """Make the workflows named on the command line, or all of them."""
    out = REPO / "example_workflows"
    with (
        tempfile.TemporaryDirectory() as folder,
        ComfyServer(find_comfyui(), base_directory(Path(folder))) as server,
        frontend.open_browser(frontend.find_chromium()) as browser,
    ):
        for name in sys.argv[1:] or WORKFLOWS:
            wanted = WORKFLOWS[name]()
            with frontend.open_page(browser, server) as page:
                workflow = settled(page, wanted)
                (out / f"{name}.json").write_text(json.dumps(workflow, indent=1) + "\n")
                picture = Image.open(io.BytesIO(frontend.picture_of_graph(page))).convert("RGB")
            picture.thumbnail(THUMBNAIL, Image.LANCZOS)
            picture.save(out / f"{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
