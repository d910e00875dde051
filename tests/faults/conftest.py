"""The host inside the test process."""

from __future__ import annotations

import pytest

from devtools import host_models
from devtools.comfy_server import SKIP_REASON, find_comfyui


@pytest.fixture(scope="session")
def host() -> None:
    """`comfy`, and this pack as `palp_pack`."""
    path = find_comfyui()
    if path is None:
        pytest.skip(SKIP_REASON)
    host_models.import_host(path)
    host_models.import_pack()
    host_models.take_few()
