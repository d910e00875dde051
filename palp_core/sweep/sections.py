"""YAML as sections whose values are checked one by one: each error names the file, the line and the key."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..errors import FileError, PalpError, SettingError, quoted
from ..files.writing import write

#: Keys from the top of the file to a value.
Place = tuple[str, ...]
NAMES = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", Path: "a path"}


@dataclass(frozen=True)
class Section:
    """The keys and values below one key of a file. lines: place -> the line on which it stands, counted from 1."""

    file: Path
    place: Place
    values: Mapping[str, Any]
    lines: Mapping[Place, int]

    @classmethod
    def read(cls, file: Path, changes: Sequence[str] = ()) -> Section:
        """Read a file. changes: "a.b=value" puts a value, as YAML, in the place of what the file has there.

        Raises FileError for what is no YAML, or holds no keys; SettingError for a change that cannot be read.
        """
        yaml = _yaml()
        try:
            text = file.read_text(encoding="utf-8-sig")
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            lines = dict(_lines(node, yaml, file)) if node is not None else {}
            values = yaml.safe_load(text)
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise FileError(f"{file} is no YAML that can be read: {' '.join(str(error).split())}.") from error
        if not isinstance(values, dict):
            raise FileError(f"{file} holds no keys with values, such as `model: sd15.safetensors`.")
        for change in changes:
            _put(values, change, yaml)
        return cls(file, (), values, lines)

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def error(self, key: str | None, text: str) -> SettingError:
        """Make the error for a key of the section, or for the section itself."""
        place = self._place(key)
        return SettingError(f"{self._where(place)}: {'.'.join(place)} {text}.")

    def _place(self, key: str | None) -> Place:
        return self.place if key is None else (*self.place, str(key))

    def _where(self, place: Place) -> str:
        """Name the file, and the line of the key or of what it is in."""
        while place and place not in self.lines:
            place = place[:-1]
        return f"{self.file}, line {self.lines[place]}" if place else str(self.file)

    @contextmanager
    def at(self, key: str | None = None) -> Iterator[None]:
        """Inside, an error that a user may see is told with the place of the key, or of the section."""
        try:
            yield
        except PalpError as error:
            place = self._place(key)
            raise type(error)(f"{self._where(place)}: {'.'.join(place)}: {error}") from error

    def allow(self, known: Sequence[str]) -> None:
        """Raise SettingError for a key that is not known, with the one that may be meant."""
        for key in self.values:
            if key not in known:
                alike = difflib.get_close_matches(str(key), known, n=1)
                meant = f"perhaps {alike[0]} is meant" if alike else f"known are {', '.join(known) or 'none'}"
                raise self.error(key, f"is unknown; {meant}")

    def section(self, key: str) -> Section:
        """Take the keys below a key; none where it is missing. Raises SettingError where it holds something else."""
        values = self.values.get(key)
        if not isinstance(values, (dict, type(None))):
            raise self.error(key, f"is {quoted(str(values))}; it must hold keys with values")
        return Section(self.file, (*self.place, str(key)), values or {}, self.lines)

    def sections(self, key: str) -> list[tuple[str, Section]]:
        """List the named sections below a key, of which there must be one."""
        around = self.section(key)
        if not around.values:
            raise self.error(key, "is missing, or empty")
        return [(str(name), around.section(name)) for name in around]

    def value(self, key: str, kind: Any, default: Any = MISSING) -> Any:
        """Take a value of a type, or its default. Raises SettingError where it is of another, or missing."""
        if key not in self:
            if default is MISSING:
                raise self.error(key, "is missing")
            return default
        return self._as(key, self.values[key], kind)

    def values_of(self, key: str, kind: Any) -> tuple:
        """Take one value or several of a type."""
        return self._as(key, self.values[key], tuple[kind, ...])

    def path(self, key: str) -> Path | None:
        """Take a path, from the folder of the file; None where there is none."""
        return self.value(key, Path, None)

    def typed(self, kind: type) -> dict[str, Any]:
        """Take the values of a dataclass's fields. Raises SettingError for others, and where one is missing."""
        self.allow([field.name for field in fields(kind)])
        hints = hints_of(kind)
        needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
        return {name: self.value(name, hints[name]) for name in hints if name in self or name in needed}

    def _as(self, key: str, value: Any, kind: Any) -> Any:
        if get_origin(kind) is tuple:
            several = value if isinstance(value, list) else [value]
            if not several:
                raise self.error(key, "is empty")
            return tuple(self._as(key, one, get_args(kind)[0]) for one in several)
        if get_origin(kind) in (Union, UnionType):
            (kind,) = [one for one in get_args(kind) if one is not type(None)]
            return self._as(key, value, kind)
        if get_origin(kind) is Literal:
            if value not in get_args(kind):
                raise self.error(
                    key, f"is {quoted(str(value))}; it must be one of {', '.join(map(str, get_args(kind)))}"
                )
            return value
        found = self._converted(value, kind)
        if found is None:
            raise self.error(key, f"is {quoted(str(value))}; it must be {NAMES[kind]}")
        return found

    def _converted(self, value: Any, kind: type) -> Any:
        """The value in a plain type; None where it is of another. YAML takes 1e-4 for a text."""
        if kind is Path and isinstance(value, str):
            return self.file.parent / Path(value).expanduser()
        if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                return float(value)
            except ValueError:
                return None
        fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        return value if fits else None


def write_yaml(values: Mapping[str, Any], file: Path) -> Path:
    """Write a file as `Section.read` reads it; returns the file. Raises SettingError without PyYAML."""
    text = _yaml().safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=120)
    write(file, partial(Path.write_text, data=text, encoding="utf-8"))
    return file


def hints_of(kind: type) -> dict[str, Any]:
    """Name the fields of a dataclass with their types."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise SettingError("a plan of a sweep needs PyYAML, which is not installed: pip install PyYAML.") from error
    return yaml


def _lines(node: Any, yaml: Any, file: Path, place: Place = ()) -> Iterator[tuple[Place, int]]:
    """Each place with its line. Raises FileError for a key that is there twice, of which YAML takes the last."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen = set()
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.value in seen:
            raise FileError(f"{file}, line {line}: {'.'.join((*place, key.value))} is there twice.")
        seen.add(key.value)
        inner = (*place, key.value)
        yield inner, line
        yield from _lines(value, yaml, file, inner)


def _put(values: dict, change: str, yaml: Any) -> None:
    """Put a value where a change says."""
    key, equals, value = change.partition("=")
    *around, last = key.strip().split(".")
    for name in around:
        inner = values.get(name)
        values[name] = inner if isinstance(inner, dict) else {}
        values = values[name]
    if not equals or not last:
        raise SettingError(f"set has {quoted(change)}; write it as settings.steps=100.")
    values[last] = yaml.safe_load(value)
