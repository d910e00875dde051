"""Draws the cards of the templates beside them: `python -m devtools.cards [NAME ...]`.

What two trainings of the demo world draw is kept in build/cards, so that they are trained once, in some minutes each.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .drawn import CARDS

REPO = Path(__file__).parents[2]
KEPT = REPO / "build/cards"
QUALITY = 88


def main() -> None:
    """Draw the cards named on the command line, or all of them."""
    for name in sys.argv[1:] or CARDS:
        card = CARDS[name](KEPT)
        card.save(REPO / f"example_workflows/{name}.jpg", quality=QUALITY, subsampling=0, optimize=True)


if __name__ == "__main__":
    main()
