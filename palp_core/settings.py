"""Settings: each is a field of a frozen dataclass, and carries its bounds and its help with it.

What checks a value, the page's widget, the command line's help and the table in docs/settings.md are made from that.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, get_args, get_type_hints

from .errors import SettingError, printable

KEY = "setting"


@dataclass(frozen=True)
class Setting:
    """What is known of one setting."""

    #: One sentence that stands alone.
    help: str
    #: The values that suit most, in words.
    usual: str = ""
    low: float | None = None
    high: float | None = None
    #: Whether the lower bound itself is not allowed.
    open: bool = False
    #: By how much a widget's arrows change it.
    step: float | None = None

    def allows(self, value: float) -> bool:
        above = self.low is None or (value > self.low if self.open else value >= self.low)
        return math.isfinite(value) and above and (self.high is None or value <= self.high)

    @property
    def bounds(self) -> str:
        """Say in words what is allowed: above 0, up to 1."""
        return f"above {self.low}, up to {self.high}" if self.open else f"{self.low} to {self.high}"

    @property
    def wanted(self) -> str:
        return f"it must be {self.bounds}" + (f", usually {self.usual}" if self.usual else "")


def setting(default: Any, help: str, **known: Any) -> Any:
    """Declare a field of a dataclass as a setting. known: the other fields of `Setting`."""
    return field(default=default, metadata={KEY: Setting(help, **known)})


def setting_of(config: type, name: str) -> Setting:
    """Return what is known of a dataclass's field. Raises KeyError where it is no setting."""
    return _field(config, name).metadata[KEY]


def default_of(config: type, name: str) -> Any:
    """Return the default of a dataclass's field."""
    return _field(config, name).default


def settings_of(config: type) -> dict[str, Setting]:
    """List all settings of a dataclass, in order."""
    return {f.name: f.metadata[KEY] for f in fields(config) if KEY in f.metadata}


def choices_of(config: type, name: str) -> tuple:
    """List what a field may be, where its type says so by Literal; nothing otherwise."""
    return get_args(get_type_hints(config)[name])


def check_settings(config: Any) -> None:
    """Raise SettingError for the first field of a dataclass whose value is out of bounds, or no choice."""
    hints = get_type_hints(type(config))
    for found in (f for f in fields(config) if KEY in f.metadata):
        value, known, choices = getattr(config, found.name), found.metadata[KEY], get_args(hints[found.name])
        if choices and value not in choices:
            allowed = ", ".join(map(str, choices))
            raise SettingError(f"{found.name} is {printable(repr(value))}; it must be one of {allowed}.")
        if known.low is not None and not known.allows(value):
            raise SettingError(f"{found.name} is {value}; {known.wanted}.")


def _field(config: type, name: str) -> Field:
    return next(f for f in fields(config) if f.name == name and f.default is not MISSING)
