"""Files of tensors that are there whole or not at all, and names that are looked at before a long run."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import FileError
from .names import check_file_name
from .reading import CHECKSUM, checksum
from .writing import write, write_new

Content = tuple[Mapping[str, Tensor], dict[str, str]]


def save_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a .safetensors file, which replaces an earlier one at once and whole."""
    write(file, _content(tensors, metadata or {}))


def save_new(files: Iterable[Path], content: Callable[[Path], Content]) -> Path:
    """Write the first of these files that is not there yet, whole, and without ever replacing one; returns its path.

    content: the path -> tensors and metadata, which may hold its name.
    """
    for file in files:
        if not file.exists() and write_new(file, _content(*content(file))):
            return file
    raise FileExistsError("none of the names is free.")


def _content(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> Callable[[Path], None]:
    saved = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return partial(save_file, saved, metadata={**metadata, CHECKSUM: checksum(saved, metadata)})


def first_writable_folder(folders: Iterable[str | Path]) -> Path:
    """Return the first of these folders that takes files, made if it is missing. Raises FileError if none does."""
    errors = []
    for folder in map(Path, folders):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError as error:
            errors.append(str(error))
    raise FileError(f"no folder can be written to: {'; '.join(errors)}. Make one writable.")


def reserve(folder: str | Path, name: str, overwrite: bool, argument: str = "name") -> str:
    """Check, before a long run, that folder/NAME.safetensors can be written in the end; returns the name.

    overwrite: a file of that name is no obstacle. argument: what an error calls the name. Raises FileError for a name
    with path parts, a folder that takes no files, or a name that is taken.
    """
    name = check_file_name(name, argument, Path(folder).name)
    folder = first_writable_folder([folder])
    if not overwrite and (folder / f"{name}.safetensors").exists():
        raise FileError(
            f"{argument}: {name}.safetensors is in the {folder.name} folder already. Choose another, or switch "
            "overwrite on."
        )
    return name


def save_somewhere(save: Callable[[Path], Path], folders: Sequence[Path]) -> Path:
    """Save in the first of the folders where that succeeds. Raises OSError where none can be written to."""
    errors = []
    for folder in folders:
        try:
            return save(folder)
        except (OSError, SafetensorError) as error:
            errors.append(f"{folder}: {error}")
            logging.warning("%s could not be written to: %s", folder, error)
    raise OSError(f"What was learned could not be saved. {'; '.join(errors)}")
