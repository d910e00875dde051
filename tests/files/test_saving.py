"""Saving while others save: nothing is lost or half written, and what a killed save leaves is in no one's way."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path

import pytest
from safetensors import safe_open

from devtools.random_files import random_lora_file, random_word_file
from palp_core import load_embedding, load_lora_file
from palp_core.files import writing
from palp_core.files.safetensors_file import reserve

pytestmark = pytest.mark.skipif(os.name == "nt", reason="forks processes, and looks at permissions")


def in_processes(count: int, work: Callable[[], list[str]]) -> list[str]:
    """What the work returns in so many processes at the same time, all together; each has to end well."""
    context = get_context("fork")
    said: Queue[list[str]] = context.Queue()
    running = [context.Process(target=lambda: said.put(work())) for _ in range(count)]
    for process in running:
        process.start()
    names = [name for _ in running for name in said.get(timeout=100)]
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0] * count
    return names


def test_what_a_killed_save_left_blocks_no_name(tmp_path):
    for name in ("cat_00001.safetensors.part", "cat.safetensors.part"):
        (tmp_path / name).write_bytes(b"half")
    assert random_lora_file(tmp_path).name == "cat_00001.safetensors"
    assert reserve(tmp_path, "cat", overwrite=False) == "cat"
    assert random_word_file(tmp_path).name == "cat.safetensors"


def test_what_a_killed_save_left_a_day_ago_is_taken_away(tmp_path):
    old, young, other = (tmp_path / name for name in (".1_aa.part", ".2_bb.part", "mine.part"))
    for path in (old, young, other):
        path.write_bytes(b"half")
    two_days = time.time() - 48 * 3600
    for path in (old, other):
        os.utime(path, (two_days, two_days))
    random_word_file(tmp_path)
    assert not old.exists() and young.exists() and other.exists()


def test_a_save_that_is_killed_leaves_no_file_of_that_name(tmp_path, monkeypatch):
    def killed(path, _content) -> None:
        path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(writing, "fill", killed)
    process = get_context("fork").Process(target=random_word_file, args=(tmp_path,))
    process.start()
    process.join()
    monkeypatch.undo()
    assert process.exitcode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) and list(tmp_path.glob("*.safetensors")) == []
    assert random_word_file(tmp_path).name == "cat.safetensors"


def test_two_processes_that_overwrite_one_word_never_fail(tmp_path):
    in_processes(2, lambda: [random_word_file(tmp_path, overwrite=True).name for _ in range(150)])
    assert [path.name for path in tmp_path.iterdir()] == ["cat.safetensors"]
    load_embedding(tmp_path / "cat.safetensors")


@pytest.mark.parametrize("links", [True, False])
def test_processes_that_save_under_one_name_get_a_number_each(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(writing, "link", no_links)
    names = in_processes(3, lambda: [random_lora_file(tmp_path).name for _ in range(20)])
    assert len(set(names)) == 60 == len(list(tmp_path.iterdir()))
    for name in names:
        file, stem = load_lora_file(tmp_path / name), Path(name).stem
        assert list(file.words) == [stem] and file.info.prompt == f"a sketch of embedding:{stem} in Paris"


def no_links(written, file) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_where_there_are_no_links_a_name_is_still_claimed_once(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "link", no_links)
    assert [random_word_file(tmp_path).name for _ in range(2)] == ["cat.safetensors", "cat_2.safetensors"]
    assert {path.name for path in tmp_path.iterdir()} == {"cat.safetensors", "cat_2.safetensors"}
    load_embedding(tmp_path / "cat_2.safetensors")


@pytest.mark.parametrize("name", ["cat.safetensors", "cat_2.safetensors"])
def test_a_file_that_appears_while_a_word_is_written_is_not_replaced(tmp_path, monkeypatch, name):
    """Another program's: it knows nothing of our claims."""
    fill, theirs = writing.fill, tmp_path / name
    if name == "cat_2.safetensors":
        (tmp_path / "cat.safetensors").write_bytes(b"first")

    def meanwhile(path, content) -> None:
        fill(path, content)
        if not theirs.exists():
            theirs.write_bytes(b"theirs")

    monkeypatch.setattr(writing, "fill", meanwhile)
    path = random_word_file(tmp_path)
    assert theirs.read_bytes() == b"theirs" and path != theirs
    with safe_open(path, "pt") as file:
        assert file.metadata()["modelspec.title"] == path.stem


def test_a_saved_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "new").touch()
    for path in (random_word_file(tmp_path), random_word_file(tmp_path, overwrite=True), random_lora_file(tmp_path)):
        assert path.stat().st_mode == (tmp_path / "new").stat().st_mode


def test_a_file_that_is_open_elsewhere_is_replaced_once_it_is_free(tmp_path, monkeypatch):
    """Windows refuses to replace a file while another process has it open, which lasts for a moment."""
    path, refusals = random_word_file(tmp_path), [PermissionError(13, "in use")] * 3
    replace = writing.replace

    def busy(written, file) -> None:
        if refusals:
            raise refusals.pop()
        replace(written, file)

    monkeypatch.setattr(writing, "replace", busy)
    assert random_word_file(tmp_path, overwrite=True) == path
    assert not refusals and [found.name for found in tmp_path.iterdir()] == ["cat.safetensors"]
