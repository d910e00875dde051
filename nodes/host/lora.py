"""A PALP file on the host's MODEL and CLIP, by the host's own loader."""

from __future__ import annotations

import comfy.lora
import comfy.lora_convert

from ...palp_core.files.lora_file import LoraFile
from .text import check_clip, clip_with_words, token_table


def apply_lora_file(model, clip, file: LoraFile, strength: float) -> tuple:
    """Clones of MODEL, with the LoRA at this strength, and of CLIP, which knows the file's words as `embedding:NAME`.

    Returns (model, clip, matched), matched being how many of the file's projections the MODEL has. Raises ValueError
    when it has none, or the CLIP is of another family.
    """
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(dict(file.lora)), keys, log_missing=False)
    patched = model.clone()
    matched = len(patched.add_patches(patches, strength))
    if matched == 0:
        raise ValueError(
            f"none of the file's {file.projections} LoRA keys fits this model. The file was made for "
            f"{file.info.family}: load a checkpoint of that family."
        )
    _check_encoders(clip, file)
    words = {f"embedding:{name}": word for name, word in file.words.items()}
    return patched, clip_with_words(clip, words), matched


def _check_encoders(clip, file: LoraFile) -> None:
    check_clip(clip)
    for word in file.words.values():
        for encoder, vectors in word.items():
            text_encoder = clip.cond_stage_model
            width = token_table(text_encoder, encoder).weight.shape[-1] if hasattr(text_encoder, encoder) else None
            if width != vectors.shape[-1]:
                raise ValueError(
                    f"clip does not fit: the file holds words for {encoder} of width {vectors.shape[-1]} "
                    f"({file.info.family}). Connect the CLIP of a checkpoint of that family."
                )
