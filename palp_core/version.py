"""The pack's version, written into every file that it saves."""

__version__ = "0.1.0"
