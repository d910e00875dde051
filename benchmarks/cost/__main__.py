"""Runs a cost benchmark: `python -m benchmarks.cost step|guidance|word|cluster [options]`."""

from __future__ import annotations

import sys

from . import cluster, guidance, step, word

COMMANDS = {"step": step.main, "guidance": guidance.main, "word": word.main, "cluster": cluster.main}


def main() -> None:
    """Hand the options that follow to the benchmark that was named."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(f"usage: python -m benchmarks.cost {{{','.join(COMMANDS)}}} [options]")
    COMMANDS[sys.argv.pop(1)]()


if __name__ == "__main__":
    main()
