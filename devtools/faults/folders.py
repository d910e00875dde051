"""The folders of a host that a test has for itself, and what lies in them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from palp_core.files.run_folder import METRICS, OVERLAY, RESULT, SETTINGS, STATE

#: Where nodes save, where they save when that fails, and where that fails too.
NAMES = ("loras", "embeddings", "output", "system")

#: Of a training's folder.
WHOLE = {SETTINGS, METRICS, STATE, RESULT, OVERLAY}


@contextmanager
def host_folders(root: Path) -> Iterator[None]:
    """Inside, the host's folders, and the system's for temporary files, lie under root."""
    import folder_paths

    for name in (*NAMES, "temp"):
        if not (root / name).exists():  # of a disk that fails, it may be a file
            (root / name).mkdir(parents=True)
    usual = folder_paths.get_output_directory(), folder_paths.get_temp_directory()
    models = {name: ([str(root / name)], {".safetensors"}) for name in ("loras", "embeddings")}
    try:
        folder_paths.set_output_directory(str(root / "output"))
        folder_paths.set_temp_directory(str(root / "temp"))
        with (
            mock.patch.dict(folder_paths.folder_names_and_paths, models),
            mock.patch.dict(folder_paths.filename_list_cache, clear=True),
            mock.patch.object(tempfile, "tempdir", str(root / "system")),
        ):
            yield
    finally:
        folder_paths.set_output_directory(usual[0])
        folder_paths.set_temp_directory(usual[1])


def files_in(root: Path) -> set[str]:
    """Name all files as folder/name, hidden ones and unfinished ones, too.

    Pictures of a preview are the host's own; of the trainings' folders, only what is cut off or half written counts.
    """
    found = [path for name in NAMES for path in (root / name).rglob("*") if path.is_file()]
    trainings = root / "output/palp"
    named = [path for path in found if trainings not in path.parents or path.name not in WHOLE]
    return {f"{path.relative_to(root).parts[0]}/{path.name}" for path in named}
