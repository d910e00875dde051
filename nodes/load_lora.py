"""Load PALP LoRA: a file that PALP Personalize saved, or one of another tool, with the words inside it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from .host.lora_list import loras_ours_first
from .host.lora_loading import load_file
from .host.progress import show_text
from .widgets import CATEGORY


class LoadPalpLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PALP_LoadLora",
            display_name="Load PALP LoRA",
            category=CATEGORY,
            description=(
                "Loads a file saved by PALP Personalize, or a LoRA of another tool with words inside. The word works "
                "in any prompt as embedding:NAME, without a copy in the embeddings folder; the prompt output shows how "
                "it is spelled."
            ),
            search_aliases=["palp", "lora", "load lora", "embedding", "textual inversion"],
            inputs=[
                io.Model.Input("model", tooltip="Takes a model of the family that the file was trained on."),
                io.Clip.Input("clip", tooltip="Takes the CLIP of the same checkpoint; it learns the file's words."),
                io.Combo.Input(
                    "lora_name",
                    options=loras_ours_first(),
                    tooltip="Names a file of PALP Personalize; these come first in the list. Press R to list one "
                    "that was saved just now.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Sets how strongly the LoRA changes the model: 1 as trained, 0 not at all. The word stays.",
                ),
                io.Int.Input(
                    "step",
                    default=0,
                    min=0,
                    max=100_000,
                    tooltip="Takes what was learned until this step, one at which the training drew a picture; 0 is "
                    "its end.",
                ),
                io.Float.Input(
                    "word_strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="Sets how far the learned word is from its class word: 1 as trained, 0 is the plain class "
                    "word. A file without a word has no use for it.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Has the file's LoRA at this strength."),
                io.Clip.Output(display_name="clip", tooltip="Knows the file's words."),
                io.String.Output(
                    display_name="prompt",
                    tooltip="Is the prompt it was trained for: connect it to CLIP Text Encode.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, clip, lora_name, strength, step, word_strength):
        path = Path(folder_paths.get_full_path_or_raise("loras", lora_name))
        loaded = load_file(model, clip, path, strength, step, word_strength)
        logging.info("Load PALP LoRA: %s: %s", lora_name, loaded.said)
        show_text(cls.hidden.unique_id, loaded.said)
        return io.NodeOutput(loaded.model, loaded.clip, loaded.prompt, ui={"text": (loaded.said,)})

    @classmethod
    def fingerprint_inputs(cls, lora_name, **_inputs):
        """Run again when the file has been replaced. A name that is linked is not known yet: None."""
        return lora_name and os.path.getmtime(folder_paths.get_full_path_or_raise("loras", lora_name))
