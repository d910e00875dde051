"""What a command says at its end: to people, or as JSON to programs."""

from __future__ import annotations

import json


def show(text: str, data: dict, as_json: bool) -> None:
    """Print a text, or in its place the data that it is made from."""
    print(json.dumps(data, indent=2, ensure_ascii=False) if as_json else text)
