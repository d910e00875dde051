"""Names that users give to files: plain names, which are safe on every system and in every prompt."""

from __future__ import annotations

import re

from ..errors import FileError

FILE_NAME = re.compile(r"[^\W_][\w-]{0,99}")  # no dot: A1111 would end the word's name there
MOST_BYTES = 200  # of the 255 that file systems allow: a number, the steps and a suffix come behind


def check_file_name(name: str, argument: str = "name", folder: str = "loras") -> str:
    """The name without `.safetensors`. Raises FileError unless it is a plain name that is safe everywhere.

    argument, folder: what the error calls the name, and where the file goes.
    """
    name = name.strip().removesuffix(".safetensors")
    if not FILE_NAME.fullmatch(name) or len(name.encode()) > MOST_BYTES:
        raise FileError(
            f"{argument} {name!r} must be a plain name of at most 100 letters (in some scripts 66), digits, '_' and "
            f"'-', which starts with a letter or a digit. It cannot name a folder: the file is saved in the {folder} "
            "folder."
        )
    return name
