"""The example workflows, one function each; `python -m devtools.workflows` makes their files in ComfyUI's own page.

Their names are the titles that the page's list of templates shows; what ends with .app opens as an app.
"""

from __future__ import annotations

from .app import personalize_in_app
from .attention import attention_heatmap, pick_and_draw
from .personalization import load_lora, personalize, two_subjects
from .toy_world import try_palp
from .transformers import klein, load_klein, load_z_image, z_image
from .variants import artwork, one_photo
from .words import textual_inversion, use_learned_word

WORKFLOWS = {
    "01 Try PALP in two minutes": try_palp,
    "02 Your subject in your picture": personalize,
    "02 Your subject in your picture.app": personalize_in_app,
    "03 Your subject with Z-Image": z_image,
    "04 Your subject with FLUX.2 Klein": klein,
    "05 Two subjects in one picture": two_subjects,
    "06 Use a trained file": load_lora,
    "07 One photo, no training": pick_and_draw,
    "08 Where the words look": attention_heatmap,
    "09 Learn a word": textual_inversion,
    "10 Use a learned word": use_learned_word,
    "11 Your subject painted like an artwork": artwork,
    "12 Your subject from one photo": one_photo,
}
#: What saved files open as in the page, by the family; those of single checkpoints take the template that loads one.
IN_FILES = {"z_image": load_z_image, "flux2_klein": load_klein}
