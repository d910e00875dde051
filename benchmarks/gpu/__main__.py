"""Measures on a GPU, and writes each figure as it comes: `python -m benchmarks.gpu STEP ... --out figures.json`.

Models have random weights in full size, because neither seconds nor memory depend on what a model has learned. With
`--device cpu --quick` everything runs once on narrow models, to see that it runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import costs, demo
from .figures import Figures

STEPS = {
    "unets": costs.unets,
    "guidance": costs.guidance,
    "transformers": costs.transformers,
    "demo": demo.both_devices,
}


def main() -> None:
    """Take the steps that the command line names, in one process, which loads everything once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", choices=STEPS, nargs="+", help="what to measure")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where to measure")
    parser.add_argument("--quick", action="store_true", help="takes as little as shows that everything runs")
    parser.add_argument("--out", type=Path, required=True, help="JSON file; what it has of other steps stays")
    arguments = parser.parse_args()
    for step in arguments.steps:
        STEPS[step](Figures(arguments.out, step, arguments.device), arguments.device, arguments.quick)


if __name__ == "__main__":
    main()
