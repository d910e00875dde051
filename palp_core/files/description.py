"""What a file of ours says of itself, as JSON in its metadata: read under limits, and checked field by field."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from ..errors import FileError
from ..models.families import FAMILIES
from ..models.prompts import MOST_LETTERS
from .checks import Source
from .names import printable

MOST_PROMPT = MOST_LETTERS
MOST_DESCRIPTION = 1_000_000  # letters of JSON
MOST_NUMBER = 2**31
#: How an annotation is spelled -> what a field of it may be in JSON.
KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "int": (int,),
    "float": (int, float),
    "dict": (dict,),
}


def read_description(source: Source, metadata: Mapping[str, str], key: str) -> dict | None:
    """Return what a file says of itself under a key; None where it says nothing. Raises FileError where damaged."""
    if key not in metadata:
        return None
    found = read_json(source, metadata[key], MOST_DESCRIPTION)
    if not isinstance(found, dict):
        raise damaged(source, "it is no object")
    return found


def read_json(source: Source, text: str, most: int) -> Any:
    """Parse JSON that can be written again: no NaN, no half letter. Raises FileError for other text, or a longer one.

    most: letters.
    """
    if len(text) > most:
        raise damaged(source, f"it has {len(text)} letters, and may have {most}")
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:  # RecursionError: brackets in brackets in brackets
        raise damaged(source, f"{type(error).__name__}: {printable(str(error))}") from error
    return found


def damaged(source: Source, reason: str) -> FileError:
    """Make the error for a file whose description of itself cannot be meant."""
    return FileError(f"the description inside {source.name} is damaged: {reason}. {source.remedy}")


def checked_fields(source: Source, kind: type, found: object, most_letters: int = MOST_PROMPT) -> dict[str, Any]:
    """The fields of a dataclass as a description has them, each of its kind; what a later version added is left out.

    Fields that are neither text nor number are the caller's to check, but for a dict, which may hold anything.
    """
    if not isinstance(found, dict):
        raise damaged(source, f"{kind.__name__} is no object")
    wanted = [field for field in fields(kind) if field.name in found or not _has_default(field)]
    for field in wanted:
        if field.name not in found:
            raise damaged(source, f"{field.name} is missing")
        _check_value(source, field.name, KINDS.get(str(field.type)), found[field.name], most_letters)
    return {field.name: found[field.name] for field in wanted}


def _has_default(field: Field) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _check_value(source: Source, name: str, kinds: tuple[type, ...] | None, value: object, most_letters: int) -> None:
    if kinds is None:
        return
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise damaged(source, f"{name} is a {type(value).__name__}")
    if isinstance(value, str) and len(value) > most_letters:
        raise damaged(source, f"{name} has {len(value)} letters, and may have {most_letters}")
    if isinstance(value, (int, float)) and not (math.isfinite(value) and 0 <= value <= MOST_NUMBER):
        raise damaged(source, f"{name} is {str(value)[:40]}, and must be from 0 to {MOST_NUMBER}")


def check_model(source: Source, family: str, prediction: str) -> None:
    """Raise FileError where a description names a model that there is none of."""
    if family not in FAMILIES:
        raise damaged(source, f"family is '{printable(family)}', which this version does not know")
    if prediction not in FAMILIES[family].native_resolutions:
        raise damaged(source, f"prediction is '{printable(prediction)}', which {family} does not make")
