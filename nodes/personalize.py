"""PALP Personalize: train the host's MODEL and CLIP on a subject for one prompt (arXiv 2401.06105)."""

from __future__ import annotations

from functools import partial
from typing import get_args

import folder_paths
import torch
from comfy_api.latest import io, ui

from ..palp_core.files.lora_file import check_can_save, load_lora_file, save_run
from ..palp_core.methods.personalization import Personalization, PersonalizationConfig, check_subjects
from ..palp_core.methods.scores import AlignmentConfig, Noise, Score
from ..palp_core.training.chart import loss_chart
from .host.backbone import ComfyBackbone
from .host.lora import apply_lora_file
from .host.progress import TrainingProgress, show_text
from .host.session import train
from .widgets import (
    ADVANCED,
    CATEGORY,
    NO_EMBEDDING,
    Subjects,
    batch_size_input,
    class_word_input,
    config_fields,
    gradient_checkpointing_input,
    images_input,
    initial_embedding_input,
    initial_embedding_time,
    make_subject,
    masks_input,
    personalization_prompt_input,
    placeholder_input,
    precision_input,
    resolution_input,
    seed_input,
)

DEFAULT = PersonalizationConfig()


class PalpPersonalize(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PALP_Personalize",
            display_name="PALP Personalize",
            category=CATEGORY,
            description=(
                "Learns your subject from a few photos for one prompt, without losing the prompt: a LoRA and a word "
                "are trained while the untouched model keeps the scene. Saves both in one file in the loras folder."
            ),
            search_aliases=["palp", "train lora", "dreambooth", "textual inversion", "personalization", "my subject"],
            is_input_list=True,
            is_output_node=True,
            inputs=_inputs(),
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The personalized model, for a KSampler in the same run."
                ),
                io.Clip.Output(display_name="clip", tooltip="Knows the learned word."),
                io.String.Output(display_name="prompt", tooltip="The target prompt, ready for CLIP Text Encode."),
                io.String.Output(display_name="file", tooltip="Name of the saved file in the loras folder."),
                io.Image.Output(display_name="loss_chart", tooltip="The history of the losses as a picture."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, model, clip, vae, images, masks=None, subjects=None, **widgets):
        model, clip, vae = model[0], clip[0], vae[0]
        widgets = {name: value[0] for name, value in widgets.items()}
        folder, name = folder_paths.get_folder_paths("loras")[0], widgets["file_name"]
        check_can_save(folder, name)
        with torch.inference_mode(False):
            subject = make_subject(
                images,
                widgets["class_word"],
                widgets["placeholder"],
                widgets["personalization_prompt"],
                masks,
                widgets.get("initial_embedding", NO_EMBEDDING),
            )
            everyone = [subject, *(subjects[0] if subjects else [])]
            config = _config(widgets)
            check_subjects(everyone, widgets["target_prompt"])  # before a model is touched
            backbone = ComfyBackbone(model, clip, vae, widgets["precision"])
            run = Personalization(backbone, everyone, widgets["target_prompt"], config)
            progress = TrainingProgress(cls.hidden.unique_id, run.config.steps)
            path = train(run, progress, partial(save_run, run, name=name), folder, "PALP Personalize")
        file = load_lora_file(path)
        model, clip, _ = apply_lora_file(model, clip, file, strength=1.0)
        show_text(cls.hidden.unique_id, f"saved as {path.name}. Prompt: {file.info.prompt}")
        chart = loss_chart(progress.history)[None]
        preview = ui.PreviewImage(chart, cls=cls)
        return io.NodeOutput(model, clip, file.info.prompt, path.name, chart, ui=preview)

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        """Run again when the initial embedding has been replaced."""
        return initial_embedding_time(inputs)


def _config(widgets: dict) -> PersonalizationConfig:
    alignment = AlignmentConfig(**config_fields(AlignmentConfig, widgets), weight=widgets["alignment_weight"])
    return PersonalizationConfig(**config_fields(PersonalizationConfig, widgets), alignment=alignment)


def _inputs() -> list[io.Input]:
    """New ones go to the end: saved workflows hold widget values by position."""
    return [
        io.Model.Input("model", tooltip="Stable Diffusion 1.x, 2.x or SDXL. It is left as it was."),
        io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint."),
        io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
        images_input(),
        class_word_input("cat"),
        io.String.Input(
            "target_prompt",
            default="a sketch of [V] in Paris at night",
            multiline=True,
            tooltip="The picture you have in mind, with [V] for the subject. The model is tuned for this one prompt.",
        ),
        io.Int.Input(
            "steps",
            default=DEFAULT.steps,
            min=1,
            max=100_000,
            tooltip="300 to 1000. Fewer keep the prompt better, more the subject; one photo needs fewer.",
        ),
        io.Float.Input(
            "learning_rate",
            default=DEFAULT.learning_rate,
            min=1e-7,
            max=1e-1,
            step=1e-6,
            round=1e-7,
            tooltip="Of the LoRA. 1e-4 suits small batches; the paper has 5e-5 at batch 32.",
        ),
        io.Int.Input(
            "rank",
            default=DEFAULT.rank,
            min=1,
            max=256,
            tooltip="Size of the LoRA: 4 to 64. The paper has 32. Larger learns finer detail and makes a larger file.",
        ),
        io.Float.Input(
            "alignment_weight",
            default=DEFAULT.alignment.weight,
            min=0.0,
            max=10.0,
            step=0.05,
            tooltip="How strongly the prompt is kept: 0.1 to 0.5. 0 is plain textual inversion + LoRA, and faster.",
        ),
        seed_input("photos"),
        io.String.Input(
            "file_name",
            default="my_subject",
            tooltip="Name of the file in the loras folder; a number is added, so that no file is overwritten.",
        ),
        masks_input(),
        Subjects.Input(
            "subjects",
            optional=True,
            tooltip="Further subjects of the same picture, from PALP Subject. The paper has score palp for them.",
        ),
        placeholder_input("[V]"),
        personalization_prompt_input(),
        io.String.Input(
            "clean_prompt",
            default="",
            multiline=True,
            tooltip="The scene for the untouched model. Empty: the target prompt with class words for placeholders. "
            "With score delta call the subject by its class word.",
            extra_dict=ADVANCED,
        ),
        io.Float.Input(
            "alpha",
            default=DEFAULT.alignment.alpha,
            min=1.0,
            max=100.0,
            step=0.5,
            tooltip="Guidance of the untouched model. Further above beta: more prompt, less likeness. With score palp "
            "the paper has 15, and 7.5 for several subjects.",
            extra_dict=ADVANCED,
        ),
        io.Float.Input(
            "beta",
            default=DEFAULT.alignment.beta,
            min=1.0,
            max=100.0,
            step=0.5,
            tooltip="Guidance of the personalized model, about the CFG at which you draw. With score palp "
            "the paper has 7.5, and 1 for several subjects.",
            extra_dict=ADVANCED,
        ),
        io.Combo.Input(
            "score",
            options=list(get_args(Score)),
            default=DEFAULT.alignment.score,
            tooltip="delta: what the untouched model draws for the prompt, with your subject's looks. palp: the "
            "paper's; set alpha 15 and beta 7.5. sds and nfsd: what the paper compares with.",
            extra_dict=ADVANCED,
        ),
        io.Combo.Input(
            "noise",
            options=list(get_args(Noise)),
            default=DEFAULT.alignment.noise,
            tooltip="Re-noise with the sample's own noise, as in the paper, or with a fresh draw.",
            extra_dict=ADVANCED,
        ),
        io.Boolean.Input(
            "rescale",
            default=DEFAULT.alignment.rescale,
            tooltip="Divide the alignment gradient by the noise level, as in the paper.",
            extra_dict=ADVANCED,
        ),
        batch_size_input(DEFAULT.batch_size),
        resolution_input(DEFAULT.resolution, "Photos"),
        io.Float.Input(
            "embedding_learning_rate",
            default=DEFAULT.embedding_learning_rate,
            min=0.0,
            max=1e-1,
            step=1e-6,
            round=1e-7,
            tooltip="Of the word. 0 keeps the class word's embedding and frees the text encoder's memory.",
            extra_dict=ADVANCED,
        ),
        precision_input("LoRA"),
        gradient_checkpointing_input(DEFAULT.gradient_checkpointing),
        io.Float.Input(
            "max_grad_norm",
            default=DEFAULT.max_grad_norm,
            min=0.01,
            max=1000.0,
            step=0.1,
            tooltip="Longer gradients are cut to this length.",
            extra_dict=ADVANCED,
        ),
        initial_embedding_input("class word"),
    ]
