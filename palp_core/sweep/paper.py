"""The comparison of PALP (arXiv 2401.06105, sec. 5) as a plan: methods of its table 2, ablations of its figure 6.

Table 2 compares P+ (arXiv 2303.09522), NeTI (arXiv 2305.15391), TI+DB (textual inversion with DreamBooth's loss on a
LoRA) and PALP. Prompts are of two kinds: scenes with several elements, as the paper's, which we wrote, and those of
DreamBench (arXiv 2208.12242; github.com/google/dreambooth, CC BY 4.0), which name one thing each; they begin with "a
photo of" here. The settings are the paper's: 500 steps, batch 32, learning rate 5e-5, rank 32; those of P+ and NeTI are
of their own papers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import FileError
from ..evaluation.class_words import CLASS_WORDS, DREAMBENCH, LIVE, read_class_words

#: Of the paper's kind: a style or medium, what the subject does or wears, a place, a time or weather.
SCENES = (
    "a sketch of [V] in Paris on a rainy evening",
    "a watercolor painting of [V] with a straw hat on the beach at sunset",
    "a black and white photo of [V] in the snow in front of a wooden cabin at night",
    "an anime drawing of [V] under cherry blossoms by a lake in spring",
    "an oil painting of [V] on a sailing boat in a storm",
    "a vector drawing of [V] on a mountain top with a red kite at dawn",
    "a pop art poster of [V] on a bicycle in a crowded market",
    "a digital painting of [V] in a spaceship with planets behind the window",
    "a pixel art picture of [V] in a castle with a golden crown by candlelight",
    "a pencil drawing of [V] in a library with an open book on a winter morning",
)
#: DreamBench's, from here on: of all, of things, of animals, and what all are in the end.
_PLACES = (
    "in the jungle",
    "in the snow",
    "on the beach",
    "on a cobblestone street",
    "on top of pink fabric",
    "on top of a wooden floor",
    "with a city in the background",
    "with a mountain in the background",
    "with a blue house in the background",
    "on top of a purple rug in a forest",
)
_OF_THINGS = (
    "with a wheat field in the background",
    "with a tree and autumn leaves in the background",
    "with the Eiffel Tower in the background",
    "floating on top of water",
    "floating in an ocean of milk",
    "on top of green grass with sunflowers around it",
    "on top of a mirror",
    "on top of the sidewalk in a crowded street",
    "on top of a dirt road",
    "on top of a white rug",
)
_OF_ANIMALS = (
    "wearing a red hat",
    "wearing a santa hat",
    "wearing a rainbow scarf",
    "wearing a black top hat and a monocle",
    "in a chef outfit",
    "in a firefighter outfit",
    "in a police outfit",
    "wearing pink glasses",
    "wearing a yellow shirt",
    "in a purple wizard outfit",
)
_PROPERTIES = ("red", "purple", "shiny", "wet", "cube shaped")

_PAPERS = {"score": "palp", "alpha": 15.0, "beta": 7.5, "alignment_weight": 0.15}
_OF_ALPHA = {"alpha": 15.0, "alignment_weight": 0.15}
METHODS: dict[str, dict[str, Any]] = {
    "base": {},
    "p_plus": {"kind": "p_plus", "steps": 500, "learning_rate": 5e-3, "batch_size": 4, "gradient_accumulation": 2},
    "neti": {"kind": "neti", "steps": 1000, "learning_rate": 8e-3, "batch_size": 2, "gradient_accumulation": 4},
    "ti_db": {"alignment_weight": 0.0},
    "palp": _PAPERS,
    "delta": {"score": "delta"},
    "sds": {"score": "sds", **_OF_ALPHA},
    "nfsd": {"score": "nfsd", **_OF_ALPHA},
    "fresh_noise": {**_PAPERS, "noise": "fresh"},
    "no_rescale": {**_PAPERS, "rescale": False},
}
SETTINGS = {"steps": 500, "learning_rate": 5e-5, "batch_size": 4, "gradient_accumulation": 8, "rank": 32}
PICTURES = {"count": 8, "at": [100, 250], "sampling_steps": 30}


def prompts(kind: str) -> list[str]:
    """List the prompts of a subject: scenes, then those of DreamBench for its kind."""
    own = _OF_ANIMALS if kind == LIVE else _OF_THINGS
    return [
        *SCENES,
        *(f"a photo of [V] {where}" for where in (*_PLACES, *own)),
        *(f"a photo of a {what} [V]" for what in _PROPERTIES),
    ]


def paper_jobs(model: Path, photos: Path, clip: Path | None, dino: Path | None) -> dict[str, Any]:
    """Write the comparison as what a file of jobs holds.

    photos: holds a folder for each subject, and class_words.csv with the columns subject, class_word and, for animals,
    `live` in a column kind; or is DreamBench's dataset. Raises FileError where nothing says what the subjects are.
    """
    known = read_class_words(photos)
    if not known:
        raise FileError(
            f"{photos / CLASS_WORDS} is missing, or empty. It says what each folder in {photos} shows, in the columns "
            f"subject and class_word, and {LIVE} in a column kind for an animal. DreamBench's {DREAMBENCH} serves, too."
        )
    subjects = {
        name: {"photos": str((photos / name).resolve()), "class_word": class_word, "prompts": prompts(kind)}
        for name, class_word, kind in known
    }
    judges = {name: str(path.resolve()) for name, path in (("clip", clip), ("dino", dino)) if path}
    shared = {"settings": SETTINGS, "seeds": [0], "pictures": PICTURES}
    return {"model": str(model.resolve()), **judges, "subjects": subjects, "methods": METHODS, **shared}
