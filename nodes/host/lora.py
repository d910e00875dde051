"""LoRA on the host's MODEL: a PALP file put on by the host's own loader, and any LoRA left out for a while.

No second copy is made of the weights that no LoRA changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import comfy.lora
import comfy.lora_convert
from torch import Tensor, nn

from ...palp_core.errors import ModelError
from ...palp_core.files.bundled_words import Bundle
from ...palp_core.files.checks import DOWN, UP
from ...palp_core.files.embedding_file import SINGLE
from ...palp_core.files.lora_file import LoraFile
from ...palp_core.methods.subjects import mean_vectors
from ...palp_core.models.backbone import WordVectors
from .families import check_trained_on
from .text import check_clip, clip_with_words, token_table, word_vectors

#: Under which the host's loaders keep a LoRA that they do not put into the weights.
BYPASS = "bypass_lora"


def apply_lora_file(model, clip, file: LoraFile, strength: float, word_strength: float = 1.0) -> tuple:
    """Clones of MODEL, with the LoRA at this strength, and of CLIP, which knows the file's words as `embedding:NAME`.

    word_strength: how far the words are from their class words, 1 as they were learned.

    Returns (model, clip, left_out), left_out being the names of the file's projections that the MODEL does not have.
    Raises ModelError for a MODEL or a CLIP of another family, and for a MODEL that has none of them, or one of another
    shape.
    """
    check_trained_on(model, clip, file.info.family)
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    _check_shapes(model, keys, file)
    patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(dict(file.lora)), keys, log_missing=False)
    patched = model.clone()
    applied = set(patched.add_patches(patches, strength))
    left_out = [name for name in file.names if keys.get(name) not in applied]
    if len(left_out) == file.projections:
        raise ModelError(
            f"none of the file's {file.projections} LoRA keys fits this model. The file was made for "
            f"{file.info.family}: load a checkpoint of that family."
        )
    check_clip(clip)
    _check_encoders(clip, file.words, f"words of {file.info.family}")
    words = {f"embedding:{name}": word for name, word in _words_at(clip, file, word_strength).items()}
    return patched, clip_with_words(clip, words), left_out


def apply_bundle(model, clip, bundle: Bundle, strength: float) -> tuple:
    """Clones of MODEL and CLIP with another tool's LoRA at this strength; the CLIP knows its words, too.

    Returns (model, clip, applied, total), the last two being numbers of weights. Raises ModelError for a MODEL and a
    CLIP that have none of them, and for a CLIP that the words do not fit.
    """
    check_clip(clip)
    encoders = [name for name in ("clip_l", "clip_g", "clip_h", "t5xxl") if hasattr(clip.cond_stage_model, name)]
    only = encoders[0] if encoders else ""
    words = {n: {only if e == SINGLE else e: rows for e, rows in word.items()} for n, word in bundle.words.items()}
    _check_encoders(clip, words, "words")
    keys = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, comfy.lora.model_lora_keys_unet(model.model, {}))
    patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(dict(bundle.lora)), keys, log_missing=False)
    model, clip = model.clone(), clip.clone()
    applied = {*model.add_patches(patches, strength), *clip.add_patches(patches, strength)}
    if not applied:
        raise ModelError("none of the file's LoRA keys fits this model. Load a checkpoint of the file's family.")
    known = {f"embedding:{name}": word for name, word in words.items()}
    return model, clip_with_words(clip, known), len(applied), len(patches)


def _words_at(clip, file: LoraFile, strength: float) -> Mapping[str, Mapping[str, Tensor]]:
    """A file's words at a strength: 0 is the class word as the model knows it, 1 what was learned."""
    if strength == 1:
        return file.words
    found = {}
    for subject in (s for s in file.info.subjects if s.embedding):
        learned = file.words[subject.embedding]
        start = _start_of(learned, word_vectors(clip, learned, subject.class_word))
        found[subject.embedding] = {e: start[e] + strength * (rows - start[e]) for e, rows in learned.items()}
    return found


def _start_of(learned: WordVectors, tokens: WordVectors) -> WordVectors:
    """The class word's vector for each that was learned; their mean for all, where there are more or fewer."""
    mean = mean_vectors(tokens)
    return {e: tokens[e] if len(tokens[e]) == len(rows) else mean[e] for e, rows in learned.items()}


def _check_shapes(model, keys: Mapping[str, str | tuple], file: LoraFile) -> None:
    """The host leaves out a projection of another shape and tells its log alone, or pours it in in the wrong order."""
    weights = model.model.state_dict()
    for name in file.names:
        wanted = _shape(weights, keys.get(name))
        found = (file.lora[name + UP].shape[0], file.lora[name + DOWN].shape[1])
        if wanted not in (None, found):
            raise ModelError(
                f"the file's {name} is for a weight of {found[0]} x {found[1]}, and the model's is {wanted[0]} x "
                f"{wanted[1]}. The file was made for {file.info.family}: load a checkpoint of that family."
            )


def _shape(weights: Mapping[str, Tensor], key: str | tuple | None) -> tuple[int, int] | None:
    """Outputs and inputs of a weight, or of a part of it, which the host names by (key, (dimension, start, length))."""
    key, part = (key, None) if isinstance(key, str) or key is None else key[:2]
    if key not in weights:
        return None
    shape = list(weights[key].shape)
    if part is not None:
        shape[part[0]] = part[2]
    return shape[0], math.prod(shape[1:])


def _check_encoders(clip, words: Mapping[str, Mapping[str, Tensor]], what: str) -> None:
    for word in words.values():
        for encoder, vectors in word.items():
            text_encoder = clip.cond_stage_model
            width = token_table(text_encoder, encoder).weight.shape[-1] if hasattr(text_encoder, encoder) else None
            if width != vectors.shape[-1]:
                raise ModelError(
                    f"clip does not fit: the file holds {what} for {encoder or 'a CLIP'} of width {vectors.shape[-1]}. "
                    "Connect the CLIP of a checkpoint of that family."
                )


def check_lora_is_in_weights(name: str, patcher) -> None:
    """Raise ModelError for a LoRA that the host computes beside the weights, which nothing can be trained through."""
    if patcher.get_injections(BYPASS):
        raise ModelError(
            f"{name} has a LoRA of the node Load LoRA (Bypass), which is neither trained through nor left out. Use "
            "ComfyUI's Load LoRA in its place."
        )


def base_weights(patcher, base_patches: Mapping[str, list]) -> dict[str, Tensor]:
    """The weights in which the model differs from the base model, as the base model has them: key -> weight.

    patcher: loaded. base_patches: those of a patcher of the same weights; empty for the checkpoint's own. Each lies
    on the device on which the model now has that weight.
    """
    weights = {}
    for key in patcher.patches.keys() | base_patches.keys():
        if same_patches(patcher.patches.get(key, []), base_patches.get(key, [])):
            continue
        current = _parameter(patcher.model, key)
        weight = patcher.backup[key].weight.to(current.device) if key in patcher.backup else current.detach()
        if key in base_patches:
            patched = comfy.lora.calculate_weight(base_patches[key], weight.float().clone(), key)
            weight = patched.to(weight.dtype)
        weights[key] = weight
    return weights


def same_patches(some: list[tuple], others: list[tuple]) -> bool:
    """The host's patches, which its clones share."""
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


def merges(patches: Mapping[str, list[tuple]]) -> dict[str, list[tuple]]:
    """Those of the host's patches, (strength, what, ...), that are another model's weights: no LoRA, but a merge."""
    found = {key: [patch for patch in some if isinstance(patch[1], list)] for key, some in patches.items()}
    return {key: some for key, some in found.items() if some}


@contextmanager
def with_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the model computes with these weights; after, with those it had. Nothing is copied."""
    undo: list[Callable[[], None]] = []
    try:
        for key, weight in weights.items():
            parent, _, name = key.rpartition(".")
            _put(model.get_submodule(parent), name, weight, undo)
        yield
    finally:
        for step in reversed(undo):
            step()


def _put(module: nn.Module, name: str, weight: Tensor, undo: list[Callable[[], None]]) -> None:
    own = module._parameters[name]
    undo.append(lambda: module._parameters.update({name: own}))
    module._parameters[name] = nn.Parameter(weight, requires_grad=False)
    functions = getattr(module, f"{name}_function", None)  # what the host does to a weight as it streams it in
    if functions:
        undo.append(lambda: setattr(module, f"{name}_function", functions))
        kept = [f for f in functions if not isinstance(f, comfy.model_patcher.LowVramPatch)]
        setattr(module, f"{name}_function", kept)


def _parameter(model: nn.Module, key: str) -> nn.Parameter:
    parent, _, name = key.rpartition(".")
    return model.get_submodule(parent)._parameters[name]
