"""Faults of the disk: it is full at each moment of a file's coming to be, alone or together with another fault."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

from .fault import ERRORS, Fault, ended
from .nodes import STEPS
from .promises import Promise
from .seams import at_call, instead_of, no_space, not_a_number, raising
from .world import World

WRITE_MOMENTS = ("at the first byte", "in the middle", "at the rename")
FULL = "No space left on device"
NOT_SAVED = "What was learned could not be saved."


def _full() -> OSError:
    return OSError(errno.ENOSPC, FULL)


def disk_faults() -> list[Fault]:
    """One folder that is full, all of them, Ctrl-C while a file is written, and each other fault on a full disk."""
    return [
        *map(_full_folder, WRITE_MOMENTS),
        *map(_full_disk, WRITE_MOMENTS),
        _interrupted_write(),
        *map(_fault_on_full_disk, ERRORS),
        _fault_with_full_folder(),
    ]


def _full_folder(moment: str) -> Fault:
    def inject(world: World, error: BaseException) -> AbstractContextManager:
        return no_space(world.writing, moment, world.folder, error)

    def promise(world: World) -> Promise:
        (file,) = world.node.kept(STEPS)
        says = ("could not be written to. What was learned is kept in", f"output/{file.partition('/')[2]}")
        return Promise("kept elsewhere", says, frozenset({says[1]}))

    return Fault(f"the folder is full {moment}", _full, inject, promise)


def _full_disk(moment: str) -> Fault:
    def inject(world: World, error: BaseException) -> AbstractContextManager:
        return no_space(world.writing, moment, error=error)

    def promise(world: World) -> Promise:
        return Promise("not saved", (NOT_SAVED, FULL))

    return Fault(f"the disk is full {moment}", _full, inject, promise)


def _interrupted_write() -> Fault:
    def inject(world: World, error: BaseException) -> AbstractContextManager:
        return no_space(world.writing, "in the middle", error=error)

    return Fault("Ctrl-C in the middle of the file", KeyboardInterrupt, inject, lambda _: Promise("the fault itself"))


def _fault_on_full_disk(kind: str) -> Fault:
    @contextmanager
    def inject(world: World, error: BaseException | None) -> Iterator[None]:
        network, event = world.parts.network, not_a_number if error is None else raising(error)
        with ExitStack() as stack:
            stack.enter_context(at_call(network, len(world.course.network), event, inputs=error is None))
            stack.enter_context(no_space(world.writing, "in the middle"))
            yield

    promise = partial(ended, kind=kind, done=STEPS - 1, what_became=NOT_SAVED)
    return Fault(f"{kind} at the last call of the network, and a full disk", ERRORS[kind], inject, promise)


def _fault_with_full_folder() -> Fault:
    @contextmanager
    def inject(world: World, error: BaseException) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(at_call(world.parts.network, len(world.course.network), raising(error)))
            stack.enter_context(no_space(world.writing, "at the rename", world.folder))
            yield

    def promise(world: World) -> Promise:
        (file,) = world.node.kept(STEPS - 1)
        elsewhere = f"output/{file.partition('/')[2]}"
        return Promise("the fault in a sentence", ("is kept in", elsewhere), frozenset({elsewhere}))

    name = "exception at the last call of the network, and a full folder"
    return Fault(name, ERRORS["exception"], inject, promise)


def word_faults() -> list[Fault]:
    """A disk that is full while a word is written over an older one, which has to stay."""
    return [_full_over_older(moment) for moment in WRITE_MOMENTS]


def _full_over_older(moment: str) -> Fault:
    def inject(world: World, error: BaseException) -> AbstractContextManager:
        return no_space(world.writing, moment, error=error)

    def run(world: World) -> None:
        try:
            world.run()
        finally:
            assert (world.root / world.node.whole).read_bytes() == b"an older word", "the older file is lost"

    def promise(world: World) -> Promise:
        return Promise("not saved", (NOT_SAVED, FULL), frozenset({world.node.whole}))

    return Fault(f"the disk is full {moment}", _full, inject, promise, run)


def reading_faults() -> list[Fault]:
    """A file that is cut, has a flipped bit, or is empty."""
    return [_reading_fault(damage) for damage in ("cut", "a flipped bit", "empty")]


def _reading_fault(damage: str) -> Fault:
    @contextmanager
    def inject(world: World, _error: None) -> Iterator[None]:
        given = world.given.read_bytes()
        flipped = given[:-9] + bytes([given[-9] ^ 1]) + given[-8:]
        damaged = {"cut": given[: len(given) // 2], "a flipped bit": flipped, "empty": b""}[damage]
        try:
            world.given.write_bytes(damaged)
            yield
        finally:
            world.given.write_bytes(given)

    says = ("given.safetensors",)
    return Fault(f"the file is damaged: {damage}", lambda: None, inject, lambda _: Promise("PalpError", says))


def loading_faults() -> list[Fault]:
    """Each kind of fault after each of the demo world's three files has been read."""
    kinds = ("exception", "out of memory", "Ctrl-C")
    return [_loading_fault(kind, number) for kind in kinds for number in (1, 2, 3)]


def _loading_fault(kind: str, number: int) -> Fault:
    def inject(_world: World, error: BaseException) -> AbstractContextManager:
        import comfy.utils

        return instead_of(comfy.utils, "load_torch_file", raising(error), number)

    return Fault(f"{kind} in file {number} of its model", ERRORS[kind], inject, partial(ended, kind=kind))


def picture_faults() -> list[Fault]:
    """Each kind of fault after the first and the last of three photos has been read."""
    kinds = ("exception", "out of memory", "Ctrl-C")
    return [_picture_fault(kind, number) for kind in kinds for number in (1, 3)]


def _picture_fault(kind: str, number: int) -> Fault:
    def inject(_world: World, error: BaseException) -> AbstractContextManager:
        from palp_pack.nodes import photos

        return instead_of(photos, "read_image", raising(error), number)

    return Fault(f"{kind} in photo {number}", ERRORS[kind], inject, partial(ended, kind=kind))
