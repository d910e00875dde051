"""Where the files of a sweep are: in a folder, or at an address that fsspec opens, such as s3://bucket/sweep.

Files are always read and written in a folder. Where the sweep is at an address, that is a folder of the process's own
for as long as it works on a cell: what is at the address is pulled into it, and what is new in it is pushed.
"""

from __future__ import annotations

import logging
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from errno import ENOSPC
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any, Protocol, TypeVar

from ..errors import FileError, SettingError
from ..files.safetensors_file import first_writable_folder
from ..files.writing import Content, write
from .cells import CELLS

T = TypeVar("T")
#: Seconds between the tries to reach a store that fails for a moment.
PAUSES = (1.0, 5.0, 30.0)
#: What another try does not mend. All else counts as a failure of the network, for which each library has its errors.
LASTING = (PermissionError, FileNotFoundError, NotImplementedError)
#: Where a file gets the name of another at once. Elsewhere that is refused, or, in HDFS, not done, and not told.
REPLACING = {"file", "sftp"}
#: What fsspec would take for a pattern.
PATTERN = "*?["


class Place(Protocol):
    """Where the files of a sweep are, and a folder in which they are read and written."""

    #: By which `opened` opens it, in this process or in another.
    out: str
    #: The folder.
    path: Path

    def fetch(self, files: Iterable[Path]) -> None:
        """Bring those of some files in the folder that are there. Raises FileError where that fails."""

    def pull(self, folder: Path) -> None:
        """Bring all that is there of a folder in the folder. Raises FileError where that fails."""

    def push(self) -> None:
        """Keep what has changed in the folder, from now on seen by all. Raises FileError where that fails."""

    def __enter__(self) -> Place: ...

    def __exit__(self, *error: object) -> None: ...


def opened(out: str | Path) -> Place:
    """Open a sweep's folder, or its address. What has changed is kept in the end, even where the work has failed.

    Raises SettingError for an address that fsspec does not know, or without the package that it needs for it, and
    FileError for what cannot be written to.
    """
    return Mirror(str(out)) if is_address(out) else Folder(first_writable_folder([out]).resolve())


def is_address(out: str | Path) -> bool:
    """Say whether it is an address, and no folder."""
    return "://" in str(out)


class Folder:
    """A folder that all workers see. Its files are read and written in place."""

    def __init__(self, path: Path):
        self.path, self.out = path, str(path)

    def fetch(self, files: Iterable[Path]) -> None:
        """Do nothing: they are there."""

    def pull(self, folder: Path) -> None:
        """Do nothing: it is there."""

    def push(self) -> None:
        """Do nothing: what is written is kept."""

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class Mirror:
    """An address, and a folder of this process's own that mirrors some of it."""

    def __init__(self, out: str):
        self.out = out
        self._store, self._root, self._renames = _connected(out)
        self.path = Path(tempfile.mkdtemp(prefix="palp_sweep_")).resolve()
        #: Name of a file -> what of it is at the address.
        self._there: dict[str, tuple] = {}
        #: The folders of which all is here, so that what is not was taken away.
        self._pulled: list[str] = []
        #: Whether the store answered at last, and whether files of a cell are here alone.
        self._reached, self._unsaved = True, False

    def fetch(self, files: Iterable[Path]) -> None:
        """Bring those of some files that are there, many at once."""
        for name, content in self._read(self._contents, [self._name(file) for file in files]).items():
            self._bring(name, partial(Path.write_bytes, data=content))

    def pull(self, folder: Path) -> None:
        """Bring all that is there of a folder."""
        for name in self._read(self._names, self._name(folder)):
            self._bring(name, partial(self._get, name))
        self._pulled.append(f"{self._name(folder)}/")

    def _bring(self, name: str, content: Content) -> None:
        """Write a file here, whole or not at all: half of it would be pushed."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        self._read(write, file, content)
        self._there[name] = _mark(file)

    def push(self) -> None:
        """Write what is new or has changed, each file whole or not at all, and take away what was taken away here.

        Only of a folder that was pulled: else a file that is not here may be one that TMPDIR was cleared of.
        """
        here = {self._name(file): _mark(file) for file in self.path.rglob("*") if file.is_file() and _is_kept(file)}
        new = sorted(name for name, mark in here.items() if self._there.get(name) != mark)
        gone = sorted(name for name in self._there.keys() - here.keys() if name.startswith(tuple(self._pulled)))
        self._unsaved = any(name.startswith(f"{CELLS}/") for name in new)
        try:
            for name in new:
                self._tried(self._put, name)
                self._there[name] = here[name]
            for name in gone:
                self._tried(self._remove, name)
                del self._there[name]
        except Exception as error:
            self._reached = False
            raise FileError(f"{self.out} cannot be written to: {_said(error)}.{self._left()}") from error
        self._reached, self._unsaved = True, False

    def _left(self) -> str:
        """What becomes of what could not be pushed: of a cell it stays here; all else is quickly made again."""
        if not self._unsaved:
            return ""
        return f" What is not there is in {self.path} on {platform.node()}: copy that to it, or it is computed again."

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, *error: object) -> None:
        """Push, unless it was told already that the store cannot be reached, and remove the folder, as `_left` says."""
        try:
            if self._reached:
                self.push()
        finally:
            if not self._unsaved:
                shutil.rmtree(self.path, ignore_errors=True)

    def _name(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()

    def _read(self, action: Callable[..., T], *arguments: Any) -> T:
        try:
            return self._tried(action, *arguments)
        except Exception as error:
            self._reached = False
            full = f" {self.path.parent} is full: set TMPDIR to another folder." if _is_full(error) else ""
            raise FileError(f"{self.out} cannot be read: {_said(error)}.{full}") from error

    def _tried(self, action: Callable[..., T], *arguments: Any) -> T:
        """Do something with the store; where that fails for the moment, again, and by a new connection."""
        for pause in PAUSES:
            try:
                return action(*arguments)
            except LASTING:
                raise
            except Exception as error:
                if _is_full(error):
                    raise
                logging.warning("%s fails for the moment: %s. Tried again in %g s.", self.out, _said(error), pause)
            time.sleep(pause)
            with suppress(FileError):
                self._store, *_ = _connected(self.out)
        return action(*arguments)

    def _contents(self, names: list[str]) -> dict[str, bytes]:
        """Name -> content of the files that are there."""
        places = [f"{self._root}/{name}" for name in names]
        found = self._store.cat(places, on_error="return") if places else {}
        errors = [it for it in found.values() if isinstance(it, Exception) and not isinstance(it, FileNotFoundError)]
        if errors:
            raise errors[0]
        return {self._named(place): content for place, content in found.items() if isinstance(content, bytes)}

    def _named(self, place: str) -> str:
        return place[len(self._root) + 1 :]

    def _names(self, folder: str) -> list[str]:
        """The files in a folder, but for what would lie outside of it here, and what was cut off."""
        self._store.invalidate_cache()
        found = self._store.find(f"{self._root}/{folder}", detail=True)
        names = [self._named(place) for place, about in found.items() if about.get("type") == "file"]
        return [name for name in names if ".." not in Path(name).parts and _is_kept(Path(name))]

    def _get(self, name: str, file: Path) -> None:
        self._store.get_file(f"{self._root}/{name}", str(file))

    def _put(self, name: str) -> None:
        """An object store has an object whole or not at all. Elsewhere a file gets its name in the end."""
        here, there = str(self.path / name), f"{self._root}/{name}"
        if not self._renames:
            self._store.put_file(here, there)
            return
        folder = there.rpartition("/")[0]
        self._store.makedirs(folder, exist_ok=True)
        written = f"{folder}/.{token_hex(8)}.part"
        try:
            self._store.put_file(here, written)
            if not REPLACING.intersection(_protocols(self._store)):
                self._remove(name)
            self._store.mv(written, there)
        except BaseException:
            with suppress(Exception):
                self._store.rm(written)
            raise

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._store.rm(f"{self._root}/{name}")


def _connected(out: str) -> tuple[Any, str, bool]:
    """The store of an address, the place in it, and whether it gives files other names, as object stores do not."""
    if any(sign in out for sign in PATTERN):
        raise SettingError(f"--out {out} has one of the signs {' '.join(PATTERN)}, which no address here can have.")
    try:
        from fsspec import AbstractFileSystem
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise SettingError(f"--out {out} needs fsspec, which is not installed: pip install fsspec.") from error
    try:
        store, root = url_to_fs(out, skip_instance_cache=True)  # another's connection may be lost
    except ImportError as error:
        raise SettingError(f"--out {out} needs a package, which pip installs: {_said(error)}.") from error
    except ValueError as error:
        raise SettingError(f"--out {out} is no address that fsspec knows: {_said(error)}.") from error
    except Exception as error:  # of the library that connects
        raise FileError(f"{out} cannot be reached: {_said(error)}.") from error
    return store, root.rstrip("/"), type(store).mv is not AbstractFileSystem.mv


def _protocols(store: Any) -> tuple[str, ...]:
    return (store.protocol,) if isinstance(store.protocol, str) else tuple(store.protocol)


def _is_full(error: Exception) -> bool:
    """Say whether a disk is."""
    return isinstance(error, OSError) and error.errno == ENOSPC


def _mark(file: Path) -> tuple:
    """What is another where the file was written anew."""
    about = file.stat()
    return about.st_size, about.st_mtime_ns, about.st_ino


def _is_kept(file: Path) -> bool:
    return file.suffix != ".part"


def _said(error: Exception) -> str:
    return str(error).rstrip(". ") or type(error).__name__
