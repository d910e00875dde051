"""The example workflows, one function each; `python -m devtools.workflows` makes their files in ComfyUI's own page."""

from __future__ import annotations

from .attention import attention_heatmap, pick_and_draw
from .personalization import load_lora, personalize, two_subjects
from .toy_world import try_palp
from .transformers import klein, z_image
from .words import textual_inversion, use_learned_word

WORKFLOWS = {
    "try_palp_in_two_minutes": try_palp,
    "palp_personalize": personalize,
    "palp_z_image": z_image,
    "palp_flux2_klein": klein,
    "palp_two_subjects": two_subjects,
    "palp_load_lora": load_lora,
    "pick_and_draw": pick_and_draw,
    "attention_heatmap": attention_heatmap,
    "textual_inversion": textual_inversion,
    "use_learned_word": use_learned_word,
}
