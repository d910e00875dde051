"""What users install: the Registry's archive, unpacked into the custom_nodes of a clean ComfyUI."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from devtools.archive import unpack, write_archive
from devtools.comfy_server import REPO, ComfyServer, make_base_directory

pytestmark = pytest.mark.host

FOLDER = "palp"  # as ComfyUI Manager names it, by the Registry's id
WORLD = {"subject": "cat", "individual": 1, "style": "sketch", "accessory": "hat", "place": "beach", "photos": 1}


@pytest.fixture(scope="module")
def installed(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    base = make_base_directory(tmp_path_factory.mktemp("clean"), packs={})
    archive = write_archive(tmp_path_factory.mktemp("archive") / "node.zip")
    unpack(archive, base / "custom_nodes" / FOLDER)
    with ComfyServer(comfyui_path, base) as server:
        yield server


def served(server: ComfyServer, path: str) -> bytes:
    with urllib.request.urlopen(server.url + quote(path), timeout=60) as answer:
        return answer.read()


def test_all_nodes_are_there_with_their_help(installed):
    pages = {page.stem for page in (REPO / "web/docs").glob("*.md")}
    assert {name for name in installed.object_info() if name.startswith("PALP_")} == pages
    for page in (REPO / "web/docs").rglob("*.md"):  # also in other languages, NODE_ID/LANGUAGE.md
        where = page.relative_to(REPO / "web/docs").as_posix()
        assert served(installed, f"/extensions/{FOLDER}/docs/{where}") == page.read_bytes()


def test_the_page_gets_the_texts_of_every_language(installed):
    given = installed.get("/i18n")
    for path in (REPO / "locales").glob("*/nodeDefs.json"):
        texts = json.loads(path.read_text(encoding="utf-8"))
        assert texts.items() <= given[path.parent.name]["nodeDefs"].items()


def test_all_templates_are_listed_and_open_with_their_pictures(installed):
    workflows = sorted((REPO / "example_workflows").glob("*.json"))
    assert sorted(installed.get("/workflow_templates")[FOLDER]) == sorted(path.stem for path in workflows)
    for path in workflows:
        where = f"/api/workflow_templates/{FOLDER}/{path.stem}"
        assert json.loads(served(installed, f"{where}.json"))["nodes"]
        assert served(installed, f"{where}.jpg") == path.with_suffix(".jpg").read_bytes()


@pytest.mark.parametrize("network", ["unet", "transformer"])
def test_the_demo_world_has_its_models_and_the_photos_are_there(installed, network):
    world = {"class_type": "PALP_DemoWorld", "inputs": {**WORLD, "network": network}}
    shown = {"class_type": "PreviewImage", "inputs": {"images": ["world", 3]}}
    photos = {"class_type": "PALP_Photos", "inputs": {"folder": "example: cat"}}
    seen = {"class_type": "PreviewImage", "inputs": {"images": ["photos", 0]}}
    installed.queue({"world": world, "shown": shown, "photos": photos, "seen": seen}, timeout=120).require_success()
