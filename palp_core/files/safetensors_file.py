"""Trainings on disk: an optimizer as tensors, files that are never half written, what a failed run has learned."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's moments and step counts by name; nothing before the first step."""
    states = optimizer.state_dict()["state"]
    return {f"optimizer.{number}.{key}": value for number, state in states.items() for key, value in state.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The opposite of `optimizer_tensors`; other names are passed over. Learning rates stay."""
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".")
            states.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


def save_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a .safetensors file, which replaces an earlier one at once and whole."""
    partial = _partial(file)
    try:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial, metadata)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def claimed(files: Iterable[Path]) -> Iterator[Path]:
    """The first of the paths that is free, held against other runs inside by the temporary file of `save_tensors`."""
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


def unreadable(path: Path, error: Exception) -> ValueError:
    """The error for a .safetensors file that is damaged, cut off or not there."""
    return ValueError(f"{path.name} cannot be read ({error}). Copy or download it again.")


class Learned(Protocol):
    steps: int  # completed


class Run(Protocol):
    """A training that has ended. weights: None where it ended before it had any."""

    weights: Learned | None


def keep_unfinished(run: Run, save: Callable[[Path], Path], folders: Sequence[Path]) -> str:
    """Save what a run that ended early has learned, if anything, in the first folder where that succeeds; says where.

    Raises OSError where none of the folders can be written to.
    """
    if run.weights is None or run.weights.steps == 0:
        return "No step was completed, so nothing was saved."
    path = save_somewhere(save, folders)
    where = path.name if path.parent == folders[0] else path
    return f"What was learned in {run.weights.steps} steps is kept in {where}."


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
