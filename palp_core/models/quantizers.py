"""Packages of others for quantized weights, which peft and diffusers look for: nothing here needs them.

A package that is broken, or of a version that peft refuses, would stop both, and our nodes and commands with them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module

#: What peft tries for every layer that it is to adapt.
PACKAGES = (
    "aqlm",
    "auto_gptq",
    "awq",
    "bitsandbytes",
    "eetq",
    "gptqmodel",
    "hqq",
    "neural_compressor",
    "torchao",
    "transformer_engine",
)
#: Those that peft and diffusers import while they are imported themselves.
IMPORTED_AT_ONCE = ("bitsandbytes",)


def broken_packages_hidden() -> AbstractContextManager[None]:
    """Make a context for the import of peft and diffusers. Packages that can be imported stay, for those who use them.

    What cannot be imported helps nobody, so that it makes no difference to others that peft does not know it.
    """
    return _hidden([name for name in IMPORTED_AT_ONCE if _is_broken(name)])


def _is_broken(name: str) -> bool:
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        return error.name != name  # which is not there at all
    except Exception:
        return True
    return False


@contextmanager
def packages_hidden() -> Iterator[None]:
    """Inside, peft adapts layers as if it were alone; after, it asks anew for what is there."""
    from peft import import_utils

    answers = [found for found in vars(import_utils).values() if hasattr(found, "cache_clear")]
    try:
        for answer in answers:
            answer.cache_clear()
        with _hidden(PACKAGES):
            yield
    finally:
        for answer in answers:
            answer.cache_clear()


@contextmanager
def _hidden(names: Iterable[str]) -> Iterator[None]:
    """Inside, neither an import nor a search finds the packages. After, those that were imported are so again."""
    imported = {name: sys.modules[name] for name in names if name in sys.modules}
    try:
        for name in names:
            sys.modules[name] = None
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(imported)
