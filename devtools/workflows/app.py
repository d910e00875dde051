"""The workflow that opens as an app: a form with three questions and a picture in the place of the graph."""

from __future__ import annotations

from .blocks import App, Workflow
from .personalization import personalize

QUESTIONS = [
    ("photos", "folder", "A folder with your photos"),
    ("palp", "class_word", "What do they show?"),
    ("palp", "target_prompt", "Your picture in words, with [V] for it"),
    ("checkpoint", "ckpt_name", "Checkpoint"),
]


def personalize_in_app() -> Workflow:
    """Lay out the training on photos of one subject, as an app."""
    workflow = personalize()
    nodes = dict(workflow.nodes)
    for name, widget, label in QUESTIONS:
        labels = nodes[name].get("labels", {})
        nodes[name] = {**nodes[name], "labels": {**labels, widget: label}}
    return workflow._replace(nodes=nodes, app=App(QUESTIONS, "save"))


def app_settings(workflow: Workflow) -> dict:
    """Say in the page's own words what of a workflow its app shows; nodes are numbered in their order."""
    number = {name: number for number, name in enumerate(workflow.nodes, 1)}
    inputs = [[number[name], widget] for name, widget, _ in workflow.app.inputs]
    return {"linearMode": True, "linearData": {"inputs": inputs, "outputs": [number[workflow.app.output]]}}
