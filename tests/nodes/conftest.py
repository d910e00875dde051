"""A running ComfyUI, its page and checkpoint files, once per test session.

The repo's root must stay off the path: its `nodes/` would hide the host's nodes.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from devtools import checkpoints, frontend, host_models
from devtools.checkpoints import SMALL
from devtools.comfy_server import PACK, PACK_FOLDER, REPO, SKIP_REASON, ComfyServer, find_comfyui, make_base_directory

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SMALL_PARTS = REPO / "devtools/small_parts.py"
TINY_LOADER = REPO / "devtools/tiny_loader.py"


@pytest.fixture(scope="session")
def comfyui_path() -> Path:
    """ComfyUI's own folder."""
    path = find_comfyui()
    if path is None:
        pytest.skip(SKIP_REASON)
    return path


@pytest.fixture(scope="session")
def host(comfyui_path: Path) -> None:
    """The host inside the test process: `comfy`, and this pack as `palp_pack`."""
    host_models.import_host(comfyui_path)
    host_models.import_pack()
    host_models.take_few()


@pytest.fixture(scope="session")
def base_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The server's --base-directory: this pack in custom_nodes/ with one for speed, two photos of a cat in input/."""
    packs = {PACK_FOLDER: PACK, SMALL_PARTS.name: SMALL_PARTS, TINY_LOADER.name: TINY_LOADER}
    path = make_base_directory(tmp_path_factory.mktemp("comfyui"), packs)
    _write_photos(path / "input")
    yield path
    shutil.rmtree(path / "models")  # a gigabyte, which pytest would keep for three runs


@pytest.fixture(scope="session")
def server(comfyui_path: Path, base_directory: Path) -> Iterator[ComfyServer]:
    with ComfyServer(comfyui_path, base_directory) as running:
        yield running


@pytest.fixture(scope="session")
def sd15_checkpoint(base_directory: Path) -> str:
    """The name under which a checkpoint loader lists it; so are the next two."""
    return checkpoints.write_sd15_checkpoint(base_directory / "models/checkpoints/sd15.safetensors", SMALL).name


@pytest.fixture(scope="session")
def sd2_checkpoint(base_directory: Path) -> str:
    return checkpoints.write_sd2_checkpoint(base_directory / "models/checkpoints/sd2.safetensors", SMALL).name


@pytest.fixture(scope="session")
def sdxl_checkpoint(base_directory: Path) -> str:
    return checkpoints.write_sdxl_checkpoint(base_directory / "models/checkpoints/sdxl.safetensors", SMALL).name


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    pytest.importorskip("playwright.sync_api", reason="`pip install playwright` drives the browser tests.")
    chromium = frontend.find_chromium()
    if chromium is None:
        pytest.skip("Chromium is not found. Install Debian's package `chromium`, or set CHROMIUM_PATH to the program.")
    with frontend.open_browser(chromium) as running:
        yield running


@pytest.fixture(scope="module")
def opened_page(browser: Browser, server: ComfyServer) -> Iterator[Page]:
    with frontend.open_page(browser, server) as page:
        yield page


@pytest.fixture
def browser_page(opened_page: Page) -> Page:
    """The server's page, with its default graph; opening it takes seconds, so that the tests of a file share it."""
    frontend.load_workflow(opened_page, None)
    return opened_page


def _write_photos(folder: Path) -> None:
    """cat.png, 451 by 300, and cat2.png, 240 by 256: its head."""
    from PIL import Image
    from skimage import data

    cat = Image.fromarray(data.cat())
    cat.save(folder / "cat.png")
    cat.crop((100, 0, 340, 256)).save(folder / "cat2.png")
