"""The workflow that a saved file holds: the page opens it when the file is dropped there."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from ...palp_core.files.lora_file import LoraFile

ROOT = Path(__file__).parents[2]
#: What loads a file: the template, where a model is one checkpoint, and what a family of several files needs.
LOADING = {
    **dict.fromkeys(("sd1", "sd2", "sdxl"), ROOT / "example_workflows/06 Use a trained file.json"),
    **{family: ROOT / f"nodes/host/workflows/{family}.json" for family in ("z_image", "flux2_klein")},
}
LATENTS = ("EmptyLatentImage", "EmptySD3LatentImage", "EmptyFlux2LatentImage")
#: Under which the page looks for it.
KEY = "workflow"


def workflow_metadata(content: LoraFile, title: str) -> dict[str, str]:
    """Return the workflow that loads this very file, for the metadata; nothing for families that have none.

    A training is not lost for it: where the workflow cannot be read, the file is saved without.
    """
    if content.info.family not in LOADING:
        return {}
    try:
        template = json.loads(LOADING[content.info.family].read_text(encoding="utf-8"))
        return {KEY: json.dumps(_filled(template, f"{title}.safetensors", content.info.settings["resolution"]))}
    except (OSError, ValueError, KeyError) as error:
        logging.warning("%s is saved without a workflow: %s", title, error)
        return {}


def _filled(template: dict, file: str, resolution: int) -> dict:
    """Name the file in its loader, and draw at the size that it was trained at."""
    size = {"width": resolution, "height": resolution}
    chosen = {"PALP_LoadLora": {"lora_name": file}, **dict.fromkeys(LATENTS, size)}
    for node in template["nodes"]:
        values = {**node.get("widgets_values_named", {}), **chosen.get(node["type"], {})}
        if node["type"] in chosen:
            node["widgets_values"], node["widgets_values_named"] = list(values.values()), values
    return template
