"""A file of figures that grows as they come: what was measured before a fault or a time limit is kept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch


class Figures:
    """Holds the figures of a step, by name; the file also says on which card and with which torch they were taken."""

    def __init__(self, path: Path, step: str, device: str):
        self.path, self.step = path, step
        name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
        self.machine = {"device": name, "torch": torch.__version__}

    def add(self, name: str, **figures: object) -> None:
        """Write a figure, and print it."""
        kept = json.loads(self.path.read_text()) if self.path.exists() else {}
        kept.setdefault(self.step, {"machine": self.machine})[name] = {k: _plain(v) for k, v in figures.items()}
        partial = self.path.with_suffix(".part")
        partial.write_text(json.dumps(kept, indent=1) + "\n")
        partial.replace(self.path)
        print(f"{self.step}, {name}: {kept[self.step][name]}", flush=True)


def _plain(value: object) -> object:
    """Round to what is worth reading; JSON knows no NaN."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if math.isfinite(value) else None
