"""A LoRA file of ours or of another tool, put on MODEL and CLIP, and what is to be said of it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ...palp_core.errors import SettingError
from ...palp_core.files.bundled_words import load_bundle
from ...palp_core.files.lora_file import LoraFile, is_ours
from ...palp_core.files.snapshots import load_at_step
from .lora import apply_bundle, apply_lora_file
from .session import runs_folder


class Loaded(NamedTuple):
    """What a file has made."""

    model: object  # clones of the host's MODEL and CLIP
    clip: object
    prompt: str  # as it is typed
    said: str  # what of the file is on the model, and its words


def load_file(model, clip, path: Path, strength: float, step: int, word_strength: float) -> Loaded:
    """Put a file on clones of MODEL and CLIP.

    strength: of the LoRA. step: what was learned until then, 0 for all; word_strength: how far the words are from
    their class words; both are for files of ours. Raises PalpError for a file that cannot be read or does not fit, and
    for settings that it has no use for.
    """
    if not is_ours(path):
        return _load_bundle(model, clip, path, strength, step, word_strength)
    file = load_at_step(path, runs_folder(), step)
    model, clip, left_out = apply_lora_file(model, clip, file, strength, word_strength)
    return Loaded(model, clip, file.info.prompt, report(file, left_out))


def _load_bundle(model, clip, path: Path, strength: float, step: int, word_strength: float) -> Loaded:
    bundle = load_bundle(path)
    if step != 0 or word_strength != 1:
        raise SettingError(
            f"step is {step} and word_strength {word_strength}, but {path.name} was not made by PALP: it holds neither "
            "earlier steps nor the class words. Set step to 0 and word_strength to 1."
        )
    model, clip, applied, total = apply_bundle(model, clip, bundle, strength)
    words = ", ".join(bundle.spelled)
    return Loaded(model, clip, words, f"A file of another tool. {applied} of {total} weights changed. Words: {words}")


def report(file: LoraFile, left_out: list[str]) -> str:
    """Say how much of a file is on the model, and what its words are. left_out: projections that are not."""
    matched = f"{file.projections - len(left_out)} of {file.projections} keys matched"
    if left_out:
        more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        matched += f"; the model does not have {', '.join(left_out[:3])}{more}"
    return f"{matched}. Words: {', '.join(subject.spelled for subject in file.info.subjects)}"
