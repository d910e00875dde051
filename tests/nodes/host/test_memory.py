"""The estimate of what a training takes, beside what it took on cards: the host's networks in full size."""

from __future__ import annotations

import json

import pytest
import torch

from devtools.comfy_server import REPO, find_comfyui
from devtools.host_transformers import families_of
from devtools.sized_models import sized_parts
from palp_core.models.families import FAMILIES

pytestmark = pytest.mark.host

#: Family and kind of step -> GB, of docs/memory.md, which benchmarks/results/gpu.json does not hold.
TOLD = {"FLUX.2 Klein, 1024 pixels, batch 1: delta": 26.1, "FLUX.1 dev, 1024 pixels, batch 1: delta": 54.3}
TOLERANCE = 0.15


def measured() -> dict[str, float]:
    """Return the most that tensors took on a card by the kind of step, GB."""
    machines = json.loads((REPO / "benchmarks/results/gpu.json").read_text(encoding="utf-8")).values()
    rows = {name: row for rows in machines for name, row in rows.items() if "peak_gb" in row}
    return {name: row["peak_gb"] for name, row in rows.items() if "Train LoRA" not in name} | TOLD


def families() -> list[str]:
    titles = {name.split(",")[0] for name in measured()}
    return [family.name for family in FAMILIES.values() if family.title in titles]


@pytest.mark.parametrize("name", families())
def test_the_estimate_is_what_was_measured(host, name):
    from palp_pack.nodes.host.backbone import ComfyBackbone
    from palp_pack.palp_core.training.demand import Workload, demand

    family = FAMILIES[name]
    if family.is_transformer and name not in families_of(find_comfyui()):
        return  # an older host has no such network
    backbone = ComfyBackbone(*sized_parts(name, "meta"))
    backbone.device = torch.device("cuda")  # on which text encoders that are not needed lie elsewhere
    for row, gigabytes in measured().items():
        title, side, kind = row.split(", ")
        if title != family.title:
            continue
        work = Workload(
            batch_size=1,
            resolution=int(side.split()[0]),
            gradient_checkpointing=row.endswith("checkpointed"),
            dtype=backbone.compute_dtype,
            learns_words=not family.is_transformer,
            rank=32,
            compares="plain" not in kind,
        )
        found = demand(backbone, work)
        assert found.weights + found.step == pytest.approx(gigabytes, rel=TOLERANCE), row


def test_the_hosts_model_computes_in_bf16_when_told_so(host, tmp_path):
    from palp_pack.nodes.host.backbone import ComfyBackbone

    backbone = ComfyBackbone(*sized_parts("sd1", "cpu"))
    given = backbone.patcher
    backbone.compute_in_bf16()
    assert backbone.compute_dtype == torch.bfloat16
    assert backbone.patcher is not given and backbone.patcher.model is given.model
    assert backbone.patcher.get_model_object("manual_cast_dtype") == torch.bfloat16
    assert given.get_model_object("manual_cast_dtype") is None


def test_a_cpu_tells_no_free_memory(host):
    from palp_pack.nodes.host.offloading import free_memory

    assert free_memory(torch.device("cpu")) is None
