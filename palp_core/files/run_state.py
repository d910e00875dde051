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
from .checks import ALPHA, Layout, Source, check_floating, check_lora, check_word
from .description import read_json
from .names import printable
from .reading import CHECKSUM, TensorFile, opened
from .safetensors_file import save_tensors

REMEDY = "Delete its folder to begin again."
MOST_HEADER = 64 * 2**20  # bytes: the history of a hundred thousand steps, which settings allow, has a third of it
#: What a step measured, as a row of the history has it.
ROW = {"index": int, "sigma": float, "losses": dict, "subject": str}
#: What optimizers keep of a parameter: AdamW, schedule-free AdamW, Prodigy, AdamW in 8 bits of few and of many numbers.
KEPT = (
    {"step", "exp_avg", "exp_avg_sq"},
    {"z", "exp_avg_sq"},
    {"step", "s", "p0", "exp_avg", "exp_avg_sq"},
    {"step", "state1", "state2"},
    {"step", "state1", "state2", "qmap1", "qmap2", "absmax1", "absmax2"},
)
OF_ITS_SHAPE = ("exp_avg", "exp_avg_sq", "z", "state1", "state2")
QUANTIZED = 256  # levels, and numbers that share a scale


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
    """Raise FileError unless the tensors are those of a LoRA or words, their optimizer and their random numbers.

    A word that is another one in each layer of the network has tensors of any shape.
    """
    source, rest = file.source, dict(file.layouts)
    for name, kind, shape in (("steps", torch.int64, ()), ("random", torch.uint8, None)):
        found = rest.pop(name, None)
        if found is None or found.dtype != kind or shape not in (None, found.shape):
            raise source.refusal(f"is damaged: {name} is not there, or not what it should be")
    rest.pop("alignment_random", None)
    kept = {key: rest.pop(key) for key in list(rest) if key.startswith("optimizer.")}
    for key in [key for key in rest if key.startswith(("scaler.", "group."))]:
        if rest.pop(key).shape != ():
            raise source.refusal(f"is damaged: {printable(key)} is not one number")
    averages = [rest.pop(key).shape for key in list(rest) if key.startswith("average.")]
    words = {key: layout for key, layout in rest.items() if key.startswith("word.")}
    layered = [key for key in rest if key.startswith("layered.")]
    lora = {key: layout for key, layout in rest.items() if key not in words and key not in layered}
    for key in layered:
        check_floating(source, rest, key)
    for key in words:
        check_word(source, key, {key: key}, words)
    if lora:
        check_lora(source, lora)
    trained = [layout.shape for key, layout in rest.items() if not key.endswith(ALPHA)]
    if averages and Counter(averages) != Counter(trained):
        raise source.refusal("is damaged: its averages are not of what is trained")
    _check_kept(source, kept, trained)


def _check_kept(source: Source, layouts: dict[str, Layout], trained: list[tuple[int, ...]]) -> None:
    """Raise FileError unless an optimizer's numbers are of what is trained; a word that no step has read has none."""
    parameters: dict[str, dict[str, Layout]] = {}
    for key, layout in layouts.items():
        number, _, name = key.removeprefix("optimizer.").partition(".")
        parameters.setdefault(number, {})[name] = layout
    numbers, left = set(map(str, range(len(trained)))), Counter(trained)
    for number, found in parameters.items():
        if number not in numbers or found.keys() not in KEPT or not _is_whole(found):
            raise source.refusal(f"is damaged: the optimizer's numbers of parameter {printable(number)} are not whole")
        shape = _shape_of(found)
        left[shape] -= 1
        if left[shape] < 0:
            raise source.refusal(f"is damaged: the optimizer has numbers for {shape}, which is not trained")


def _shape_of(found: dict[str, Layout]) -> tuple[int, ...]:
    return found["exp_avg_sq" if "exp_avg_sq" in found else "state1"].shape


def _is_whole(found: dict[str, Layout]) -> bool:
    """Say whether all that an optimizer keeps of a parameter has its shape and its kind of numbers."""
    shape = _shape_of(found)
    count = math.prod(shape)
    wanted = {name: [shape] for name in OF_ITS_SHAPE}
    wanted |= {"step": [()], "s": [(count,)], "p0": [(count,), ()]}  # Prodigy's start is one 0 where it is nothing
    wanted |= {name: [(QUANTIZED,)] for name in ("qmap1", "qmap2")}
    wanted |= {name: [(math.ceil(count / QUANTIZED),)] for name in ("absmax1", "absmax2")}
    in_bytes = {"state1", "state2"} if "qmap1" in found else set()
    return all(
        layout.shape in wanted[name]
        and (name == "step" or layout.dtype == (torch.uint8 if name in in_bytes else torch.float32))
        for name, layout in found.items()
    )


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
