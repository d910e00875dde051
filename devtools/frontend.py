"""ComfyUI's page in a headless Chromium: build, load, convert and queue workflows as a user's browser does."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .comfy_server import ComfyServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
VIEWPORT = {"width": 1600, "height": 1000}
READY_TIMEOUT = 120_000  # milliseconds
READY = "() => !!(window.LiteGraph?.registered_node_types?.KSampler && window.app?.canvas && window.app.graph)"
#: Without it the first visit opens the dialog of templates over the page.
SETTINGS = {"Comfy.TutorialCompleted": True}

BUILD_GRAPH = """
async ({nodes, links}) => {
  app.graph.clear();
  const made = {};
  for (const [name, wanted] of Object.entries(nodes)) {
    const node = LiteGraph.createNode(wanted.type);
    if (!node) throw new Error(`No node of type ${wanted.type} (for ${name}).`);
    made[name] = node;
    app.graph.add(node);
    if (wanted.title) node.title = wanted.title;
    if (wanted.pos) node.pos = wanted.pos;
    Object.assign(node.properties, wanted.properties ?? {});
    for (const [key, value] of Object.entries(wanted.widgets ?? {})) {
      const widget = node.widgets?.find((w) => w.name === key);
      if (!widget) throw new Error(`${name} has no widget ${key}, only ${node.widgets?.map((w) => w.name)}.`);
      widget.value = value;
      widget.callback?.(value, app.canvas, node);
    }
    for (const [key, label] of Object.entries(wanted.labels ?? {})) {
      const input = node.inputs?.find((i) => i.widget?.name === key);
      node.widgets.find((w) => w.name === key).label = input.label = label;
    }
  }
  const slot = (slots, key, name) => {
    const index = (slots ?? []).findIndex((s) => s.name === key);
    if (index < 0) throw new Error(`${name} has no socket ${key}, only ${slots?.map((s) => s.name)}.`);
    return index;
  };
  for (const [from, output, to, input] of links) {
    for (const name of [from, to]) if (!made[name]) throw new Error(`A link names ${name}, which is no node.`);
    const source = slot(made[from].outputs, output, from), target = slot(made[to].inputs, input, to);
    const made_link = made[from].connect(source, made[to], target);
    if (!made_link) throw new Error(`${from}.${output} does not fit ${to}.${input}.`);
  }
  for (const [name, wanted] of Object.entries(nodes)) {
    const least = made[name].computeSize();
    const size = wanted.size ?? least;
    made[name].setSize([Math.max(size[0], least[0]), Math.max(size[1], least[1])]);
    made[name].flags.collapsed = wanted.collapsed;
  }
  app.canvas.setDirty(true, true);
  return JSON.parse(JSON.stringify(app.graph.serialize()));
}
"""

LOAD_WORKFLOW = """
async (workflow) => {
  await app.loadGraphData(workflow ?? undefined);
  return app.graph.nodes.map((n) => n.type).filter((type) => !(type in LiteGraph.registered_node_types));
}
"""

FIT_VIEW = """
async () => {
  const boxes = [...app.graph.nodes.map((n) => n.getBounding()), ...app.graph._groups.map((g) => g._bounding)];
  const bounds = boxes.map((b) => [b[0], b[1], b[0] + b[2], b[1] + b[3]]);
  const low = (i) => Math.min(...bounds.map((b) => b[i])), high = (i) => Math.max(...bounds.map((b) => b[i]));
  const [x, y, width, height] = [low(0), low(1), high(2) - low(0), high(3) - low(1)];
  const [left, top, right, bottom] = [90, 115, 40, 70];  // what the page draws over the canvas
  const [space, rise] = [innerWidth - left - right, innerHeight - top - bottom];
  const ds = app.canvas.ds;
  ds.scale = Math.min(space / width, rise / height, 1);
  ds.offset[0] = (left + (space - width * ds.scale) / 2) / ds.scale - x;
  ds.offset[1] = (top + (rise - height * ds.scale) / 2) / ds.scale - y;
  app.canvas.setDirty(true, true);
  await new Promise((done) => setTimeout(done, 500));
}
"""


def find_chromium() -> Path | None:
    """$CHROMIUM_PATH, else Debian's, else playwright's own, if the system has the libraries that it needs."""
    path = Path(os.environ.get("CHROMIUM_PATH", "/usr/bin/chromium"))
    if path.is_file():
        return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = Path(playwright.chromium.executable_path)
    runs = path.is_file() and subprocess.run([path, "--version"], capture_output=True).returncode == 0
    return path if runs else None


@contextmanager
def open_browser(chromium: Path) -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(chromium), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser: Browser, server: ComfyServer) -> Iterator[Page]:
    """The server's page with nothing stored from earlier visits, once its graph editor is usable."""
    server.post("/settings", SETTINGS)
    context = browser.new_context(viewport=VIEWPORT)
    try:
        page = context.new_page()
        page.goto(server.url)
        page.wait_for_function(READY, timeout=READY_TIMEOUT)
        page.wait_for_load_state("networkidle")
        yield page
    finally:
        context.close()


def build_graph(page: Page, nodes: dict[str, dict[str, Any]], links: list[tuple[str, str, str, str]]) -> dict[str, Any]:
    """Replace the page's graph by a new one and return it as workflow JSON.

    `nodes`: by a name of your own, {"type": node id, "widgets": {name: value}, "labels": {name: what the page calls
    it}, "pos": [x, y], "size": [w, h], "title": text, "properties": {...}, "collapsed": bool}, all but the type
    optional; a size is enlarged to
    what the node needs. Ids count from 1, in this order. `links`: (from node, output, to node, input) by names. Growing
    inputs are named like "images.image0"; link them in order, as each appears only once the one before is taken.
    """
    return page.evaluate(BUILD_GRAPH, {"nodes": nodes, "links": links})


def load_workflow(page: Page, workflow: dict[str, Any] | None) -> None:
    """Load workflow JSON as the page's menu does; None loads the page's default graph."""
    unknown = page.evaluate(LOAD_WORKFLOW, workflow)
    if unknown:
        raise ValueError(f"The workflow has nodes that the server does not: {', '.join(sorted(set(unknown)))}.")


def to_api(page: Page) -> dict[str, Any]:
    """The page's graph as the API JSON that ComfyServer.queue takes."""
    return page.evaluate("async () => (await app.graphToPrompt()).output")


def queue(page: Page) -> str:
    """Press Run. Returns the prompt's id, for ComfyServer.wait; an answer of refusal raises."""
    with page.expect_response(lambda response: response.url.endswith("/prompt")) as waiting:
        page.evaluate("() => { app.queuePrompt(0) }")
    answer = waiting.value
    if not answer.ok:
        raise ValueError(f"The server refused the page's prompt: {answer.text()}")
    return answer.json()["prompt_id"]


def fit_view(page: Page) -> None:
    """Centre the whole graph, shrunk if it is too large for the window."""
    page.evaluate(FIT_VIEW)


def screenshot(page: Page, path: Path) -> Path:
    """A picture of the window, with the whole graph in view."""
    fit_view(page)
    page.screenshot(path=path)
    return path


FIRST_SCREEN = """
(list) => {
  const end = list.getBoundingClientRect().bottom;
  const rows = [...list.querySelectorAll("[role=option]")].filter((row) => row.getBoundingClientRect().bottom <= end);
  return rows.map((row) => row.innerText.split("\\n")[0].trim());
}
"""


def search_nodes(page: Page, text: str) -> list[str]:
    """Type into the page's search of nodes, and return the names that are seen without scrolling."""
    page.evaluate("() => { app.extensionManager.command.execute('Workspace.SearchBox.Toggle') }")
    found = page.locator("[role=listbox]")
    suggested = found.inner_text()
    page.locator("input:focus").fill(text)
    page.wait_for_function("([list, before]) => list.innerText !== before", arg=[found.element_handle(), suggested])
    names = found.evaluate(FIRST_SCREEN)
    page.keyboard.press("Escape")
    found.wait_for(state="hidden")
    return names


ADD_GROUPS = """
(groups) => {
  for (const wanted of groups) {
    const group = new LiteGraph.LGraphGroup(wanted.title);
    group._bounding.set(wanted.bounding);
    app.graph.add(group);
  }
  return JSON.parse(JSON.stringify(app.graph.serialize()));
}
"""

SET_WIDGET = """
({type, widget, value}) => {
  for (const node of app.graph.nodes.filter((n) => n.type === type))
    node.widgets.find((w) => w.name === widget).value = value;
}
"""

GRAPH_BOX = """
() => {
  const boxes = [...app.graph.nodes.map((n) => n.getBounding()), ...app.graph._groups.map((g) => g._bounding)];
  const corner = (x, y) => app.canvas.ds.convertOffsetToCanvas([x, y]);
  const low = corner(Math.min(...boxes.map((b) => b[0])) - 15, Math.min(...boxes.map((b) => b[1])) - 15);
  const high = corner(Math.max(...boxes.map((b) => b[0] + b[2])) + 15, Math.max(...boxes.map((b) => b[1] + b[3])) + 15);
  return {x: low[0], y: low[1], width: high[0] - low[0], height: high[1] - low[1]};
}
"""


def add_groups(page: Page, groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Frames with a title, {"title": text, "bounding": [x, y, w, h]}; returns the workflow JSON."""
    return page.evaluate(ADD_GROUPS, groups)


def set_widget(page: Page, node_type: str, widget: str, value: Any) -> None:
    """Set a widget, by name, of every node of a type."""
    page.evaluate(SET_WIDGET, {"type": node_type, "widget": widget, "value": value})


def picture_of_graph(page: Page) -> bytes:
    """PNG of the graph alone, all of it in view."""
    page.evaluate("() => app.extensionManager.setting.set('Comfy.Minimap.Visible', false)")
    fit_view(page)
    page.wait_for_timeout(1000)
    return page.screenshot(clip=page.evaluate(GRAPH_BOX))
