"""Names that users give to files: plain names of any script, which are safe on every system and in every prompt."""

from __future__ import annotations

import re
from unicodedata import category, normalize

from ..errors import FileError, printable

MOST_LETTERS = 100
MOST_BYTES = 200  # of the 255 that file systems allow: a number, the steps and a suffix come behind
#: Windows opens a device in the place of a file of this name, whatever its suffix.
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])", re.IGNORECASE)
#: Letters and marks that nobody sees, so that two names would look the same.
INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def check_file_name(name: str, argument: str = "name", folder: str = "loras") -> str:
    """The name without `.safetensors`, its letters composed. Raises FileError unless it is safe everywhere.

    argument, folder: what the error calls the name, and where the file goes.
    """
    name = normalize("NFC", name.strip().removesuffix(".safetensors"))
    if len(name) > MOST_LETTERS or not is_plain(name) or len(name.encode()) > MOST_BYTES:
        raise FileError(
            f"{argument} '{printable(name)}' must be a plain name of at most {MOST_LETTERS} letters (in some scripts "
            "66), digits, '_' and '-', which starts with a letter or a digit. It cannot name a folder: the file is "
            f"saved in the {folder} folder."
        )
    if RESERVED.fullmatch(normalize("NFKC", name)):
        raise FileError(f"{argument} '{printable(name)}' is a name that Windows keeps for itself. Choose another.")
    return name


def is_plain(name: str) -> bool:
    """Whether a name holds letters, digits, '_' and '-' alone, also as systems read it that simplify letters.

    NFKC makes '1.' of the one letter '⒈', and '(1)' of '⑴': path and prompt would then mean something else.
    """
    simplified = normalize("NFKC", name)
    return is_of_letters(name) and is_of_letters(simplified) and not INVISIBLE.search(name + simplified)


def is_of_letters(name: str) -> bool:
    """Whether a name holds letters, digits, '_' and '-' alone. No dot: A1111 would end the word's name there."""
    kinds = [category(letter) for letter in name]
    starts = bool(kinds) and kinds[0][0] in "LN"
    return starts and all(
        kind[0] in "LN" or kind in ("Mn", "Mc") or letter in "_-" for letter, kind in zip(name, kinds, strict=True)
    )
