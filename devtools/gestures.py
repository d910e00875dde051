"""What a user does in ComfyUI's page by hand: choose a template, add a node by its name, drop a file."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

DROP = """
([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name));
  const at = {bubbles: true, cancelable: true, clientX: innerWidth / 2, clientY: innerHeight / 2, dataTransfer};
  for (const kind of ["dragover", "drop"]) app.canvas.canvas.dispatchEvent(new DragEvent(kind, at));
}
"""


def open_template(page: Page, pack: str, name: str) -> None:
    """Choose a template of a pack in the page's list, and wait until its workflow is there."""
    page.evaluate("() => { app.extensionManager.command.execute('Comfy.BrowseTemplates') }")
    page.get_by_text(pack, exact=True).first.click()
    before = page.evaluate("() => app.graph.id")
    page.get_by_test_id(f"template-workflow-{name}").click()
    page.wait_for_function("(before) => app.graph.id !== before && app.graph.nodes.length > 0", arg=before)


def add_node(page: Page, title: str) -> None:
    """Look for a node by its title, take the first that is found, and wait until it is in the graph."""
    before = page.evaluate("() => app.graph.nodes.length")
    page.evaluate("() => { app.extensionManager.command.execute('Workspace.SearchBox.Toggle') }")
    page.locator("input:focus").fill(title)
    page.locator("[role=option]").filter(has_text=title).first.wait_for()
    page.keyboard.press("Enter")
    page.wait_for_function("(before) => app.graph.nodes.length > before", arg=before)


def drop_file(page: Page, file: Path) -> None:
    """Drop a file on the canvas, as from the system's file manager."""
    page.evaluate(DROP, [file.name, base64.b64encode(file.read_bytes()).decode()])
