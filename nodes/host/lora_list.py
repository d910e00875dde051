"""The files of the host's loras folders, those of ours first."""

from __future__ import annotations

import os
from functools import lru_cache

import folder_paths

from ...palp_core.files.lora_file import is_ours


def loras_ours_first() -> list[str]:
    """List the names of all LoRA files, as the host does, but those that PALP Personalize has saved come first."""
    return sorted(folder_paths.get_filename_list("loras"), key=lambda name: not _is_ours(name))


def _is_ours(name: str) -> bool:
    path = folder_paths.get_full_path("loras", name)
    try:
        return path is not None and _was_ours(path, os.path.getmtime(path))
    except OSError:
        return False


@lru_cache(maxsize=100_000)
def _was_ours(path: str, _time: float) -> bool:
    """A file is opened once, and again when it was replaced: people have thousands of them."""
    return is_ours(path)
