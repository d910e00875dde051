"""A training's folder: what is trained, what its steps measured, where it stands, and what came of it.

NAME_00001/ holds settings.json, metrics.jsonl with a line for each step, state.safetensors to go on from, subject.png,
previews/ and snapshots/ of single steps, and result.json once a training of all its steps has been saved. A folder is
found again by the identity of the training.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path

from torch import Tensor

from ..errors import FileError
from .images import read_image, write_image
from .run_state import RunState
from .writing import write

SETTINGS, METRICS, STATE, RESULT = "settings.json", "metrics.jsonl", "state.safetensors", "result.json"
PREVIEWS, SNAPSHOTS, SHEET, OVERLAY = "previews", "snapshots", "contact_sheet.png", "subject.png"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one training. identity: of all that the result depends on, but for the number of steps."""

    path: Path
    identity: str

    @property
    def state(self) -> RunState:
        """Where the training stands, if its file is there."""
        return RunState(self.path / STATE, self.identity)

    @property
    def steps(self) -> int:
        """How many steps are behind its state; 0 without one. Raises FileError where it is damaged."""
        return len(self.history())

    def history(self) -> list[dict]:
        """Return what its steps measured, as far as there is a state of them. Raises FileError where it is damaged."""
        return self.state.history() if self.state.file.exists() else []

    def earlier(self) -> tuple[dict[str, Tensor] | None, list[dict]]:
        """Return what to go on from, and what the steps until there measured; None and none at the beginning.

        Raises FileError where the state is damaged.
        """
        return self.state.read() if self.state.file.exists() else (None, [])

    def keep(self, state: dict[str, Tensor], history: list[dict]) -> None:
        """Put a later state in the place of an earlier one, each file whole or not at all. Raises OSError."""
        self.state.save(state, history)
        rows = "".join(json.dumps(row) + "\n" for row in history)
        write(self.path / METRICS, lambda path: path.write_text(rows, encoding="utf-8"))

    def keep_preview(self, step: int, picture: Tensor) -> None:
        """Keep the picture (H, W, 3) in 0..1 that was drawn after so many steps. Raises OSError."""
        (self.path / PREVIEWS).mkdir(parents=True, exist_ok=True)
        write_image(picture, self.path / PREVIEWS / f"{_of_step(step)}.png")

    def previews(self, steps: int) -> dict[int, Tensor]:
        """Return the pictures of the first steps that can be read, (H, W, 3) in 0..1, by the steps behind them."""
        found = {}
        for number, file in _steps_in(self.path / PREVIEWS, "png"):
            with suppress(FileError):
                if number <= steps:
                    found[number] = read_image(file)
        return found

    @property
    def overlay_file(self) -> Path:
        """Name the file of the picture of what is taken for the subject."""
        return self.path / OVERLAY

    def keep_overlay(self, picture: Tensor) -> None:
        """Keep the picture (H, W, 3) in 0..1 of what is taken for the subject. Raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_image(picture, self.overlay_file)

    def overlay(self) -> Tensor | None:
        """Return the picture of what is taken for the subject, (H, W, 3) in 0..1; None where it cannot be read."""
        with suppress(FileError):
            return read_image(self.overlay_file)
        return None

    @property
    def contact_sheet(self) -> Path:
        """Name the file of the pictures of all steps."""
        return self.path / SHEET

    def snapshot(self, step: int) -> Path:
        """Name the file of what was learned in so many steps."""
        return self.path / SNAPSHOTS / f"{_of_step(step)}.safetensors"

    def snapshots(self) -> list[int]:
        """List the steps of which there is a snapshot."""
        return [number for number, _ in _steps_in(self.path / SNAPSHOTS, "safetensors")]

    def forget(self) -> None:
        """Take the state away, from which nothing good comes: that of a training that diverged."""
        self.state.file.unlink(missing_ok=True)

    def finish(self, steps: int, file: Path) -> None:
        """Note the file of a training that has come to its end. Raises OSError."""
        _write_json(self.path / RESULT, {"steps": steps, "file": file.name, "sha256": _digest(file)})

    def result(self, steps: int, folders: Iterable[Path]) -> Path | None:
        """Find the file that a training of so many steps ended with, unchanged, in one of the folders; None without."""
        found = _read_json(self.path / RESULT)
        if found.get("steps") != steps or not isinstance(found.get("file"), str):
            return None
        files = (folder / Path(found["file"]).name for folder in folders)
        return next((file for file in files if file.is_file() and _digest(file) == found.get("sha256")), None)


def find_run(parent: Path, name: str, identity: str, settings: dict, steps: int, anew: bool = False) -> RunFolder:
    """Find the folder of a training, with what it has by now; a new one, NAME_00001, where there is none.

    settings: described for whoever opens the folder. steps: that are asked for; of several folders of the training,
    that of such a result is taken, else the one that is nearest to them, and never one that is past them. anew: takes
    no earlier one. Raises FileError where an earlier one is damaged.
    """
    earlier = [] if anew else [run for run in _runs(parent) if run.identity == identity]
    for run in earlier:
        if _read_json(run.path / RESULT).get("steps") == steps:
            return run
    reached = [(run.steps, run.path.name, run) for run in earlier]
    if usable := [entry for entry in reached if entry[0] <= steps]:
        return max(usable, key=lambda entry: entry[:2])[2]
    return _begun(parent, name, identity, settings)


def run_of(parent: Path, file: Path) -> RunFolder | None:
    """Find the folder of the training there that has ended with this very file."""
    named = [run for run in _runs(parent) if _read_json(run.path / RESULT).get("file") == file.name]
    return next((run for run in named if _read_json(run.path / RESULT).get("sha256") == _digest(file)), None)


def is_result(parent: Path, name: str) -> bool:
    """Say whether a training there has ended with the file NAME.safetensors."""
    return any(_read_json(file).get("file") == f"{name}.safetensors" for file in parent.glob(f"*/{RESULT}"))


def _of_step(step: int) -> str:
    return f"step_{step:05}"


def _steps_in(folder: Path, suffix: str) -> list[tuple[int, Path]]:
    """The files of single steps in a folder, in order."""
    files = ((file.stem.removeprefix("step_"), file) for file in folder.glob(f"step_*.{suffix}"))
    return sorted((int(number), file) for number, file in files if number.isdigit())


def _runs(parent: Path) -> Iterator[RunFolder]:
    """All folders of trainings there; what is none, or cannot be read, is passed over."""
    for file in sorted(parent.glob(f"*/{SETTINGS}")):
        if isinstance(identity := _read_json(file).get("identity"), str):
            yield RunFolder(file.parent, identity)


def _begun(parent: Path, name: str, identity: str, settings: dict) -> RunFolder:
    """Make a folder. What it is for is safety: where it cannot be made, as on a full disk, the training goes on."""
    path = parent / f"{name}_{1:05}"
    try:
        path = _claimed(parent, name)
        _write_json(path / SETTINGS, {"identity": identity, **settings})
    except OSError as error:
        logging.warning("the training's folder %s could not be made: %s", path, error)
    return RunFolder(path, identity)


def _claimed(parent: Path, name: str) -> Path:
    """Make parent/NAME_00001, at the first free number, which no other process has then."""
    parent.mkdir(parents=True, exist_ok=True)
    for path in (parent / f"{name}_{number:05}" for number in count(1)):
        with suppress(FileExistsError):
            path.mkdir()
            break
    return path


def _write_json(file: Path, content: dict) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write(file, lambda path: path.write_text(text, encoding="utf-8"))


def _read_json(file: Path) -> dict:
    """What is in the file, if it is there and holds fields."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        digest = sha256()
        while part := opened.read(2**20):
            digest.update(part)
    return digest.hexdigest()
