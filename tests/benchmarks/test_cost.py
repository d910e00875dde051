"""The cost benchmarks at their smallest: each prints its figures and keeps them."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from benchmarks.cost import guidance, step, word


@pytest.mark.parametrize("benchmark", [step, guidance, word])
def test_costs_are_measured_printed_and_kept(benchmark, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(step, "KINDS", {kind: step.KINDS[kind] for kind in ("plain", "delta")})
    file = tmp_path / "cost.json"
    steps = [] if benchmark is guidance else ["--steps", "1"]
    steps += ["--no-host"] if benchmark is step else []  # it stays out of this process
    arguments = ["--rounds", "1", "--resolution", "64", "--batch-size", "1", *steps, "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["cost", *arguments])
    benchmark.main()
    found = json.loads(file.read_text())
    ratios = found.get("ratios") or {name: value for name, value in found.items() if "ratio" in name}
    assert ratios and all(np.isfinite(ratio) and ratio > 0 for ratio in ratios.values())
    assert found["setting"] in capsys.readouterr().out
