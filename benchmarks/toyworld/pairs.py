"""Pairs of individual and prompt: settings are chosen on the tuning pairs, what is reported are the test pairs."""

from __future__ import annotations

from typing import Literal

from palp_core.toyworld import scenes
from palp_core.toyworld.evaluators import Target
from palp_core.toyworld.scenes import ClassWord

Pairs = Literal["test", "tuning"]
Prompt = tuple[str, str | None, str | None]  # style, accessory, place
#: What a word was learned from: a drawing of it is a copy, and no edit.
PHOTO: Prompt = ("photo", None, None)

#: Four elements each, the class included, and no style that the reference photos have.
PROMPTS: dict[Pairs, tuple[Prompt, ...]] = {
    "test": (
        ("sketch", "hat", "beach"),
        ("pixel art", "scarf", "city"),
        ("neon", "balloon", "snow"),
        ("watercolor", "hat", "desert"),
        ("sketch", "balloon", "room"),
        ("neon", "scarf", "meadow"),
    ),
    "tuning": (
        ("watercolor", "balloon", "city"),
        ("pixel art", "hat", "meadow"),
        ("sketch", "scarf", "snow"),
        ("neon", "hat", "room"),
    ),
}
INDIVIDUALS: dict[Pairs, tuple[tuple[ClassWord, int], ...]] = {
    "test": tuple((class_word, 11 + n) for n, class_word in enumerate(scenes.CLASSES)),
    "tuning": tuple((class_word, 71 + n) for n, class_word in enumerate(scenes.CLASSES)),
}


def prompts_of_trainings(pairs: Pairs, reads_prompt: bool) -> list[tuple[Prompt, ...]]:
    """Share out the prompts over trainings: one each where they read it, all to one where they do not."""
    prompts = PROMPTS[pairs]
    return [(prompt,) for prompt in prompts] if reads_prompt else [prompts]


def target(class_word: ClassWord, prompt: Prompt) -> Target:
    """Name the elements that pictures of a prompt are to show."""
    style, accessory, place = prompt
    return Target(style, class_word, accessory, place)
