"""Packages of others in the same Python that are broken, or too old for peft: nothing here needs them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from PIL import Image

from devtools.comfy_server import REPO, SKIP_REASON, find_comfyui
from devtools.random_models import pictures, tiny_pipeline
from palp_core.models.quantizers import PACKAGES

BROKEN = 'raise RuntimeError("CUDA Setup failed despite GPU being available.")\n'
FAKES = {
    "bitsandbytes": ("0.43.0", BROKEN),
    "torchao": ("0.10.0", '__version__ = "0.10.0"\n'),
    "gptqmodel": ("1.0.0", ""),
}


@pytest.fixture
def others(tmp_path) -> str:
    """A folder for PYTHONPATH that holds such packages; one process meets all of them."""
    parent = tmp_path / "others"
    for name, (version, source) in FAKES.items():
        folder, about = parent / name, parent / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        about.mkdir()
        (folder / "__init__.py").write_text(source)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return str(parent)


def python(others: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run Python with these packages, in the repository's folder."""
    environment = {**os.environ, "PYTHONPATH": others}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=300)


def test_the_command_line_trains_beside_broken_packages(others, tmp_path):
    tiny_pipeline("sd1", tmp_path / "made").save_pretrained(tmp_path / "model", safe_serialization=True)
    photo, out = tmp_path / "cat.png", tmp_path / "loras"
    Image.fromarray((pictures((64, 64))[0] * 255).byte().numpy()).save(photo)
    named = {"model": tmp_path / "model", "images": photo, "class-word": "cat", "target-prompt": "a sketch of [V]"}
    settings = {"out": out, "steps": 2, "rank": 2, "resolution": 64, "device": "cpu"}
    options = [part for name, value in (named | settings).items() for part in (f"--{name}", value)]
    ended = python(others, "-m", "palp_core.cli.main", "train", *options)
    assert ended.returncode == 0, ended.stderr
    assert [path.name for path in out.glob("*.safetensors")] == ["palp_00001.safetensors"]


NODES = """
import asyncio, sys
sys.path.insert(0, {comfyui!r})
import utils.extra_config
from comfy.cli_args import args
args.cpu = True
import importlib.util
spec = importlib.util.spec_from_file_location("pack", {init!r}, submodule_search_locations=[{repo!r}])
pack = sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
async def listed():
    return await (await pack.comfy_entrypoint()).get_node_list()
print(len(asyncio.run(listed())), "nodes")
"""


@pytest.mark.host
def test_all_nodes_are_there_beside_broken_packages(others):
    if (comfyui_path := find_comfyui()) is None:
        pytest.skip(SKIP_REASON)
    source = NODES.format(comfyui=str(comfyui_path), init=str(REPO / "__init__.py"), repo=str(REPO))
    ended = python(others, "-c", source)
    assert ended.stdout.strip().endswith("11 nodes"), ended.stderr


def test_afterwards_others_find_what_they_found_before(monkeypatch, tmp_path):
    """Another extension may quantize with the same peft."""
    from peft import import_utils

    from palp_core.models.quantizers import packages_hidden

    for name in ("hqq", "eetq"):
        (tmp_path / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    import hqq

    import_utils.is_hqq_available.cache_clear()
    assert import_utils.is_hqq_available()
    with packages_hidden():
        assert not import_utils.is_hqq_available() and not import_utils.is_eetq_available()
    assert import_utils.is_hqq_available() and import_utils.is_eetq_available()
    assert sys.modules["hqq"] is hqq and not [name for name in PACKAGES if sys.modules.get(name, 0) is None]
    import_utils.is_hqq_available.cache_clear()
    import_utils.is_eetq_available.cache_clear()
    del sys.modules["hqq"]
