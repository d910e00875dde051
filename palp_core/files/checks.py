"""What a file must hold before anything is made of it: the one check that every reader of tensors goes through.

Shapes and kinds are known from a file's header, and looked at before its tensors are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import FileError
from .names import printable

MOST_VECTORS = 64  # of a word
#: Of a projection's alpha, for each of its rank. Load PALP LoRA takes a strength of at most 10, our trainings give 1,
#: and what scales a LoRA by more than a user could is no setting of anyone, but damage.
MOST_ALPHA = 10
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: What follows the two sizes of a matrix: nothing, or for a convolution, as some UNets have them, one pixel.
POINTWISE = ((), (1, 1))
DOWN, UP, ALPHA = (".lora_down.weight", ".lora_up.weight", ".alpha")


class Layout(NamedTuple):
    """A tensor as a file's header has it."""

    dtype: torch.dtype | None  # None for one that no file of ours has
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """A file that is read, as its errors call it."""

    name: str
    #: What to do where the file is damaged, a sentence.
    remedy: str = "Copy or download it again."

    def refusal(self, reason: str) -> FileError:
        """Make the error for a file that cannot be used. reason: goes on where its name ends."""
        return FileError(f"{self.name} {reason}. {self.remedy}")

    def unreadable(self, error: Exception) -> FileError:
        """Make the error for a .safetensors file that is damaged, cut off or not there."""
        return self.refusal(f"cannot be read ({printable(str(error), 200)})")


def check_lora(source: Source, layouts: Mapping[str, Layout], rank: int | None = None) -> list[str]:
    """The names of the projections that these tensors are, each whole. Raises FileError for any other tensor.

    rank: of all of them; None where each may have its own.
    """
    names = sorted({_projection(source, key) for key in layouts})
    if not names:
        raise source.refusal("holds no LoRA")
    for name in names:
        _check_projection(source, layouts, name, rank)
    return names


def _projection(source: Source, key: str) -> str:
    for end in (DOWN, UP, ALPHA):
        if key.endswith(end):
            return key.removesuffix(end)
    raise source.refusal(f"holds {printable(key)}, which is no part of a PALP file")


def _check_projection(source: Source, layouts: Mapping[str, Layout], name: str, rank: int | None) -> None:
    for key in (name + DOWN, name + UP, name + ALPHA):
        check_floating(source, layouts, key)
    down, up = layouts[name + DOWN].shape, layouts[name + UP].shape
    whole = len(down) >= 2 and len(up) >= 2 and down[2:] == up[2:] and down[2:] in POINTWISE
    fitting = whole and down[0] == up[1] and 0 not in (*down, *up)
    if not fitting or rank not in (None, down[0]):
        wanted = "one rank" if rank is None else f"rank {rank}"
        raise source.refusal(f"holds {printable(name)} with down {down} and up {up}: the two are not of {wanted}")
    if any(size != 1 for size in layouts[name + ALPHA].shape):
        raise source.refusal(f"holds {printable(name + ALPHA)}, which is to be one number")


def check_alphas(source: Source, tensors: Mapping[str, Tensor], projections: Iterable[str]) -> None:
    """Raise FileError for a LoRA that would be scaled to nothing, turned around or blown up."""
    for name in projections:
        alpha, most = tensors[name + ALPHA].item(), MOST_ALPHA * len(tensors[name + DOWN])
        if not 0 < alpha <= most:
            key = printable(name + ALPHA)
            raise source.refusal(f"is damaged: {key} is {alpha:g}, and must be above 0 and at most {most}")


def check_word(source: Source, word: str, parts: Mapping[str, str], layouts: Mapping[str, Layout]) -> None:
    """Raise FileError unless a word has 1 to 64 vectors for each encoder, and as many for each CLIP.

    parts: encoder -> key of its tensor.
    """
    which = f"the word {printable(word)}"
    for key in parts.values():
        check_floating(source, layouts, key, f"for {which} ")
        shape = layouts[key].shape
        count = 1 if len(shape) == 1 else shape[0] if len(shape) == 2 else 0
        if not 1 <= count <= MOST_VECTORS or shape[-1] == 0:
            raise source.refusal(f"holds {shape} for {which}, which is to be 1 to {MOST_VECTORS} vectors")
    clips = [layouts[key] for encoder, key in parts.items() if encoder != "t5xxl"]  # which splits words as T5 does not
    if len({layout.shape[:-1] for layout in clips}) > 1:
        raise source.refusal(f"holds different numbers of vectors for the parts of {which}")


def check_floating(source: Source, layouts: Mapping[str, Layout], key: str, which: str = "") -> None:
    if key not in layouts:
        raise source.refusal(f"is not whole: it lacks {printable(key)}")
    if layouts[key].dtype not in FLOATS:
        raise source.refusal(f"is damaged: {which}{printable(key)} holds no floating point numbers")


def check_finite(source: Source, tensors: Mapping[str, Tensor]) -> None:
    """Raise FileError where one value of one tensor is none, or more than models compute with."""
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            raise source.refusal(f"is damaged: {printable(key)} holds values that are not finite")
