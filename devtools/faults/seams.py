"""Faults put in at the seams that docs/architecture.md declares: the model call, the file write and the loop."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Literal
from unittest import mock

from torch import nn

#: What happens in the place of a fault; it raises, or returns what goes on instead of what was given.
Event = Callable[[object], object]
WriteMoment = Literal["at the first byte", "in the middle", "at the rename"]


def raising(error: BaseException) -> Event:
    """Make an event that raises."""

    def event(_given: object) -> object:
        raise error

    return event


def not_a_number(given: object) -> object:
    """Stand for a model that overflows in half precision. given: latents, or inputs of which they are the first."""
    if isinstance(given, tuple):
        return (not_a_number(given[0]), *given[1:])
    return given * float("nan")


@contextmanager
def at_call(modules: nn.Module | list[nn.Module], number: int, event: Event, inputs: bool = False) -> Iterator[None]:
    """Inside, an event meets what comes out of the call of this number, from 1; several modules count together.

    inputs: it meets what goes in, a tuple.
    """
    calls = count(1)

    def hook(_module: nn.Module, given: object, output: object = None) -> object:
        return event(given if inputs else output) if next(calls) == number else None

    with ExitStack() as stack:
        for module in modules if isinstance(modules, list) else [modules]:
            register = module.register_forward_pre_hook if inputs else module.register_forward_hook
            stack.callback(register(hook).remove)
        yield


@contextmanager
def instead_of(owner: object, name: str, event: Event, number: int = 1) -> Iterator[None]:
    """Inside, an event meets what the call of this number, from 1, of an object's or a class's function returns."""
    calls, usual = count(1), getattr(owner, name)

    def function(*args, **kwargs):
        found = usual(*args, **kwargs)
        return event(found) if next(calls) == number else found

    with mock.patch.object(owner, name, function):
        yield


@contextmanager
def no_space(
    writing: ModuleType, moment: WriteMoment, folder: Path | None = None, error: BaseException | None = None
) -> Iterator[None]:
    """Inside, files cannot be written. writing: palp_core/files/writing.py, as core or pack have imported it.

    folder: the one that is full; by default all are. error: raised there, in place of the system's own.
    """
    error = error or OSError(errno.ENOSPC, "No space left on device")
    usual = {name: getattr(writing, name) for name in ("fill", "link", "replace")}

    def is_full(path: Path) -> bool:
        return folder is None or path.is_relative_to(folder)

    def fill(path: Path, content: Callable[[Path], None]) -> None:
        if is_full(path) and moment == "in the middle":
            usual["fill"](path, content)
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
        if is_full(path) and moment != "at the rename":
            raise error
        usual["fill"](path, content)

    def renamed(name: str) -> Callable[[Path, Path], None]:
        def rename(written: Path, file: Path) -> None:
            if is_full(file) and moment == "at the rename":
                raise error
            usual[name](written, file)

        return rename

    with mock.patch.multiple(writing, fill=fill, link=renamed("link"), replace=renamed("replace")):
        yield
