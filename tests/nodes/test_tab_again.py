"""A tab that was closed while a graph trains, and is opened again: it tells how the training goes on."""

from __future__ import annotations

import pytest

from devtools import frontend

pytestmark = [pytest.mark.host, pytest.mark.browser]

NODES = {
    "checkpoint": {"type": "CheckpointLoaderSimple"},
    "photo": {"type": "LoadImage", "pos": [0, 200]},
    "options": {"type": "PALP_Options", "pos": [0, 500]},
    "training": {"type": "PALP_Personalize", "pos": [400, 0]},
    "shown": {"type": "PreviewImage", "pos": [900, 0]},
}
LINKS = [
    ("checkpoint", "MODEL", "training", "model"),
    ("checkpoint", "CLIP", "training", "clip"),
    ("checkpoint", "VAE", "training", "vae"),
    ("photo", "IMAGE", "training", "images.image0"),
    ("options", "options", "training", "options"),
    ("training", "loss_chart", "shown", "images"),
]
WIDGETS = {
    "photo": {"image": "cat.png"},
    "options": {"resolution": 64, "rank": 2, "batch_size": 1, "preview_every": -1},
    "training": {"steps": 2000, "file_name": "tab"},
}
#: The bar on the node, and the text under it.
IS_SHOWN = """
() => {
  const node = app.graph.nodes.find((n) => n.type === "PALP_Personalize");
  return node.progress > 0 && node.widgets.some((w) => /^Step \\d+ of 2000/.test(w.value));
}
"""


def test_a_page_opened_while_it_trains_shows_how_far_it_is(browser, server, sd15_checkpoint):
    widgets = {**WIDGETS, "checkpoint": {"ckpt_name": sd15_checkpoint}}
    nodes = {name: {**node, "widgets": widgets.get(name, {})} for name, node in NODES.items()}
    with frontend.open_page(browser, server) as page:
        frontend.load_workflow(page, None)
        workflow = frontend.build_graph(page, nodes, LINKS)
        prompt = frontend.queue(page)
    try:
        with frontend.open_page(browser, server) as page:
            frontend.load_workflow(page, workflow)
            page.wait_for_function(IS_SHOWN)
    finally:
        server.interrupt()
        ended = server.wait(prompt)
    assert "execution_interrupted" in str(ended["status"]["messages"])
