"""Prompts longer than a CLIP reads at once: in windows one behind the other, as ComfyUI cuts them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

from torch import Tensor

#: A text or a word of fewer tokens is not cut in two.
CUT_FROM = 8

T = TypeVar("T")


def in_windows(groups: Iterable[Sequence[T]], longest: int) -> list[list[T]]:
    """Distribute the tokens of a prompt over windows of at most `longest`, start and end token not counted.

    groups: the tokens of each text between brackets, and of each learned word. A short group that does not fit begins
    the next window; a long one fills this one first. There is one window at least.
    """
    windows: list[list[T]] = [[]]
    for group in groups:
        rest = list(group)
        while len(rest) > (room := longest - len(windows[-1])):
            if len(group) >= CUT_FROM:
                windows[-1] += rest[:room]
                rest = rest[room:]
            windows.append([])
        windows[-1] += rest
    return windows


def of_one_length(contexts: Sequence[Tensor]) -> list[Tensor]:
    """Repeat the tokens of prompts, (1, T, C) each, until all are as many: attention to them stays what it is."""
    length = math.lcm(*(context.shape[1] for context in contexts))
    return [context.repeat(1, length // context.shape[1], 1) for context in contexts]
