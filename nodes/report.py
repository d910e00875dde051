"""PALP Report: how well pictures follow their prompt and how much they look like the photos, in figures and a grid."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ..palp_core.evaluation.comparison import compare, heading
from ..palp_core.evaluation.references import text_of
from ..palp_core.training.contact_sheet import contact_sheet
from .host.judges import judges_of
from .host.progress import show_text
from .widgets import CATEGORY, unbatch


class PalpReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PALP_Report",
            display_name="PALP Report",
            category=CATEGORY,
            description=(
                "Measures pictures by CLIP and DINOv2: how well they follow their prompt, how much they look like the "
                "photos, and how much they differ from each other. It says what it could not measure, and why."
            ),
            search_aliases=["palp", "clip score", "evaluate", "metrics", "similarity", "compare images", "dino"],
            is_output_node=True,
            is_input_list=True,  # photos of different sizes come as a list
            inputs=[
                io.Image.Input("images", tooltip="Takes the pictures to be measured, all of one prompt."),
                io.String.Input(
                    "prompt",
                    default="a sketch of [V] in Paris at night",
                    multiline=True,
                    tooltip="Is the prompt of the pictures; what stands for the subject is read as class_word.",
                ),
                io.String.Input(
                    "class_word",
                    default="cat",
                    tooltip="Says what the subject is, in a word that CLIP knows; it is read for [V] or "
                    "embedding:NAME.",
                ),
                io.Image.Input(
                    "reference_photos", optional=True, tooltip="Takes photos of the subject, to compare with."
                ),
                io.ClipVision.Input(
                    "clip_vision", optional=True, tooltip="Takes CLIP's image encoder, by Load CLIP Vision."
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Takes the text encoder that belongs to clip_vision: CLIP-L for ViT-L, or SDXL's for "
                    "ViT-G.",
                ),
                io.ClipVision.Input("dino", optional=True, tooltip="Takes DINOv2, by Load CLIP Vision."),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="Are the figures, a line for each."),
                io.Image.Output(
                    display_name="grid", tooltip="Shows the photos and the pictures, each with its figures above it."
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, images, prompt, class_word, reference_photos=None, clip_vision=None, clip=None, dino=None):
        pictures, shown = _pictures(images), _pictures(reference_photos or [])
        judges, missing = judges_of(*(connected and connected[0] for connected in (clip_vision, dino, clip)))
        text = text_of(prompt[0], class_word[0].strip()).strip()
        compared = compare(pictures, text, shown, judges, missing)
        report = f"{heading(len(pictures), len(shown))}\n{compared.told()}"
        show_text(cls.hidden.unique_id, report)
        titled = {f"photo {number}": photo for number, photo in enumerate(shown, 1)}
        grid = contact_sheet({**titled, **dict(zip(compared.titles(len(pictures)), pictures, strict=True))})[None]
        return io.NodeOutput(report, grid, ui=ui.PreviewImage(grid, cls=cls))


def _pictures(batches: list[Tensor]) -> list[Tensor]:
    """(H, W, 3) each, from batches (B, H, W, 3 or 4)."""
    return [picture[..., :3] for picture in unbatch({"": batches})]
