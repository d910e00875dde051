"""The one way in which a file of ours comes to be: whole under its name, or not at all.

It is filled under a name that no other process has, and is then given its own. `fill`, `link` and `replace` are all
that touches the disk: a test that puts another in their place makes a full disk, or a file system without links.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from time import sleep, time

MOMENTS = (0.02, 0.1, 0.5, 1.0)  # seconds between the tries to replace a file that another process has open

ABANDONED = 24 * 3600  # seconds after which nobody writes to a file any more

#: Writes a file's content to a path.
Content = Callable[[Path], None]


def fill(path: Path, content: Content) -> None:
    """Write the content to a file that is there, and empty."""
    content(path)


def link(written: Path, file: Path) -> None:
    """Give a file a second name. Raises FileExistsError where it is taken, OSError where there are no links."""
    os.link(written, file)


def replace(written: Path, file: Path) -> None:
    """Give a file another name, in place of the file that has it."""
    os.replace(written, file)


def write(file: Path, content: Content) -> None:
    """Write a file, which replaces an earlier one at once and whole."""
    with _filled(file.parent, content) as written:
        _replace_patiently(written, file)


def write_new(file: Path, content: Content) -> bool:
    """Write a file whole, unless one of its name is there in the end; returns whether it was written."""
    with _filled(file.parent, content) as written:
        return _claimed(written, file)


@contextmanager
def _filled(folder: Path, content: Content) -> Iterator[Path]:
    """A file with this content under a name that no other process has, which is gone in the end."""
    written = folder / f".{os.getpid()}_{token_hex(8)}.part"
    _sweep(folder)
    try:
        written.touch(exist_ok=False)
        permissions = written.stat().st_mode  # of any new file; safetensors makes one that nobody else may read
        fill(written, content)
        written.chmod(permissions)
        yield written
    finally:
        written.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Take away what processes left that were killed while they wrote. What is being written now is younger."""
    for left in folder.glob(".*_*.part"):
        with suppress(OSError):  # another process may be quicker
            if time() - left.stat().st_mtime > ABANDONED:
                left.unlink()


def _replace_patiently(written: Path, file: Path) -> None:
    """Windows refuses while another process reads the file, or replaces it: that lasts for a moment."""
    for pause in MOMENTS:
        try:
            return replace(written, file)
        except PermissionError:
            sleep(pause)
    replace(written, file)


def _claimed(written: Path, file: Path) -> bool:
    """Give what is written its final name, unless another process was quicker. There is no moment between."""
    try:
        link(written, file)
    except FileExistsError:
        return False
    except OSError:  # a file system without links, as FAT: the name is taken first, by an empty file
        return _claimed_without_links(written, file)
    return True


def _claimed_without_links(written: Path, file: Path) -> bool:
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    try:
        _replace_patiently(written, file)
    except BaseException:
        file.unlink()
        raise
    return True
