"""The state of a training between two runs of the command, to go on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import FileError
from .safetensors_file import read_tensors, save_tensors


@dataclass(frozen=True)
class Unfinished:
    """A training that may be gone on with. identity: it goes on with the same inputs only."""

    file: Path
    identity: str

    def earlier(self, resume: bool) -> tuple[dict[str, Tensor] | None, list[dict]]:
        """Return what to go on from, and what the steps until there measured; nothing without an earlier training.

        Raises FileError where there is one and the user did not mean it, or where the user means one that is not there.
        """
        if not resume and self.file.exists():
            raise FileError(
                f"{self.file} holds an unfinished training. Go on with --resume, take another name, or delete it."
            )
        if not resume:
            return None, []
        if not self.file.exists():
            raise FileError(f"there is no unfinished training {self.file}. Leave out --resume.")
        state, metadata = read_tensors(self.file)
        if metadata["identity"] != self.identity:
            raise FileError(
                f"{self.file} was begun with another model, other photos, prompts or settings. Give the same, or "
                "another name."
            )
        return state, json.loads(metadata["history"])

    def save(self, state: Mapping[str, Tensor], history: list[dict]) -> None:
        """Replace what is kept by a later state."""
        save_tensors(self.file, state, {"identity": self.identity, "history": json.dumps(history)})
