"""Rows of figures on disk, one cell at a time: computed where they are missing, read, and found by method and pair."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from palp_core.sweep import engine
from palp_core.toyworld import MODEL_FOLDER
from palp_core.toyworld.transformer import WEIGHTS as TRANSFORMER
from palp_core.toyworld.world import GUIDANCE_SCALE, SAMPLING_STEPS, DemoModel

from .attention import LEVELS
from .pairs import Pairs

WORLD_FOLDER = MODEL_FOLDER.parent
FOLDER = Path(__file__).parents[1] / "results"
RESULTS = FOLDER / "toyworld.jsonl"
#: Where the rows of each model are.
RESULTS_OF: dict[DemoModel, Path] = {"unet": RESULTS, "transformer": FOLDER / "toyworld_transformer.jsonl"}
GUIDANCE_RESULTS = FOLDER / "toyworld_guidance.jsonl"
#: To be raised where a change of the code makes something else of the same settings: earlier cells count as missing.
ALGORITHM = 1

#: Pair of individual and prompt, with the seed -> row.
ByPair = dict[str, dict]
#: Training step -> the rows at it.
BySteps = dict[int, ByPair]


class Cell(Protocol):
    """What is computed, and kept, as one piece."""

    @property
    def description(self) -> dict:
        """All that its figures depend on beside the world: what says whether it is there already."""

    @property
    def labels(self) -> dict:
        """What each of its rows is to carry: method, pairs, individual, seed."""


def compute(cells: Iterable[Cell], executor: engine.Executor[Cell], results: Path) -> None:
    """Add the cells that are not in the file, a line each, so that a cell is there whole or not at all.

    Raises ValueError in the end where some have failed.
    """
    results.parent.mkdir(parents=True, exist_ok=True)
    known = {line["cell"] for line in read_cells(results)}
    missing = {key: cell for cell in cells if (key := cell_key(cell)) not in known}

    def keep(key: str, found: list[dict]) -> None:
        rows = [{**missing[key].labels, **row} for row in found]
        append_line(results, json.dumps({"cell": key, "world": world_digest(), "rows": rows}))

    with tqdm(total=len(missing), unit="cell", smoothing=0) as bar:
        failed = engine.compute(missing, executor, keep, bar)
    if failed:
        raise ValueError(f"{len(failed)} of {len(missing)} cells failed; the same command tries them again.")


def append_line(file: Path, line: str) -> None:
    """Append a line, also behind one that was cut off when the disk was full or the power failed."""
    earlier = file.read_bytes() if file.exists() else b""
    cut_off = earlier and not earlier.endswith(b"\n")
    with file.open("a", encoding="utf-8") as opened:
        opened.write(("\n" if cut_off else "") + line + "\n")


def cell_key(cell: Cell) -> str:
    """Hash what the cell's figures depend on."""
    described = json.dumps([cell.description, world_digest(), ALGORITHM], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:16]


@cache
def world_digest() -> str:
    """Hash the weights of model and judges, and how pictures are drawn and looked at."""
    digest = hashlib.sha256(json.dumps([GUIDANCE_SCALE, SAMPLING_STEPS, LEVELS]).encode())
    for file in sorted(WORLD_FOLDER.rglob("*.safetensors")):
        if file != TRANSFORMER:  # of which only some cells' figures depend
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


@cache
def transformer_digest() -> str:
    """Hash the weights of the second model."""
    return hashlib.sha256(TRANSFORMER.read_bytes()).hexdigest()[:16]


def read_cells(results: Path) -> list[dict]:
    """Read the cells of the world as it is now; a line that was cut off counts as none."""
    found = []
    for line in results.read_text(encoding="utf-8").splitlines() if results.exists() else ():
        try:
            cell = json.loads(line)
        except json.JSONDecodeError:
            logging.warning("%s has a damaged line, which is passed over", results)
            continue
        if cell["world"] == world_digest():
            found.append(cell)
    return found


def read_rows(results: Path, pairs: Pairs | None = None) -> list[dict]:
    """Read the rows of some pairs, or of all."""
    rows = [{**row, "cell": cell["cell"]} for cell in read_cells(results) for row in cell["rows"]]
    return [row for row in rows if pairs in (None, row["pairs"])]


def grouped(rows: list[dict]) -> dict[str, BySteps]:
    """Sort rows by method, step and pair. Raises ValueError where one method's name stands for two settings."""
    found: dict[str, BySteps] = {}
    for row in rows:
        pair = json.dumps([row["individual"], row["prompt"], row["seed"]])
        earlier = found.setdefault(row["method"], {}).setdefault(row["step"], {}).setdefault(pair, row)
        if earlier["cell"] != row["cell"]:
            raise ValueError(
                f"{row['method']!r} was run with two settings. Remove one from the file, or run it with --label."
            )
    return found


def chosen(
    results: Path, pairs: Pairs, methods: tuple[str, ...], shared: bool, seeds: tuple[int, ...] = ()
) -> dict[str, BySteps]:
    """Find the rows of some of the methods, in the order asked for; of all where none is.

    shared: only the pairs that all of them have. seeds: only these trainings, all where there is none. Raises
    ValueError for a method that was not run.
    """
    found = grouped([row for row in read_rows(results, pairs) if not seeds or row["seed"] in seeds])
    for method in methods:
        if method not in found:
            there = f"there are those of {', '.join(found) or 'nothing'}"
            raise ValueError(f"there are no rows of {method!r} on the {pairs} pairs; {there}.")
    found = {method: found[method] for method in methods} or found
    return shared_only(found) if shared else found


def shared_only(found: dict[str, BySteps]) -> dict[str, BySteps]:
    """Keep the pairs that each method has at each of its steps. Raises ValueError where there is none."""
    shared = set.intersection(*(set(by_pair) for steps in found.values() for by_pair in steps.values()))
    if not shared:
        raise nothing_shared(found)
    return {
        method: {step: {pair: by_pair[pair] for pair in sorted(shared)} for step, by_pair in steps.items()}
        for method, steps in found.items()
    }


def nothing_shared(methods: Iterable[str]) -> ValueError:
    """Make the error for methods that have no pair in common."""
    return ValueError(f"no pair and seed was run with all of {', '.join(methods)}.")


def at_step(steps: BySteps, method: str, step: int) -> ByPair:
    """Take the rows at one step. Raises ValueError for one at which the method was not judged."""
    if step not in steps:
        raise ValueError(f"{method} has no rows at {step} steps; it has them at {', '.join(map(str, sorted(steps)))}.")
    return steps[step]
