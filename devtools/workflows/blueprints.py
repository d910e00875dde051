"""Subgraph blueprints: what takes several nodes, as one node in the page's library."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .blocks import Workflow, node
from .personalization import personalize
from .words import textual_inversion

if TYPE_CHECKING:
    from playwright.sync_api import Page


class Blueprint(NamedTuple):
    """Holds what of a workflow is one node, and what of it is seen from outside."""

    workflow: Workflow
    #: The nodes that are within.
    inside: list[str]
    #: (node, widget, what the blueprint calls it).
    widgets: list[tuple[str, str, str]]
    #: (node, output, what the blueprint calls it), beside those that the workflow links to what is outside.
    outputs: list[tuple[str, str, str]]
    description: str
    aliases: list[str]


SAMPLING = [("latent", "width", "width"), ("latent", "height", "height"), ("sampler", "seed", "picture_seed")]


def personalize_and_draw() -> Blueprint:
    """Make one node of the training on photos of one subject and the picture of it."""
    workflow = personalize()
    inside = ["photos", "palp", "positive", "negative", "latent", "sampler", "decode"]
    widgets = [
        ("photos", "folder", "photos"),
        ("palp", "class_word", "class_word"),
        ("palp", "target_prompt", "target_prompt"),
        ("palp", "steps", "steps"),
        ("palp", "alignment_weight", "alignment_weight"),
        ("palp", "file_name", "file_name"),
        *SAMPLING,
    ]
    outputs = [("palp", name, name) for name in ("model", "clip", "prompt", "file")]
    description = "Learns your subject from a folder of photos for one prompt, and draws that prompt."
    return Blueprint(
        workflow, inside, widgets, outputs, description, ["palp", "train lora", "dreambooth", "my subject"]
    )


def learn_a_word() -> Blueprint:
    """Make one node of the training of a word from photos."""
    workflow = textual_inversion()
    inside = ["photos", "word"]
    names = ("name", "initial_word", "kind", "steps", "overwrite")
    widgets = [("photos", "folder", "photos"), *(("word", name, name) for name in names)]
    workflow.nodes["options"] = node("PALP_Options", (0, 800))
    workflow.links.append(("options", "options", "word", "options"))
    outputs = [("word", "loss_chart", "loss_chart")]
    description = "Learns a word from a folder of photos for any prompt; the model stays as it is."
    return Blueprint(workflow, inside, widgets, outputs, description, ["palp", "textual inversion", "embedding"])


BLUEPRINTS = {"Personalize and draw": personalize_and_draw, "Learn a word": learn_a_word}

#: In the page: the nodes of these ids become one, with these widgets and outputs; returns the blueprint's JSON.
CONVERT = """
({ids, widgets, outputs, name}) => {
  const at = (id) => app.graph.nodes.find((n) => Number(n.id) === id);
  const nodes = new Map(ids.map((id) => [id, at(id)]));
  const {subgraph, node} = app.graph.convertToSubgraph(new Set(nodes.values()));
  const inner = (id) => subgraph.nodes.find((n) => n.type === nodes.get(id).type && n.title === nodes.get(id).title);
  const isWidget = (input) => input.linkIds.some((id) => {
    const link = subgraph.getLink(id);
    return !!subgraph.getNodeById(link.target_id)?.inputs[link.target_slot]?.widget;
  });
  for (const input of [...subgraph.inputs].filter(isWidget)) subgraph.removeInput(input);
  for (const [id, widget, label] of widgets) {
    const to = inner(id), slot = to.inputs.find((i) => i.widget?.name === widget);
    subgraph.addInput(label, String(slot.type)).connect(slot, to);
  }
  for (const [id, output, label] of outputs) {
    const from = inner(id), slot = from.outputs.find((o) => o.name === output);
    if (slot.links?.some((l) => Number(subgraph.getLink(l)?.target_id) === -20)) continue;
    subgraph.addOutput(label, String(slot.type)).connect(slot, from);
  }
  subgraph.name = node.title = name;
  node.setSize([360, node.computeSize()[1] + 60]);
  const {nodes: [serialized], subgraphs} = app.canvas._serializeItems([node]);
  return JSON.parse(JSON.stringify({node: {...serialized, pos: [0, 0]}, subgraphs}));
}
"""


def converted(page: Page, blueprint: Blueprint, name: str) -> dict:
    """Make a blueprint's JSON of the workflow that lies in the page, whose nodes are numbered in their order."""
    number = {name: number for number, name in enumerate(blueprint.workflow.nodes, 1)}

    def numbered(items: list[tuple[str, str, str]]) -> list[list]:
        return [[number[node], slot, label] for node, slot, label in items]

    asked = {
        "ids": [number[node] for node in blueprint.inside],
        "widgets": numbered(blueprint.widgets),
        "outputs": numbered(blueprint.outputs),
        "name": name,
    }
    made = page.evaluate(CONVERT, asked)
    made["subgraphs"][0]["category"] = "PALP"
    return {
        "revision": 0,
        "last_node_id": made["node"]["id"],
        "last_link_id": 0,
        "nodes": [_alone(made["node"])],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": made["subgraphs"]},
        "extra": {"BlueprintDescription": blueprint.description, "BlueprintSearchAliases": blueprint.aliases},
    }


def _alone(node: dict) -> dict:
    """Cut a node's links."""
    inputs = [{**slot, "link": None} for slot in node["inputs"]]
    return {**node, "inputs": inputs, "outputs": [{**slot, "links": []} for slot in node["outputs"]]}
