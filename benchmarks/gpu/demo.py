"""The demo's trainings on a GPU and on a CPU: the same result, within its error."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from palp_core.toyworld.demo import DEFAULT_PROMPTS, run_demo
from palp_core.toyworld.world import load_world

from .figures import Figures

SEED = 1
STEPS = 140


def both_devices(figures: Figures, device: str, quick: bool) -> None:
    """Run the demo with one prompt on the device, and on the CPU beside it."""
    for where in dict.fromkeys((device, "cpu")):
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            steps = 1 if quick else STEPS
            result = run_demo(load_world(where), "cat", DEFAULT_PROMPTS[:1], SEED, steps, Path(folder), _silent)
        seconds = time.perf_counter() - start
        for method, found in result.figures.items():
            figures.add(
                f"{where}: {method}",
                text_alignment=found.text_alignment,
                text_alignment_error=found.text_alignment_error,
                subject_alignment=found.subject_alignment,
                subject_alignment_error=found.subject_alignment_error,
                seconds=seconds,
            )


def _silent(_method: str, _step: object) -> None:
    pass
