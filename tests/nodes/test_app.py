"""What opens by itself: the template that is an app, a blueprint of the library, and a saved file that is dropped."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from devtools import frontend, gestures
from devtools.comfy_server import PACK_FOLDER
from devtools.graphs import personalize_graph

pytestmark = [pytest.mark.host, pytest.mark.browser]

#: What makes a run affordable on a CPU: by node type, widget values.
SMALL = {
    "PALP_Personalize": {"steps": 2, "file_name": "app"},
    "PALP_Options": {"resolution": 64, "rank": 4, "batch_size": 1, "preview_every": -1},
    "EmptyLatentImage": {"width": 64, "height": 64},
    "KSampler": {"steps": 2},
}
QUESTIONS = ["A folder with your photos", "What do they show?", "Your picture in words, with [V] for it", "Checkpoint"]
#: In the page: a checkpoint, small options and a place for the picture around the one node that is there.
AROUND = """
([checkpoint, options, widgets]) => {
  const [node] = app.graph.nodes;
  const add = (type, values) => {
    const made = LiteGraph.createNode(type);
    app.graph.add(made);
    for (const [name, value] of Object.entries(values)) made.widgets.find((w) => w.name === name).value = value;
    return made;
  };
  const loader = add("CheckpointLoaderSimple", {ckpt_name: checkpoint});
  for (const slot of [0, 1, 2]) loader.connect(slot, node, slot);
  add("PALP_Options", options).connect(0, node, 3);
  node.connect(node.outputs.findIndex((o) => o.type === "IMAGE"), add("SaveImage", {}), 0);
  for (const [name, value] of Object.entries(widgets)) node.widgets.find((w) => w.name === name).value = value;
}
"""


@pytest.fixture
def page(browser, server):
    """A page of the test's own: an app leaves it in another mode."""
    with frontend.open_page(browser, server) as opened:
        yield opened


def test_the_app_asks_four_questions_and_shows_a_picture(page, server, sd15_checkpoint):
    gestures.open_template(page, PACK_FOLDER, "02 Your subject in your picture.app")
    page.get_by_role("button", name="Skip").click()  # the page's tour of apps
    for question in QUESTIONS:
        page.get_by_test_id("linear-widgets").get_by_text(question, exact=True).wait_for()
    for node_type, widgets in {**SMALL, "CheckpointLoaderSimple": {"ckpt_name": sd15_checkpoint}}.items():
        for widget, value in widgets.items():
            frontend.set_widget(page, node_type, widget, value)
    page.get_by_test_id("linear-widgets").locator("textarea").fill("a watercolor of [V]")
    with page.expect_response(lambda response: response.url.endswith("/prompt")) as waiting:
        page.get_by_test_id("linear-run-button").get_by_role("button", name="Run").click()
    ended = server.wait(waiting.value.json()["prompt_id"])
    assert ended["status"]["status_str"] == "success"
    sent = ended["prompt"][2].values()
    assert [node["inputs"]["target_prompt"] for node in sent if "target_prompt" in node["inputs"]] == [
        "a watercolor of [V]"
    ]
    page.locator("img[src*='filename=palp_']").first.wait_for()


#: Of each blueprint: the node inside that trains, and what is set on the outside.
BLUEPRINTS = {
    "Learn a word": ("PALP_TextualInversionTrain", {"initial_word": "dog", "steps": 2, "name": "blueprint_word"}),
    "Personalize and draw": (
        "PALP_Personalize",
        {"class_word": "dog", "steps": 2, "width": 64, "height": 64, "file_name": "blueprint"},
    ),
}


@pytest.mark.parametrize("blueprint", BLUEPRINTS)
def test_the_library_has_blueprints_whose_photos_reach_the_training(page, server, sd15_checkpoint, blueprint):
    ours = [b["name"] for b in server.get("/global_subgraphs").values() if b["info"]["node_pack"].endswith(PACK_FOLDER)]
    assert sorted(ours) == sorted(BLUEPRINTS)
    page.evaluate("() => app.graph.clear()")
    gestures.add_node(page, blueprint)
    node, widgets = BLUEPRINTS[blueprint]
    page.evaluate(AROUND, [sd15_checkpoint, SMALL["PALP_Options"], widgets])
    ended = server.wait(frontend.queue(page))
    assert ended["status"]["status_str"] == "success"
    (training,) = (inside for inside in ended["prompt"][2].values() if inside["class_type"] == node)
    assert training["inputs"]["images.image0"] and training["inputs"]["steps"] == 2
    assert "dog" in training["inputs"].values()
    assert [image["type"] for output in ended["outputs"].values() for image in output["images"]].count("output") == 1


def test_a_dropped_file_opens_the_workflow_that_loads_it(page, server, sd15_checkpoint):
    server.queue(personalize_graph(sd15_checkpoint, seed=83, file_name="dropped")).require_success()
    name = "dropped_00001.safetensors"
    page.reload()  # its lists of files
    page.wait_for_function(frontend.READY)
    gestures.drop_file(page, server.base_directory / "models/loras" / name)
    page.wait_for_function("() => app.graph.nodes.some((n) => n.type === 'PALP_LoadLora')")
    for node_type, widgets in {**SMALL, "CheckpointLoaderSimple": {"ckpt_name": sd15_checkpoint}}.items():
        for widget, value in widgets.items():
            frontend.set_widget(page, node_type, widget, value)
    prompt = frontend.to_api(page)
    assert [node["inputs"]["lora_name"] for node in prompt.values() if "lora_name" in node["inputs"]] == [name]
    assert "PALP_Personalize" not in json.dumps(prompt)
    assert len(server.queue(prompt).require_success().images) == 1


@pytest.mark.parametrize("family", ["z_image", "flux2_klein"])
def test_a_file_of_several_models_holds_a_workflow_that_loads_them_and_it(page, host, family):
    from palp_pack.nodes.host.workflow_in_file import workflow_metadata

    content = SimpleNamespace(info=SimpleNamespace(family=family, settings={"resolution": 768}))
    frontend.load_workflow(page, json.loads(workflow_metadata(content, "my_dog_00002")["workflow"]))
    prompt = {node["class_type"]: node["inputs"] for node in frontend.to_api(page).values()}
    assert prompt["PALP_LoadLora"]["lora_name"] == "my_dog_00002.safetensors"
    assert {"UNETLoader", "CLIPLoader", "VAELoader", "KSampler", "SaveImage"} <= prompt.keys()
    (latent,) = (inputs for kind, inputs in prompt.items() if kind.startswith("Empty"))
    assert (latent["width"], latent["height"]) == (768, 768)
