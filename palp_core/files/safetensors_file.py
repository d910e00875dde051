"""Files of tensors that are there whole or not at all, and names that are looked at before a long run."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from time import sleep

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import FileError
from .names import check_file_name
from .reading import CHECKSUM, checksum

MOMENTS = (0.02, 0.1, 0.5, 1.0)  # seconds between the tries to replace a file that another process has open

Content = tuple[Mapping[str, Tensor], dict[str, str]]


def save_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a .safetensors file, which replaces an earlier one at once and whole."""
    with _written(file.parent, tensors, metadata or {}) as written:
        _replace(written, file)


def save_new(files: Iterable[Path], content: Callable[[Path], Content]) -> Path:
    """Write the first of these files that is not there yet, whole, and without ever replacing one; returns its path.

    content: the path -> tensors and metadata, which may hold its name.
    """
    for file in files:
        if file.exists():
            continue
        with _written(file.parent, *content(file)) as written:
            if _claimed(written, file):
                return file
    raise FileExistsError("none of the names is free.")


@contextmanager
def _written(folder: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> Iterator[Path]:
    """A file with this content under a name that no other process has, which is gone in the end."""
    written = folder / f".{os.getpid()}_{token_hex(8)}.part"
    saved = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        written.touch(exist_ok=False)
        permissions = written.stat().st_mode  # of any new file; safetensors makes one that nobody else may read
        save_file(saved, written, {**metadata, CHECKSUM: checksum(saved, metadata)})
        written.chmod(permissions)
        yield written
    finally:
        written.unlink(missing_ok=True)


def _replace(written: Path, file: Path) -> None:
    """Windows refuses while another process reads the file, or replaces it: that lasts for a moment."""
    for pause in MOMENTS:
        try:
            return os.replace(written, file)
        except PermissionError:
            sleep(pause)
    os.replace(written, file)


def _claimed(written: Path, file: Path) -> bool:
    """Give what is written its final name, unless another process was quicker. There is no moment between."""
    try:
        os.link(written, file)
    except FileExistsError:
        return False
    except OSError:  # a file system without links, as FAT: the name is taken first, by an empty file
        return _claimed_without_links(written, file)
    return True


def _claimed_without_links(written: Path, file: Path) -> bool:
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    try:
        _replace(written, file)
    except BaseException:
        file.unlink()
        raise
    return True


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
