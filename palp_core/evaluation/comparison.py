"""Pictures in memory, compared with their prompt, with photos and with each other by the judges that there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.wording import counted
from .measuring import Judges
from .metrics import alignment, diversity
from .results import AXES

#: Below this mean cosine to a text that suits any picture, CLIP's two encoders are not of one model: pairs of a picture
#: and a text have some 0.1 to 0.35, also where one has nothing to do with the other, and vectors of two spaces have 0.
LEAST_COSINE = 0.05
NEUTRAL = "a photo"


@dataclass(frozen=True)
class Compared:
    """What was measured. figures: axis -> (N,) of the pictures; (1,) for diversity."""

    figures: Mapping[str, Tensor]
    #: Axis -> why it was not measured, in a sentence.
    not_measured: Mapping[str, str]

    def told(self) -> str:
        """Write a line for each axis that was measured, and one for each reason why others were not."""
        lines = [f"{AXES[axis][0]} {written(values)}: {AXES[axis][1]}." for axis, values in self.figures.items()]
        reasons: dict[str, list[str]] = {}
        for axis, reason in self.not_measured.items():
            reasons.setdefault(reason, []).append(AXES[axis][0])
        return "\n".join([*lines, *(f"Not measured: {', '.join(names)}. {why}" for why, names in reasons.items())])

    def titles(self, count: int) -> list[str]:
        """Write a title for each of the pictures, which has room for its number and its own figures."""
        own = {axis: values for axis, values in self.figures.items() if axis != "diversity"}
        return [
            ", ".join([str(number + 1), *(f"{AXES[axis][0]} {of[number]:.2f}" for axis, of in own.items())])
            for number in range(count)
        ]


def written(values: Tensor) -> str:
    """Write the mean of figures, and from which to which they are where there are several."""
    if len(values) == 1:
        return f"{values.item():.3f}"
    return f"{values.mean().item():.3f} ({values.min().item():.3f} to {values.max().item():.3f})"


def compare(
    pictures: Sequence[Tensor], text: str, photos: Sequence[Tensor], judges: Judges, missing: Mapping[str, str]
) -> Compared:
    """Measure pictures, (H, W, 3) in 0..1 each, by all that there is.

    text: what CLIP reads; empty for none. photos: as the pictures; may be none. missing: axis -> why a judge for it is
    not there, in a sentence. The figures are those of `palp evaluate`.
    """
    seen, known = judges.encode(pictures), judges.encode(photos) if photos else {}
    figures, reasons = {}, dict(missing)
    if "clip_t" not in reasons:
        reason = _unreadable(judges, seen["clip"], text)
        if reason:
            reasons["clip_t"] = reason
        else:
            figures["clip_t"] = alignment(seen["clip"], judges.clip.encode_texts([text]))
    for axis, judge in {"clip_i": "clip", "dino": "dino"}.items():
        if axis not in reasons and judge in known:
            figures[axis] = alignment(seen[judge], known[judge])
        elif axis not in reasons:
            reasons[axis] = "Connect photos of the subject to reference_photos."
    if "diversity" not in reasons and len(pictures) > 1:
        figures["diversity"] = torch.tensor([diversity(seen["dino"])])
    elif "diversity" not in reasons:
        reasons["diversity"] = "It needs two pictures of the prompt."
    return Compared(figures, {axis: reasons[axis] for axis in AXES if axis in reasons})


def _unreadable(judges: Judges, pictures: Tensor, text: str) -> str:
    """Say why pictures, (N, D), cannot be compared with a text; nothing where they can."""
    if not text:
        return "It needs a prompt."
    neutral = judges.clip.encode_texts([NEUTRAL])
    if neutral.shape[-1] != pictures.shape[-1]:
        return (
            f"clip writes texts in {neutral.shape[-1]} numbers and clip_vision pictures in {pictures.shape[-1]}: they "
            "are of two models. Connect the text encoder that was trained with clip_vision."
        )
    cosine = alignment(pictures, neutral).mean()
    if not cosine >= LEAST_COSINE:  # also where it is no number
        return (
            f"To clip, no picture looks like {NEUTRAL} (cosine {cosine:.3f}): it is of another model than clip_vision, "
            "or lacks its text projection, as the text encoder in a checkpoint of Stable Diffusion 1.x does. Load "
            "CLIP's own text encoder."
        )
    return ""


def heading(pictures: int, photos: int) -> str:
    """Say of how many pictures and photos a report is."""
    return f"{counted(pictures, 'picture')}, {counted(photos, 'photo')} of the subject."
