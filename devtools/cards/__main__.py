"""Draws the cards of the templates beside them: `python -m devtools.cards [NAME ...]`.

What two trainings of the demo world draw is kept in build/cards, so that they are trained once, in some minutes each.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from .drawn import CARDS

REPO = Path(__file__).parents[2]
KEPT = REPO / "build/cards"
QUALITY = 88
#: Of a node's help page, the card that is its picture.
IN_HELP = {
    "PALP_AttentionHeatmap": "08 Where the words look",
    "PALP_DemoWorld": "01 Try PALP in two minutes",
    "PALP_LoadLora": "06 Use a trained file",
    "PALP_PickAndDraw": "07 One photo, no training",
    "PALP_RecordAttention": "08 Where the words look",
    "PALP_Subject": "05 Two subjects in one picture",
    "PALP_TextualInversionTrain": "09 Learn a word",
}
HELP_WIDTH = 320


def main() -> None:
    """Draw the cards named on the command line, or all of them, and with them the pictures of the help pages."""
    for name in sys.argv[1:] or CARDS:
        card = CARDS[name](KEPT)
        save(card, REPO / f"example_workflows/{name}.jpg")
        for node in (node for node, shown in IN_HELP.items() if shown == name):
            save(card.resize((HELP_WIDTH, HELP_WIDTH)), REPO / f"web/docs/pictures/{node}.jpg")


def save(card: Image.Image, file: Path) -> None:
    """Write a picture for the page."""
    card.save(file, quality=QUALITY, subsampling=0, optimize=True)


if __name__ == "__main__":
    main()
