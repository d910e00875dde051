"""Names that users give to files: plain names, which are safe on every system and in every prompt."""

from __future__ import annotations

import re

FILE_NAME = re.compile(r"[^\W_][\w-]{0,99}")  # no dot: A1111 would end the word's name there


def check_file_name(name: str, argument: str = "file_name", folder: str = "loras") -> str:
    """The name without `.safetensors`. Raises ValueError unless it is a plain name that is safe everywhere.

    argument, folder: what the error calls the name, and where the file goes.
    """
    name = name.strip().removesuffix(".safetensors")
    if not FILE_NAME.fullmatch(name):
        raise ValueError(
            f"{argument} {name!r} must be a plain name of at most 100 letters, digits, '_' and '-', which starts "
            f"with a letter or a digit. It cannot name a folder: the file is saved in the {folder} folder."
        )
    return name
