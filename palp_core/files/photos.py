"""Photos as phones and tools leave them in a folder: with masks, captions and files of the system beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileError
from .images import INSTALL_HEIF, is_heif, is_picture

#: What the system puts beside pictures; so are all files whose name begins with a dot.
OF_THE_SYSTEM = ("thumbs.db", "ehthumbs.db", "desktop.ini")
CAPTIONS = (".txt", ".caption")
MOST_CAPTION = 4000  # letters
#: Of a file with such a suffix that cannot be read it is said so: it was meant.
MEANT = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
#: NAME-masklabel.png is OneTrainer's mask of NAME.jpg, NAME-condlabel.png a picture that is not learned.
MASK = re.compile(r"(.+)(-masklabel|[-_.]mask)", re.IGNORECASE)
CONDITION = re.compile(r".+-condlabel", re.IGNORECASE)
#: kohya's folders: how often a picture is repeated, and a name.
KOHYA = re.compile(r"(\d+)_.+")
MOST_NAMED = 20


@dataclass(frozen=True)
class Photos:
    """Which pictures are learned from."""

    images: tuple[Path, ...]
    #: One for each image, None where it has none.
    masks: tuple[Path | None, ...]
    #: One for each image, a text file that describes it, None where it has none.
    captions: tuple[Path | None, ...]
    #: What is to be said of the folders, in sentences: what is left out, and why.
    notes: tuple[str, ...]

    @property
    def masked(self) -> bool:
        """Whether a mask lies beside any of them."""
        return any(self.masks)

    def read_captions(self) -> tuple[str, ...]:
        """Read the caption of each image, "" where it has none; nothing where none has. Raises FileError."""
        return tuple(read_caption(file) if file else "" for file in self.captions) if any(self.captions) else ()


def find_photos(paths: Sequence[Path]) -> Photos:
    """Find the pictures among files and in folders, in the order of their names, and mask and caption beside each.

    Raises FileError where there are none.
    """
    notes: list[str] = []
    found = {file: _why_left_out(file, file in paths) for file in _files(paths, notes)}
    pictures = [file for file, reason in found.items() if reason is None]
    called = {file: _pictures_of_mask(file, pictures, file in paths) for file in pictures}
    masks = {file: whose for file, whose in called.items() if whose is not None}
    images = tuple(file for file in pictures if file not in masks)
    captions, unused = _captions(found, images)
    left_out = {file: reason for file, reason in found.items() if reason is not None and file not in captions}
    left_out |= {file: "a mask without its picture" for file, whose in masks.items() if not whose} | unused
    if left_out:
        notes.append(f"left out: {_listed(left_out)}.")
    if not images:
        raise FileError(" ".join([f"there are no pictures in {', '.join(map(str, paths))}.", *notes]))
    mask_of = {image: mask for mask, whose in masks.items() for image in whose}
    return Photos(images, tuple(map(mask_of.get, images)), captions, tuple(notes))


def _captions(files: Iterable[Path], images: Sequence[Path]) -> tuple[tuple[Path | None, ...], dict[Path, str]]:
    """Return the caption of each image, beside which it lies under its name, and why other captions are left out."""
    captions = [file for file in files if _is_caption(file)]
    beside = {(file.parent, file.stem.lower()): file for file in reversed(captions)}
    used = tuple(beside.get((image.parent, image.stem.lower())) for image in images)
    pictures = {(image.parent, image.stem.lower()) for image in images}
    reasons = {True: "its picture has another", False: "captions without their picture"}
    unused = [file for file in captions if file not in used]
    return used, {file: reasons[(file.parent, file.stem.lower()) in pictures] for file in unused}


def read_caption(file: Path) -> str:
    """Read what a text file says, in one line. Raises FileError for one that is no text, or has too much of it."""
    try:
        text = file.read_bytes()[: MOST_CAPTION + 1].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"caption {file} is not a text in UTF-8. Save it as such, or remove it.") from error
    if len(text) > MOST_CAPTION:
        raise FileError(f"caption {file} has more than {MOST_CAPTION} letters. Shorten it, or remove it.")
    return " ".join(text.split())


def find_masks(paths: Sequence[Path]) -> list[Path]:
    """Find the masks among files and in folders, in the order of their names. Raises FileError where there are none."""
    found = [file for file in _files(paths, []) if _why_left_out(file, file in paths) is None]
    if not found:
        raise FileError(f"there are no masks in {', '.join(map(str, paths))}.")
    return found


def masks_by_name(images: Sequence[Path], paths: Sequence[Path]) -> tuple[tuple[Path | None, ...], tuple[str, ...]]:
    """Find the mask of each image among files and in folders: a.png or a-masklabel.png is that of a.jpg.

    Returns one for each image, None where it has none, and what is to be said of the others, in sentences. Raises
    FileError where no image has one.
    """
    mask_of: dict[Path, Path] = {}
    left_out: dict[Path, str] = {}
    for file in find_masks(paths):
        called = MASK.fullmatch(file.stem)
        names = {file.stem.lower(), called[1].lower() if called else ""}
        whose = [image for image in images if image.stem.lower() in names]
        if file in images:
            continue
        if not whose:
            left_out[file] = "no photo of its name"
        elif any(image in mask_of for image in whose):
            left_out[file] = "its photo has another"
        mask_of = {**dict.fromkeys(whose, file), **mask_of}
    if not mask_of:
        raise FileError(
            f"no mask in {', '.join(map(str, paths))} is called as a photo. a.png or a-masklabel.png is the mask of "
            "a.jpg: name them so, or list the masks as files, in the photos' order."
        )
    return tuple(map(mask_of.get, images)), (f"masks left out: {_listed(left_out)}.",) if left_out else ()


def _files(paths: Sequence[Path], notes: list[str]) -> list[Path]:
    """All files that are named, or lie in a folder that is, each once. Raises FileError for one that is not there."""
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise FileError(f"there is no image {path}.")
        files += _in_folder(path, notes) if path.is_dir() else [path]
    return list(dict.fromkeys(files))


def _in_folder(folder: Path, notes: list[str]) -> Iterator[Path]:
    """All that lies in a folder, and in kohya's folders in it, of which a note is made."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (repeated := KOHYA.fullmatch(path.name)):
            times = f"that its pictures are repeated {repeated[1]} times is not heeded"
            notes.append(f"{path.name} is read as a folder of kohya's; {times}.")
            yield from sorted(path.iterdir())
        else:
            yield path


def _why_left_out(file: Path, named: bool) -> str | None:
    """Return why a file is no picture to learn from, which may be plain (""); None where it is one.

    named: whether the user has named it, and not its folder; what cannot be read is an error then.
    """
    if file.is_dir():
        return "a folder"
    if file.name.startswith(".") or file.name.lower() in OF_THE_SYSTEM:
        return ""
    if file.suffix.lower() in CAPTIONS:
        return ""
    if CONDITION.fullmatch(file.stem):
        return "not a photo"
    if named or is_picture(file):
        return None
    if is_heif(file):
        return INSTALL_HEIF
    return None if file.suffix.lower() in MEANT else ""


def _is_caption(file: Path) -> bool:
    return file.is_file() and file.suffix.lower() in CAPTIONS and not file.name.startswith(".")


def _pictures_of_mask(file: Path, pictures: Sequence[Path], named: bool) -> list[Path] | None:
    """Return the pictures that a file is the mask of, beside which it lies; None where it is a photo itself.

    A file that is called as a mask and has no picture is a photo only where the user has named it.
    """
    if not (called := MASK.fullmatch(file.stem)):
        return None
    whose = [p for p in pictures if p.parent == file.parent and p.stem.lower() == called[1].lower()]
    return whose or (None if named else [])


def _listed(left_out: dict[Path, str]) -> str:
    """Name files in one line, each reason once, behind the files that it is true of."""
    groups: dict[str, list[str]] = {}
    for file, reason in left_out.items():
        groups.setdefault(reason, []).append(file.name)
    return ", ".join(listed(names) + (f" ({reason})" if reason else "") for reason, names in groups.items())


def listed(names: Sequence[str]) -> str:
    """Name files, and of many the first ones."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
