"""The state of a training: all that its next step depends on, in a file."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import FileError
from .checks import ALPHA, Source, check_lora, check_word
from .description import read_json
from .names import printable
from .reading import CHECKSUM, TensorFile, opened
from .safetensors_file import save_tensors

REMEDY = "Delete its folder to begin again."
MOST_HEADER = 64 * 2**20  # bytes: the history of a hundred thousand steps, which settings allow, has a third of it
#: What a step measured, as a row of the history has it.
ROW = {"index": int, "sigma": float, "losses": dict, "subject": str}
MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # what Adam keeps of a parameter


@dataclass(frozen=True)
class RunState:
    """Where a training stands, in a file. identity: of its inputs; only the same go on with it."""

    file: Path
    identity: str

    def read(self) -> tuple[dict[str, Tensor], list[dict]]:
        """Return what to go on from, and what the steps until there measured.

        Raises FileError where the file is missing, damaged, or of another training.
        """
        with opened(self.file, self._source, MOST_HEADER) as file:
            return self._read(file)

    def history(self) -> list[dict]:
        """Return what the steps until there measured, without what else there is. Raises FileError as `read` does."""
        with opened(self.file, self._source, MOST_HEADER) as file:
            if "history" not in file.metadata:
                raise file.source.refusal("is damaged: it does not say its history")
            history = read_json(file.source, file.metadata["history"], MOST_HEADER)
            _check_history(file.source, history)
            return history

    @property
    def _source(self) -> Source:
        return Source(f"{self.file.parent.name}/{self.file.name}", REMEDY)

    def _read(self, file: TensorFile) -> tuple[dict[str, Tensor], list[dict]]:
        if missing := {CHECKSUM, "identity", "history"} - file.metadata.keys():
            raise file.source.refusal(f"is damaged: it does not say its {min(missing)}")
        _check_layouts(file)
        state = file.tensors()  # by its checksum, the identity is the one that was written
        if file.metadata["identity"] != self.identity:
            raise FileError(
                f"{self.file} is of a training with another model, other photos, prompts or settings, or of another "
                "version of PALP."
            )
        history = read_json(file.source, file.metadata["history"], MOST_HEADER)
        _check_history(file.source, history)
        if len(history) != int(state["steps"]):
            raise file.source.refusal(f"is damaged: its history is not that of {int(state['steps'])} steps")
        for name in state.keys() & {"random", "alignment_random"}:
            _check_random(file.source, name, state[name])
        return state, history

    def save(self, state: Mapping[str, Tensor], history: list[dict]) -> None:
        """Replace what is kept by a later state."""
        save_tensors(self.file, state, {"identity": self.identity, "history": json.dumps(history)})


def _check_layouts(file: TensorFile) -> None:
    """Raise FileError unless the tensors are those of a LoRA or words, their optimizer and their random numbers."""
    source, rest = file.source, dict(file.layouts)
    for name, kind, shape in (("steps", torch.int64, ()), ("random", torch.uint8, None)):
        found = rest.pop(name, None)
        if found is None or found.dtype != kind or shape not in (None, found.shape):
            raise source.refusal(f"is damaged: {name} is not there, or not what it should be")
    rest.pop("alignment_random", None)
    adam = {key: rest.pop(key) for key in list(rest) if key.startswith("optimizer.")}
    for key in [key for key in rest if key.startswith("scaler.")]:
        if rest.pop(key).shape != ():
            raise source.refusal(f"is damaged: {printable(key)} is not one number")
    averages = [rest.pop(key).shape for key in list(rest) if key.startswith("average.")]
    words = {key: layout for key, layout in rest.items() if key.startswith("word.")}
    lora = {key: layout for key, layout in rest.items() if key not in words}
    for key in words:
        check_word(source, key, {key: key}, words)
    if lora:
        check_lora(source, lora)
    trained = [layout.shape for key, layout in rest.items() if not key.endswith(ALPHA)]
    if averages and Counter(averages) != Counter(trained):
        raise source.refusal("is damaged: its averages are not of what is trained")
    _check_moments(source, {key: layout.shape for key, layout in adam.items()}, trained)


def _check_moments(source: Source, shapes: dict[str, tuple[int, ...]], trained: list[tuple[int, ...]]) -> None:
    """Raise FileError unless Adam's numbers are of what is trained; a word that no step has read has none."""
    parameters: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in shapes.items():
        number, _, name = key.removeprefix("optimizer.").partition(".")
        parameters.setdefault(number, {})[name] = shape
    numbers, left = set(map(str, range(len(trained)))), Counter(trained)
    for number, found in parameters.items():
        known = number in numbers and found.keys() == MOMENTS
        if not known or found["step"] != () or found["exp_avg"] != found["exp_avg_sq"]:
            raise source.refusal(f"is damaged: the optimizer's numbers of parameter {printable(number)} are not whole")
        left[found["exp_avg"]] -= 1
        if left[found["exp_avg"]] < 0:
            raise source.refusal(f"is damaged: the optimizer has numbers for {found['exp_avg']}, which is not trained")


def _check_history(source: Source, history: object) -> None:
    if not isinstance(history, list):
        raise source.refusal("is damaged: its history is no list of steps")
    for index, row in enumerate(history):
        if not _is_row(row) or row["index"] != index:
            raise source.refusal(f"is damaged: its history of step {index + 1} is not what a step measures")


def _is_row(row: object) -> bool:
    return (
        isinstance(row, dict)
        and row.keys() == ROW.keys()
        and all(isinstance(row[name], kind) for name, kind in ROW.items())
        and all(isinstance(loss, float) and math.isfinite(loss) for loss in row["losses"].values())
    )


def _check_random(source: Source, name: str, state: Tensor) -> None:
    try:
        torch.Generator().set_state(state)
    except (RuntimeError, TypeError) as error:
        raise source.refusal(f"is damaged: {name} is no state of random numbers") from error
