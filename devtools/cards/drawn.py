"""The card of each template, one function each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from palp_core.toyworld.scenes import Individual, new_individual

from .layout import INK, PAPER, SIDE, TEAL, four, full, halves, inset, pill
from .learned import CAT, pictures
from .scenes import heat, photo, picture, together

KITTEN, MUG = new_individual(11, "cat"), new_individual(1, "mug")
ROBOT, CAR, BIRD = new_individual(2, "robot"), new_individual(3, "car"), new_individual(8, "bird")
#: Where each of four pictures has its words: below its middle.
PLACES = [(x, y) for y in (SIDE // 2 - 40, SIDE - 34) for x in (SIDE // 4, SIDE * 3 // 4)]
MIDDLE = (SIDE // 2, SIDE // 2)
#: Which of the pictures are shown, beside other models' and beside each other.
NEON, USED = 3, (2, 3, 5, 7)


def four_named(shown: list[Image.Image], names: list[str], size: int = 28) -> Image.Image:
    """Show four pictures, each with words on it; the last is the one to look at."""
    image = four(shown)
    for place, name in zip(PLACES, names, strict=True):
        last = name == names[-1]
        pill(image, name, place, size, TEAL if last else INK, INK if last else PAPER)
    return image


def from_photo(photo: Image.Image, drawn: Image.Image) -> Image.Image:
    """Let what is drawn fill the card, with the photo in a corner."""
    image = full(drawn)
    inset(image, photo, 24, 24)
    return image


def compared(kept: Path) -> Image.Image:
    models = [pictures(name, kept)[NEON] for name in ("base_neon", "plain_neon", "palp_neon")]
    return four_named([photo(CAT), *models], ["your cat", "base model", "plain training", "PALP"])


def staged(who: Individual, *scene) -> Callable[[Path], Image.Image]:
    """Show what is drawn, with the photo in a corner."""
    return lambda _: from_photo(photo(who), picture(who, *scene))


def two(_: Path) -> Image.Image:
    image = full(together(KITTEN, MUG, "photo", "meadow"))
    for number, who in enumerate((MUG, KITTEN), 1):
        inset(image, photo(who), SIDE - 164 * number, SIDE - 164, 128)
    return image


def painted(_: Path) -> Image.Image:
    image = full(picture(KITTEN, "watercolor", None, "beach"))
    for number, shown in enumerate((picture(CAR, "watercolor", None, "meadow"), photo(KITTEN)), 1):
        inset(image, shown, SIDE - 164 * number, SIDE - 164, 128)
    return image


def reused(kept: Path) -> Image.Image:
    drawn = pictures("palp_neon", kept)
    image = four([drawn[number] for number in USED])
    pill(image, "my_cat.safetensors", MIDDLE, 34)
    return image


def changed(who: Individual, *scene) -> Callable[[Path], Image.Image]:
    """Let one half of the card be the photo, and the other what is drawn."""
    return lambda _: halves(full(photo(who)), full(picture(who, *scene)))


def looked(_: Path) -> Image.Image:
    shown = heat(CAT, "balloon", "beach", ("subject", "accessory", "place"))
    return four_named(shown, ["picture", "cat", "balloon", "beach"], 34)


def learned(_: Path) -> Image.Image:
    image = four([photo(ROBOT, jitter) for jitter in range(4)])
    pill(image, "“my_robot”", MIDDLE, 44, TEAL, INK)
    return image


def used(_: Path) -> Image.Image:
    scenes = (("pixel art", "hat", "desert"), ("neon", "balloon", "city"))
    scenes += (("photo", "scarf", "snow"), ("watercolor", None, "beach"))
    image = four([picture(ROBOT, *scene) for scene in scenes])
    pill(image, "embedding:my_robot", MIDDLE, 34, TEAL, INK)
    return image


#: By the names of the files: what draws the card, from the folder where learned pictures are kept.
CARDS: dict[str, Callable[[Path], Image.Image]] = {
    "01 Try PALP in two minutes": compared,
    "02 Your subject in your picture": staged(CAT, "neon", "balloon", "city"),
    "02 Your subject in your picture.app": staged(CAT, "photo", "hat", "beach"),
    "03 Your subject with Z-Image": staged(new_individual(9, "robot"), "photo", "hat", "snow"),
    "04 Your subject with FLUX.2 Klein": changed(CAR, "pixel art", "balloon", "desert"),
    "05 Two subjects in one picture": two,
    "06 Use a trained file": reused,
    "07 One photo, no training": changed(BIRD, "neon", "scarf", "city"),
    "08 Where the words look": looked,
    "09 Learn a word": learned,
    "10 Use a learned word": used,
    "11 Your subject painted like an artwork": painted,
    "12 Your subject from one photo": staged(MUG, "watercolor", None, "beach"),
}
