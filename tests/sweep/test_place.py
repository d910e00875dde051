"""A sweep at an address, as in a folder: the same table, gone on with by another machine, in a store that fails."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from palp_core.errors import FileError
from palp_core.sweep import place, run
from palp_core.sweep.work import CellWorker


@pytest.fixture
def few(jobs) -> Path:
    """Two cells: the base model, and plain training."""
    text = jobs.read_text().replace("  r2: {class_word: robot, individual: 12}\n", "")
    jobs.write_text(text.replace("seeds: [0, 1, 2, 3, 4, 5]", "seeds: [0]"))
    return jobs


@pytest.fixture
def memory(monkeypatch):
    """An address of this process, empty."""
    monkeypatch.setattr(place, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    return "memory://bucket/sweep"


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch) -> Path:
    """Where processes have their folders."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(place.tempfile, "tempdir", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def names(folder: str) -> set[str]:
    """The files at an address, or in a folder."""
    store, root = fsspec.core.url_to_fs(folder)
    return {name[len(root) + 1 :] for name in store.find(root)}


def content(folder: str, name: str) -> bytes:
    return fsspec.open(f"{folder}/{name}").open().read()


def test_at_an_address_there_is_all_that_would_be_in_a_folder(monkeypatch, tmp_path, few, sweep, memory, scratch):
    at = [str(tmp_path / "out"), memory, f"file://{tmp_path}/served"]
    for out in at:
        assert sweep(few, out, "--state-seconds", 0) is None
    assert names(at[0]) == names(at[1]) == names(at[2]) and "photos/tom/1.png" in names(memory)
    for name in ("table.csv", "table.jsonl", "pictures.csv", "photos/class_words.csv"):
        assert content(at[0], name) == content(at[1], name) == content(at[2], name)
    assert not any(scratch.iterdir())
    monkeypatch.setattr(CellWorker, "__init__", lambda *_: pytest.fail("loaded a model"))
    for out in at[1:]:
        table = content(out, "table.csv")
        assert sweep(few, out) is None
        assert content(out, "table.csv") == table


class Gone(BaseException):
    """A process that is killed."""


def killed(patch) -> None:
    """Nothing is pushed any more."""
    patch.setattr(place.Mirror, "push", lambda mirror: None)
    raise Gone


def test_another_machine_goes_on_from_what_is_there(monkeypatch, tmp_path, few, sweep, at_step, memory, scratch):
    changes = ("--set", "pictures.at=[1]", "settings.steps=4")
    with monkeypatch.context() as patch, pytest.raises(Gone):
        at_step(3, lambda: killed(patch))
        sweep(few, memory, "--state-seconds", 0, *changes)
    assert not any(scratch.iterdir())
    pushed = names(memory)
    assert sum(name.endswith("training_00001/state.safetensors") for name in pushed) == 1
    assert sum("rows_" in name for name in pushed) == 1  # the base model's
    taken = at_step(1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert sweep(few, memory, *changes) == 143
    assert sweep(few, memory, *changes) is None
    assert taken == [2, 3]
    assert sweep(few, tmp_path / "out", *changes) is None
    assert content(memory, "table.csv") == (tmp_path / "out/table.csv").read_bytes()
    assert not any(name.endswith("state.safetensors") for name in names(memory))


UNREACHED = OSError("no route to host")


def failing(monkeypatch, part: str, times: int, error: Exception = UNREACHED) -> list[str]:
    """Let the store fail to take files with this in their names; returns what it was asked to take."""
    put, asked = MemoryFileSystem.put_file, []

    def or_fail(store, here, there, **options):
        asked.append(there)
        if part in there and sum(part in one for one in asked) <= times:
            raise error
        return put(store, here, there, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", or_fail)
    return asked


def test_a_store_that_fails_for_a_moment_is_asked_again(monkeypatch, capsys, few, sweep, memory, scratch):
    tries = len(place.PAUSES) + 1
    with monkeypatch.context() as patch:
        asked = failing(patch, "palp_00001.safetensors", tries)
        assert sweep(few, memory) == "palp: 1 of 2 cells failed; the same command tries them again."
    assert "no route to host. What is not there is in " in (told := capsys.readouterr().err)
    (kept,) = scratch.iterdir()
    assert str(kept) in told and list(kept.glob("cells/*/palp_00001.safetensors"))
    assert not [name for name in asked if "rows" in name][1:]  # the base model's alone
    asked = failing(monkeypatch, "palp_00001.safetensors", tries - 1)
    assert sweep(few, memory) is None
    assert sum("palp_00001" in name for name in asked) == tries
    of_cell = [name for name in asked if "/cells/" in name]
    assert "rows" in of_cell[-1] and not any("rows" in name for name in of_cell[:-1])


def test_what_cannot_be_written_to_is_told_before_anything_is_trained(monkeypatch, few, sweep, memory, scratch):
    monkeypatch.setattr(CellWorker, "__init__", lambda *_: pytest.fail("loaded a model"))
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert "needs a package, which pip installs: Install s3fs" in str(sweep(few, "s3://bucket/sweep"))
    assert "--out nowhere://sweep is no address that fsspec knows" in str(sweep(few, "nowhere://sweep"))
    assert "has one of the signs" in str(sweep(few, "memory://sweep*"))
    asked = failing(monkeypatch, "", 10, PermissionError("access denied"))
    assert "memory://bucket/sweep cannot be written to: access denied" in str(sweep(few, memory))
    assert len(asked) == 1
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "cat_file", lambda *_, **__: (_ for _ in ()).throw(UNREACHED))
        assert "memory://bucket/sweep cannot be read: no route to host" in str(sweep(few, memory))
    assert not any(scratch.iterdir())


def test_nothing_is_written_outside_of_the_folder(memory):
    for name in ("cells/a/cell.json", "cells/a/../../../../evil", "cells/a/.1234.part"):
        fsspec.filesystem("memory").store[f"/bucket/sweep/{name}"] = MemoryFile(data=b"x")
    with place.opened(memory) as mirror:
        mirror.pull(mirror.path / "cells")
        assert [file.name for file in mirror.path.parent.rglob("*") if file.is_file()] == ["cell.json"]


def stored(**files: bytes) -> None:
    """Put files into the store, `/` written as two underscores."""
    for name, data in files.items():
        place_there = f"/bucket/sweep/{name.replace('__', '/')}"
        MemoryFileSystem.store[place_there] = MemoryFile(path=place_there, data=data)


def test_what_is_there_outlives_a_store_that_does_not_take_the_table(monkeypatch, memory, scratch):
    stored(cells__a__rows_1=b"[]")
    with place.opened(memory) as mirror:
        mirror.fetch([mirror.path / "cells/a/rows_1"])
        (mirror.path / "table.csv").write_text("table")
        with monkeypatch.context() as patch, pytest.raises(FileError, match="cannot be written to"):
            failing(patch, "", 10)
            mirror.push()
        (mirror.path / "table.csv").write_text("later")
        for left in mirror.path.glob("cells/*/*"):  # as what keeps TMPDIR clean does
            left.unlink()
        mirror.push()
    assert names(memory) == {"cells/a/rows_1", "table.csv"} and content(memory, "table.csv") == b"later"
    assert not any(scratch.iterdir())


@pytest.mark.parametrize("bring", ["fetch", "pull"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_half_of_a_file_is_never_pushed(monkeypatch, memory, scratch, bring, error):
    stored(cells__a__rows_1=b"[1, 2, 3]")

    def cut_off(file: Path, *_, **__) -> None:
        with Path(file).open("wb") as opened:
            opened.write(b"[1")
        raise error

    monkeypatch.setattr(Path, "write_bytes", cut_off)
    monkeypatch.setattr(MemoryFileSystem, "get_file", lambda _store, _there, here, **_: cut_off(here))
    with pytest.raises((FileError, KeyboardInterrupt)) as told, place.opened(memory) as mirror:
        mirror.fetch([mirror.path / "cells/a/rows_1"]) if bring == "fetch" else mirror.pull(mirror.path / "cells/a")
    assert content(memory, "cells/a/rows_1") == b"[1, 2, 3]"
    if isinstance(error, OSError):
        assert f"No space left on device. {scratch} is full: set TMPDIR to another folder." in str(told.value)
        assert not any(scratch.iterdir())


def test_a_store_whose_names_are_taken_once_has_the_last_of_a_file(monkeypatch, memory):
    def mv(store, old, new, **_):  # as of SMB and HDFS, of which the latter does not even say so
        if new not in store.store:
            store.store[new] = store.store.pop(old)

    monkeypatch.setattr(MemoryFileSystem, "mv", mv, raising=False)
    with place.opened(memory) as mirror:
        for text in ("first", "second"):
            (mirror.path / "table.csv").write_text(text)
            mirror.push()
    assert content(memory, "table.csv") == b"second" and names(memory) == {"table.csv"}


def test_a_table_that_cannot_be_written_on_the_way_is_written_in_the_end(monkeypatch, capsys, few, sweep, memory):
    monkeypatch.setattr(run, "SECONDS_BETWEEN_TABLES", 0.0)
    put, tables = MemoryFileSystem.put_file, []

    def or_fail(store, here, there, **options):
        if there.endswith("table.csv"):
            tables.append(there)
            if 2 <= len(tables) <= 1 + len(place.PAUSES) + 1:
                raise UNREACHED
        return put(store, here, there, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", or_fail)
    assert sweep(few, memory) is None
    assert "the table is written later: memory://bucket/sweep cannot be written to: no route" in capsys.readouterr().err
    assert content(memory, "table.csv").count(b"\n") == 3
    assert len([name for name in names(memory) if "rows_" in name]) == 2
