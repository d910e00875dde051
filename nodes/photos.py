"""PALP Photos: all photos of a folder, and the masks and captions beside them, in one step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io
from torch import Tensor

from ..palp_core.errors import FileError
from ..palp_core.files.images import read_image, read_mask
from ..palp_core.files.photos import Photos, find_photos
from ..palp_core.models.wording import counted
from .host.progress import show_text
from .widgets import CATEGORY

#: Photos that come with the pack, under the name that the list of folders has for them.
EXAMPLES = {
    f"example: {folder.name}": folder
    for folder in sorted(Path(__file__).with_name("example_photos").iterdir())
    if folder.is_dir()
}


class PalpPhotos(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PALP_Photos",
            display_name="PALP Photos",
            category=CATEGORY,
            description=(
                "Loads all photos of a folder, as phones and tools leave it: turned as the camera was held, with masks "
                "(a-masklabel.png for a.jpg) and captions (a.txt) beside them. Make a folder in ComfyUI's input "
                "folder, and press R."
            ),
            search_aliases=["palp", "load images from folder", "dataset", "photos", "load image batch"],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=[*EXAMPLES, *_folders()],
                    tooltip="Names a folder in ComfyUI's input folder, or example photos that come with PALP.",
                )
            ],
            outputs=[
                io.Image.Output(
                    display_name="images",
                    is_output_list=True,
                    tooltip="Are the photos, in the order of their names: one link brings all.",
                ),
                io.Mask.Output(
                    display_name="masks",
                    is_output_list=True,
                    tooltip="Are the photos' masks, all white for a photo without; none where no photo has one.",
                ),
                io.String.Output(
                    display_name="captions",
                    is_output_list=True,
                    tooltip="Are what a.txt or a.caption says of a.jpg beside it; none where no photo has one.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, folder):
        found = find_photos([_path(folder)])
        images = [read_image(path)[None] for path in found.images]
        captions = found.read_captions()
        show_text(cls.hidden.unique_id, " ".join([_counted(found), *found.notes]))
        return io.NodeOutput(images, _masks(found, images), list(captions))

    @classmethod
    def fingerprint_inputs(cls, folder):
        """Run again when a file of the folder is another. A folder that is linked is not known yet: None."""
        return folder and sorted((str(file), file.stat().st_mtime_ns) for file in _path(folder).rglob("*"))


def _counted(found: Photos) -> str:
    """Say how many photos there are, and how many have a mask or a caption beside them."""
    beside = {"a mask": found.masks, "a caption": found.captions}
    counts = [f"{sum(map(bool, files))} with {name}" for name, files in beside.items() if any(files)]
    return ", ".join([counted(len(found.images), "photo"), *counts]) + "."


def _masks(found: Photos, images: list[Tensor]) -> list[Tensor]:
    """(1, H, W) for each image, or nothing."""
    if not found.masked:
        return []
    pairs = zip(found.masks, images, strict=True)
    return [torch.ones(image.shape[:3]) if mask is None else read_mask(mask)[None] for mask, image in pairs]


def _folders() -> list[str]:
    """The folders in the host's input folder, and those in them, by their names from there."""
    return sorted(_walked(folder_paths.get_input_directory()))


def _walked(parent: str) -> Iterator[str]:
    for path, folders, _ in os.walk(parent):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.relpath(os.path.join(path, name), parent).replace(os.sep, "/") for name in folders)


def _path(folder: str) -> Path:
    """Raises FileError for a name that leads out of the host's input folder."""
    if folder in EXAMPLES:
        return EXAMPLES[folder]
    parent = Path(folder_paths.get_input_directory()).resolve()
    path = (parent / folder).resolve()
    if not path.is_relative_to(parent):
        raise FileError(f"folder {folder} does not lie in ComfyUI's input folder. Choose one of the list.")
    return path
