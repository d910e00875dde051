"""PALP Personalize: train the host's MODEL and CLIP on a subject for one prompt (arXiv 2401.06105)."""

from __future__ import annotations

from functools import partial

import folder_paths
import torch
from comfy_api.latest import io

from ..palp_core.files.lora_file import load_lora_file
from ..palp_core.files.names import check_file_name
from ..palp_core.files.safetensors_file import first_writable_folder, reserve
from ..palp_core.methods.alignment import AlignmentConfig
from ..palp_core.methods.memory import fit_memory
from ..palp_core.methods.personalization import Personalization, PersonalizationConfig
from ..palp_core.methods.recording import Recording
from ..palp_core.methods.result import personalization_folder, save_run
from ..palp_core.methods.subjects import check_class_word, check_subjects, check_target_prompt
from ..palp_core.training.loop import Training
from .host.backbone import ComfyBackbone
from .host.lora import apply_lora_file
from .host.session import runs_folder, trained
from .host.workflow_in_file import workflow_metadata
from .options import Options, options_input
from .widgets import (
    CATEGORY,
    Subjects,
    captions_input,
    checkpoint_inputs,
    class_word_input,
    first_fault,
    images_input,
    make_subject,
    masks_input,
    widget,
)


class PalpPersonalize(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PALP_Personalize",
            # The page ranks by id and name alone: whoever looks for LoRA, or training, finds it by these words.
            display_name="LoRA Training (PALP Personalize)",
            category=CATEGORY,
            description=(
                "Learns your subject from a few photos for one prompt, without losing the prompt: a LoRA and a word "
                "are trained while the base model keeps the scene. Saves both in one file in the loras folder."
            ),
            search_aliases=[
                *("palp", "train lora", "finetune", "fine-tune", "fine tuning", "teach", "likeness", "dreambooth"),
                *("textual inversion", "personalization", "personalize", "my subject", "consistent character"),
            ],
            is_input_list=True,
            is_output_node=True,
            inputs=_inputs(),
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="Is the personalized model, for a KSampler in the same run."
                ),
                io.Clip.Output(display_name="clip", tooltip="Knows the learned word."),
                io.String.Output(display_name="prompt", tooltip="Is the target prompt, ready for CLIP Text Encode."),
                io.String.Output(display_name="file", tooltip="Names the saved file in the loras folder."),
                io.Image.Output(display_name="loss_chart", tooltip="Shows the history of the losses."),
                io.Image.Output(
                    display_name="previews",
                    tooltip="Shows the pictures that were drawn while it trained, the base model's first.",
                ),
                io.Image.Output(
                    display_name="overlay",
                    tooltip="Shows what of each photo is learned: bright, and all else dark.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, class_word=None, target_prompt=None, file_name=None, images=None, masks=None):
        """Let the page mark the node before anything is loaded; what is linked is not known yet, and None.

        The host hands over growing inputs, too, and leaves its own checks of numbers out where it may hand over all.
        """
        return first_fault(
            (check_class_word, class_word),
            (check_target_prompt, target_prompt),
            (partial(check_file_name, argument="file_name", folder="loras"), file_name),
        )

    @classmethod
    def execute(cls, model, clip, vae, images, masks=None, subjects=None, options=None, captions=None, **widgets):
        model, clip, vae = model[0], clip[0], vae[0]
        widgets = {name: value[0] for name, value in widgets.items()}
        chosen = options[0] if options else Options()
        loras = folder_paths.get_folder_paths("loras")
        folder = first_writable_folder(loras)
        name = reserve(folder, widgets["file_name"], overwrite=True, argument="file_name")  # a number makes it free
        with torch.inference_mode(False):
            subject = make_subject(
                images,
                masks,
                widgets["class_word"],
                chosen.placeholder,
                chosen.personalization_prompt,
                chosen.initial_embedding,
                chosen.trigger,
                chosen.invert_masks,
                captions,
            )
            everyone = [subject, *(subjects[0] if subjects else [])]
            config = _config(widgets, chosen)
            check_subjects(everyone, widgets["target_prompt"])  # before a model is touched
            backbone = ComfyBackbone(model, clip, vae, chosen.precision, chosen.offloading)
            run = Training(Personalization(backbone, everyone, widgets["target_prompt"], config))
            fit_memory(run.method, chosen.memory, backbone.free_memory())
            kept = personalization_folder(run.method, runs_folder(), name, chosen.retrain, loras)
            recording = Recording(kept, run.method, chosen.previews)
            done = trained(
                cls, run, recording, partial(save_run, run, name=name, more=workflow_metadata), folder, loras
            )
        file = load_lora_file(done.path)
        model, clip, _ = apply_lora_file(model, clip, file, strength=1.0)
        done.tell(f"Prompt: {file.info.prompt}", *(note for one in everyone for note in one.notes))
        chart, pictures, overlay, shown = done.progress.ending(cls)
        return io.NodeOutput(model, clip, file.info.prompt, done.path.name, chart, pictures, overlay, ui=shown)


def _config(widgets: dict, chosen: Options) -> PersonalizationConfig:
    return PersonalizationConfig(
        steps=widgets["steps"],
        seed=widgets["seed"],
        alignment=AlignmentConfig(widgets["alignment_weight"], chosen.score),
        **chosen.settings,
    )


def _inputs() -> list[io.Input]:
    """New ones go to the end: saved workflows hold widget values by position."""
    return [
        *checkpoint_inputs(),
        images_input(),
        class_word_input("cat"),
        io.String.Input(
            "target_prompt",
            default="a sketch of [V] in Paris at night",
            multiline=True,
            tooltip="Describes the picture you have in mind, with [V] for the subject. The model is tuned for it.",
        ),
        widget(PersonalizationConfig, "steps"),
        widget(AlignmentConfig, "weight", name="alignment_weight"),
        widget(PersonalizationConfig, "seed"),
        io.String.Input(
            "file_name",
            default="my_subject",
            tooltip="Names the file in the loras folder; a number is added, so that no file is overwritten.",
        ),
        masks_input(),
        Subjects.Input(
            "subjects",
            optional=True,
            tooltip="Takes further subjects of the same picture, from PALP Subject. The paper has score palp for them.",
        ),
        options_input(),
        captions_input(),
    ]
