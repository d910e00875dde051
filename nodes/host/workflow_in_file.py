"""The workflow that a saved file holds: the page opens it when the file is dropped there."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from ...palp_core.files.lora_file import LoraFile

#: The template that loads a file, of the families whose models are single checkpoints.
TEMPLATE = Path(__file__).parents[2] / "example_workflows/06 Use a trained file.json"
FAMILIES = ("sd1", "sd2", "sdxl")
#: Under which the page looks for it.
KEY = "workflow"


def workflow_metadata(content: LoraFile, title: str) -> dict[str, str]:
    """Return the template that loads this very file, for the metadata; nothing where a model is several files.

    A training is not lost for it: where the template cannot be read, the file is saved without.
    """
    if content.info.family not in FAMILIES:
        return {}
    try:
        template = json.loads(TEMPLATE.read_text(encoding="utf-8"))
        return {KEY: json.dumps(_filled(template, f"{title}.safetensors", content.info.settings["resolution"]))}
    except (OSError, ValueError, KeyError) as error:
        logging.warning("%s is saved without a workflow: %s", title, error)
        return {}


def _filled(template: dict, file: str, resolution: int) -> dict:
    """Name the file in its loader, and draw at the size that it was trained at."""
    chosen = {
        "PALP_LoadLora": {"lora_name": file},
        "EmptyLatentImage": {"width": resolution, "height": resolution},
    }
    for node in template["nodes"]:
        values = {**node.get("widgets_values_named", {}), **chosen.get(node["type"], {})}
        if node["type"] in chosen:
            node["widgets_values"], node["widgets_values_named"] = list(values.values()), values
    return template
