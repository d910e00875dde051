"""What a Ray cluster adds to a sweep, on machines that are simulated on this one.

    python -m benchmarks.cost cluster [--machines 3] [--cells 2000] [--json PATH]

Empty cells, as large as those of `palp sweep`, say what the scheduler takes of each, and workers that load the demo
world, what starting one takes. The driver's own work is that of a sweep of 10,000 cells: naming them, finding what is
there, and writing the table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from palp_core.sweep import plan as plans
from palp_core.sweep.cells import Cell
from palp_core.sweep.cluster import Cluster, on_ray
from palp_core.sweep.folder import describe, keep_rows
from palp_core.sweep.place import Folder
from palp_core.sweep.run import Sweep

ROW = {
    "prompt": "a sketch of a [V] on the beach",
    "step": 500,
    "pictures": 4,
    "clip_t": 0.3,
    "clip_i": 0.7,
    "dino": 0.6,
}
#: Of the sweep whose cells the command itself names, finds and lists.
MANY = 10_000


def empty(cell: Cell) -> list[dict]:
    """Compute nothing, and return a row as a cell has it."""
    return [{"prompt": cell.prompts[0], **ROW}]


def empty_worker():
    """Load nothing."""
    return empty


def demo_worker():
    """Load the demo world's model and judges, and compute nothing."""
    from palp_core.toyworld.world import load_world

    begun = time.monotonic()
    load_world("cpu")
    seconds = time.monotonic() - begun
    return lambda cell: [{"loading": seconds}]


def many_cells(count: int) -> plans.Plan:
    """Plan so many cells of one training each, of the demo world."""
    subject = plans.SubjectJob("cat", individual=1)
    prompt = "a sketch of a [V] on the beach"
    method = plans.Method("delta", plans.config_of(plans.demo_settings("unet")))
    return plans.Plan("demo", {"tom": subject}, (prompt,), (method,), tuple(range(count)))


def timed_run(cells: Mapping[str, Cell], make_worker, address: str, workers: int) -> tuple[list[float], list[dict]]:
    """Return the seconds at which each cell was done, from the start of the workers, and the rows."""
    begun, done, rows = time.monotonic(), [], []
    for one in on_ray(make_worker, Cluster(address, workers=workers))(cells):
        done.append(time.monotonic() - begun)
        rows += one.rows
    return done, rows


def driver(count: int) -> dict[str, float]:
    """Measure what the command itself does for so many cells, seconds."""
    with tempfile.TemporaryDirectory() as folder:
        out, plan = Path(folder), many_cells(count)
        begun = time.monotonic()
        sweep = Sweep.of(plan, Folder(out))
        named = time.monotonic()
        for cell in sweep.cells:
            describe(cell, cell.folder(out))
            keep_rows(cell.folder(out), cell.key, empty(cell))
        kept = time.monotonic()
        again = Sweep.of(plan, Folder(out))
        found = time.monotonic()
        again.write()
        return {
            "naming": named - begun,
            "keeping": kept - named,
            "finding": found - kept,
            "table": time.monotonic() - found,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machines", type=int, default=3, help="Simulates so many machines of one CPU each.")
    parser.add_argument("--cells", type=int, default=2000, help="Computes so many empty cells.")
    parser.add_argument("--json", type=Path, help="Writes the figures to this file.")
    args = parser.parse_args()
    found = {"machines": args.machines, "cells": args.cells, **on_machines(args), "driver": driver(MANY)}
    print(json.dumps(found, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def on_machines(args: argparse.Namespace) -> dict:
    """Measure empty cells and the start of workers on simulated machines, seconds."""
    from ray.cluster_utils import Cluster as Machines

    machine = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    machines = Machines(initialize_head=True, head_node_args={**machine, "include_dashboard": False})
    for _ in range(args.machines - 1):
        machines.add_node(**machine)
    with tempfile.TemporaryDirectory() as folder:
        cells = Sweep.of(many_cells(args.cells), Folder(Path(folder))).missing
    try:
        done, _ = timed_run(cells, empty_worker, machines.address, args.machines)
        few = dict(list(cells.items())[: args.machines])
        loaded, rows = timed_run(few, demo_worker, machines.address, args.machines)
    finally:
        machines.shutdown()
    steady = done[len(done) // 10 :]
    return {
        "first_cell": done[0],
        "each_cell": (steady[-1] - steady[0]) / (len(steady) - 1),
        "worker_with_demo_world": max(loaded),
        "loading_demo_world": [row["loading"] for row in rows],
    }


if __name__ == "__main__":
    main()
