"""What a picture of the toy world shows, and how a caption names it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..errors import SettingError

Style = Literal["photo", "sketch", "pixel art", "neon", "watercolor"]
ClassWord = Literal["cat", "robot", "house", "car", "mug", "bird"]
Place = Literal["beach", "snow", "city", "meadow", "desert", "room"]
Accessory = Literal["hat", "scarf", "balloon"]
Pattern = Literal["spots", "stripes", "bands", "patch", "checks"]

STYLES: tuple[Style, ...] = get_args(Style)
CLASSES: tuple[ClassWord, ...] = get_args(ClassWord)
PLACES: tuple[Place, ...] = get_args(Place)
ACCESSORIES: tuple[Accessory, ...] = get_args(Accessory)
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)

STYLE_PHRASES = {
    "photo": "a photo of",
    "sketch": "a sketch of",
    "pixel art": "pixel art of",
    "neon": "a neon sign of",
    "watercolor": "a watercolor of",
}
PLACE_PHRASES = {
    "beach": "on the beach",
    "snow": "in the snow",
    "city": "in the city at night",
    "meadow": "in a meadow",
    "desert": "in the desert",
    "room": "in a room",
}

#: Share of the training pictures before a plain backdrop, which no caption names: what reference photos look like.
PLAIN_SHARE = 0.08

Color = tuple[int, int, int]

#: Colors of individuals, far apart from each other and visible before every place.
PALETTE: tuple[Color, ...] = (
    (214, 57, 47),  # red
    (240, 138, 36),  # orange
    (246, 205, 58),  # yellow
    (72, 160, 72),  # green
    (40, 167, 176),  # teal
    (52, 98, 196),  # blue
    (132, 76, 178),  # purple
    (232, 116, 168),  # pink
    (126, 82, 50),  # brown
    (242, 240, 232),  # white
    (146, 148, 160),  # grey
)
#: What captions call them, in the same order, and the patterns.
COLOR_WORDS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown", "white", "grey")
PATTERN_WORDS = ("spotted", "striped", "banded", "patched", "checked")


@dataclass(frozen=True)
class Individual:
    """Describe one particular cat, car, ...: what stays the same in each of its pictures.

    width, height: body proportions around 1. feature: size of the class's own mark (ears, roof, beak, ...), around 1.
    main, second: colors of the body and its pattern. pattern, period: what is on the body, and how fine, 0..1.
    """

    class_word: ClassWord
    width: float
    height: float
    feature: float
    main: Color
    second: Color
    pattern: Pattern
    period: float


@dataclass(frozen=True)
class Scene:
    """Say what to draw. place None: a plain backdrop. accessory None: none. jitter: seed of what nothing names."""

    individual: Individual
    style: Style = "photo"
    place: Place | None = None
    accessory: Accessory | None = None
    jitter: int = 0


def random_individual(rng: np.random.Generator, class_word: ClassWord | None = None) -> Individual:
    main, second = rng.choice(len(PALETTE), size=2, replace=False)
    return Individual(
        class_word=class_word or CLASSES[rng.integers(len(CLASSES))],
        width=float(rng.uniform(0.82, 1.18)),
        height=float(rng.uniform(0.85, 1.15)),
        feature=float(rng.uniform(0.6, 1.4)),
        main=PALETTE[main],
        second=PALETTE[second],
        pattern=PATTERNS[rng.integers(len(PATTERNS))],
        period=float(rng.random()),
    )


def new_individual(seed: int, class_word: ClassWord | None = None) -> Individual:
    """Draw an individual of a class at random. Raises SettingError for a negative seed."""
    if seed < 0:
        raise SettingError(f"seed is {seed}; it must be 0 or more.")
    return random_individual(np.random.default_rng(seed), class_word)


def random_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene at random: styles, places and classes are equally likely, three in five have an accessory."""
    return Scene(
        individual=random_individual(rng),
        style=STYLES[rng.integers(len(STYLES))],
        place=None if rng.random() < PLAIN_SHARE else PLACES[rng.integers(len(PLACES))],
        accessory=None if rng.random() < 0.4 else ACCESSORIES[rng.integers(len(ACCESSORIES))],
        jitter=int(rng.integers(2**31)),
    )


def reference_scenes(individual: Individual, count: int = 4) -> list[Scene]:
    """Stage photos of one individual before one plain backdrop, as a user would take them. count: 1 to 4."""
    if not 1 <= count <= 4:
        raise SettingError(f"A reference set has 1 to 4 photos, not {count}.")
    return [Scene(individual, jitter=number) for number in range(count)]


def described(class_word: ClassWord, main: str | None, second: str | None, pattern: str | None) -> str:
    """Write a kind of subject behind words for what it looks like; second only with main.

    >>> described("cat", "red", "blue", "striped")
    'red and blue striped cat'
    """
    colors = " and ".join(filter(None, (main, second)))
    return " ".join(filter(None, (colors, pattern, class_word)))


def caption(subject: str, style: Style | None, place: Place | None, accessory: Accessory | None) -> str:
    """Write a caption that names what is given. subject: with its article, "a cat".

    >>> caption("a cat", "sketch", "beach", "hat")
    'a sketch of a cat with a hat on the beach'
    """
    parts = [
        STYLE_PHRASES[style] if style else "",
        subject,
        f"with a {accessory}" if accessory else "",
        PLACE_PHRASES[place] if place else "",
    ]
    return " ".join(part for part in parts if part)


def content_words() -> list[str]:
    """List the words of captions that say what is to be seen, those for looks aside."""
    phrases = [*STYLES, *CLASSES, *ACCESSORIES, *PLACES]
    return list(dict.fromkeys(word for phrase in phrases for word in phrase.split()))


def vocabulary() -> list[str]:
    """List every word that a caption of this world can hold, in a fixed order."""
    phrases = [*STYLE_PHRASES.values(), *CLASSES, "with a", *ACCESSORIES, *PLACE_PHRASES.values()]
    phrases += [*COLOR_WORDS, "and", *PATTERN_WORDS]
    return list(dict.fromkeys(word for phrase in phrases for word in phrase.split()))
