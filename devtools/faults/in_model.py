"""Faults of the models: the network, the VAE and the text encoder raise, or give what is no number."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from .fault import ERRORS, MOMENTS, NOTHING, Fault, ended, numbered
from .nodes import GUIDE, GUIDE_WITH_LORA, RECORD
from .promises import Promise
from .seams import Event, at_call, instead_of, not_a_number, raising
from .world import World


def network_faults(moments: Sequence[str] = MOMENTS) -> list[Fault]:
    """Each kind of fault at the first call of the network, in the middle of a run, and at the last."""
    return [_network_fault(kind, moment) for kind in ERRORS for moment in moments]


def _event(error: BaseException | None) -> Event:
    return not_a_number if error is None else raising(error)


def _network_fault(kind: str, moment: str) -> Fault:
    def inject(world: World, error: BaseException | None) -> AbstractContextManager:
        number = numbered(moment, len(world.course.network))
        return at_call(world.parts.network, number, _event(error), inputs=error is None)

    def promise(world: World) -> Promise:
        done = world.course.network[numbered(moment, len(world.course.network)) - 1]
        if kind == "NaN" and not world.node.trains:
            return _not_a_number(world, moment)
        return ended(world, kind, done)

    return Fault(f"{kind} at the {moment} call of the network", ERRORS[kind], inject, promise)


def silent_fault() -> Fault:
    """An error without a word, whose kind is then told."""

    def inject(world: World, error: BaseException) -> AbstractContextManager:
        return at_call(world.parts.network, len(world.course.network), raising(error))

    def promise(world: World) -> Promise:
        usual = ended(world, "exception", world.course.network[-1])
        return replace(usual, says=(f"{AssertionError.__name__} {usual.says[0]}",))

    return Fault("an error without a word at the last call of the network", AssertionError, inject, promise)


def _not_a_number(world: World, moment: str) -> Promise:
    """What looks into the network says so; a sampler makes of it what it does without us."""
    looks = world.node is RECORD or (world.node in (GUIDE, GUIDE_WITH_LORA) and moment != "last")
    return Promise("PalpError", ("the model overflows in half precision",)) if looks else Promise("none")


def cancel_faults(moments: Sequence[str] = MOMENTS) -> list[Fault]:
    """The page's Cancel while the network computes, which the host's attention hears."""
    return [_cancel_fault(moment) for moment in moments]


def _cancel_fault(moment: str) -> Fault:
    def ask(_given: object) -> None:
        import comfy.model_management

        comfy.model_management.interrupt_current_processing(True)

    def inject(world: World, _error: BaseException | None) -> AbstractContextManager:
        return at_call(world.parts.network, numbered(moment, len(world.course.network)), ask, inputs=True)

    def promise(world: World) -> Promise:
        done = world.course.network[numbered(moment, len(world.course.network)) - 1]
        return Promise("the host's interrupt", (), frozenset(world.node.kept(done)))

    return Fault(f"Cancel in the {moment} call of the network", lambda: None, inject, promise)


def vae_faults() -> list[Fault]:
    """Each kind of fault while the photo is encoded."""
    return [_vae_fault(kind) for kind in ERRORS]


def _vae_fault(kind: str) -> Fault:
    def inject(world: World, error: BaseException | None) -> AbstractContextManager:
        return instead_of(world.parts.vae, "encode", _event(error))

    def promise(world: World) -> Promise:
        if kind != "NaN":
            return ended(world, kind)
        said = ("that are not finite", "--fp32-vae")
        return Promise("PalpError in a sentence", (*said, NOTHING)) if world.node.trains else Promise("PalpError", said)

    return Fault(f"{kind} of the VAE", ERRORS[kind], inject, promise)


def text_faults() -> list[Fault]:
    """An exception and full memory while a prompt is read: the first time, and the last."""
    kinds = ("exception", "out of memory")
    return [_text_fault(kind, moment) for kind in kinds for moment in ("first", "last")]


def _text_fault(kind: str, moment: str) -> Fault:
    def inject(world: World, error: BaseException | None) -> AbstractContextManager:
        number = numbered(moment, len(world.course.text))
        return at_call(world.parts.encoders, number, _event(error))

    def promise(world: World) -> Promise:
        done = world.course.text[numbered(moment, len(world.course.text)) - 1]
        if moment == "first":  # while inputs are checked, before there is a training
            return Promise("the fault itself")
        return ended(world, kind, done)

    return Fault(f"{kind} at the {moment} call of the text encoder", ERRORS[kind], inject, promise)
