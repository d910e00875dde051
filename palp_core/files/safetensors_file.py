"""Files of tensors that are never half written, and names that are held until they are."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import FileError
from .names import check_file_name


def save_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a .safetensors file, which replaces an earlier one at once and whole."""
    partial = _partial(file)
    try:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial, metadata)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file's tensors, on the CPU, and its metadata. Raises FileError where it is damaged or not there."""
    try:
        with safe_open(path, "pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from error


def read_metadata(path: Path) -> dict[str, str]:
    """Read a file's metadata alone. Raises FileError where it is damaged or not there."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> FileError:
    """Make the error for a .safetensors file that is damaged, cut off or not there."""
    return FileError(f"{path.name} cannot be read ({error}). Copy or download it again.")


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


@contextmanager
def claimed(files: Iterable[Path]) -> Iterator[Path]:
    """Hold the first of the paths that is free against other runs, by the temporary file of `save_tensors`."""
    file = next(file for file in files if _claim(file))
    try:
        yield file
    finally:
        _partial(file).unlink(missing_ok=True)


def _claim(file: Path) -> bool:
    try:
        _partial(file).touch(exist_ok=False)
    except FileExistsError:
        return False
    if taken := file.exists():  # looked at after the claim, so that a run that ends now is seen
        _partial(file).unlink()
    return not taken


def _partial(file: Path) -> Path:
    return file.with_name(f"{file.name}.part")


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
