"""Takes pictures of the demo in ComfyUI's page, to look at: `python -m devtools.screenshots [classic] [nodes2]`.

The template is opened and run as a user does. Its pictures lie in build/screenshots: as it opens, while it trains, and
when it is done. README and help pages show parts of them. It needs what `devtools.workflows` needs.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page

from . import frontend
from .comfy_server import ComfyServer, find_comfyui, make_base_directory

REPO = Path(__file__).parents[1]
SEEN = REPO / "build/screenshots"
TEMPLATE = REPO / "example_workflows/01 Try PALP in two minutes.json"
#: Ways in which the page draws nodes, with the setting that asks for each.
PAGES = {"classic": False, "nodes2": True}
WIDE = {"width": 2400, "height": 1400}
LATE = 150  # of the second training's steps, when its picture shows the subject
IS_LATE = """
(late) => app.graph.nodes.some((node) => node.type === "PALP_Personalize" && node.title === "PALP" &&
  node.widgets.some((widget) => Number(/^Step (\\d+) of/.exec(widget.value)?.[1]) >= late))
"""
LONGEST = 1_200_000  # milliseconds


def taken(page: Page, server: ComfyServer, name: str) -> None:
    """Open the template, run it, and take its pictures."""
    frontend.load_workflow(page, json.loads(TEMPLATE.read_text()))
    picture(page, f"{name}_opened")
    prompt = frontend.queue(page)
    page.wait_for_function(IS_LATE, arg=LATE, timeout=LONGEST)
    picture(page, f"{name}_training")
    server.wait(prompt, LONGEST / 1000)
    picture(page, f"{name}_done")


def picture(page: Page, name: str) -> None:
    """Take the graph as the window shows it."""
    SEEN.mkdir(parents=True, exist_ok=True)
    (SEEN / f"{name}.png").write_bytes(frontend.picture_of_graph(page))


def main() -> None:
    """Take the pictures of the kinds of page that the command line names, or of both."""
    with frontend.open_browser(frontend.find_chromium()) as browser:
        for name in sys.argv[1:] or PAGES:
            with (
                tempfile.TemporaryDirectory() as folder,
                ComfyServer(find_comfyui(), make_base_directory(Path(folder) / "base")) as server,
            ):
                server.post("/settings", {"Comfy.VueNodes.Enabled": PAGES[name]})
                with frontend.open_page(browser, server) as page:
                    page.set_viewport_size(WIDE)
                    taken(page, server, name)


if __name__ == "__main__":
    main()
