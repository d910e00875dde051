"""Folders of photos as phones and tools leave them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from palp_core.files.images import read_image, read_mask
from palp_core.files.photos import find_masks, find_photos

#: How a HEIC of a phone begins.
HEIC = b"\0\0\0\x28ftypheic\0\0\0\0mif1heic" + bytes(40)


def put(folder: Path, *names: str) -> None:
    """Write files of these names: pictures where the name is that of one, else a few bytes."""
    folder.mkdir(exist_ok=True, parents=True)
    for name in names:
        path = folder / name
        if path.suffix.lower() in (".jpg", ".png", ".tif", ".gif", ".webp") and not name.startswith("."):
            Image.new("RGB", (20, 16), "red").save(path)
        else:
            path.write_bytes(HEIC if path.suffix.lower() == ".heic" else b"\0\1\2\3 Mac OS X")


def names(paths) -> list[str | None]:
    return [path and path.name for path in paths]


def test_what_phones_and_systems_leave_is_passed_over_and_listed_in_one_line(tmp_path):
    put(tmp_path, "a.jpg", "._a.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", "IMG_1.MOV", "b.PNG".lower(), "c.tif")
    found = find_photos([tmp_path])
    assert names(found.images) == ["a.jpg", "b.png", "c.tif"] and not found.masked
    (note,) = found.notes
    assert note == "left out: .DS_Store, ._a.jpg, IMG_1.MOV, Thumbs.db, desktop.ini."


def test_a_picture_is_one_by_its_content(tmp_path):
    put(tmp_path, "a.jpg")
    Image.new("RGB", (20, 16)).save(tmp_path / "b.jpeg", "TIFF")
    Image.new("RGB", (20, 16)).save(tmp_path / "c", "PNG")
    Image.new("RGB", (20, 16)).save(tmp_path / "d.eps")
    found = find_photos([tmp_path])
    assert names(found.images) == ["a.jpg", "b.jpeg", "c"] and found.notes == ("left out: d.eps.",)
    (tmp_path / "cut_off.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:12])
    with pytest.raises(ValueError, match=r"cut_off\.jpg is not an image that can be read"):
        [read_image(image) for image in find_photos([tmp_path]).images]


def test_a_heic_is_named_with_the_remedy_where_pillow_heif_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    put(tmp_path, "a.jpg", "b.HEIC", "Thumbs.db")
    (tmp_path / "c.jpg").write_bytes(HEIC)  # as some phones send it
    found = find_photos([tmp_path])
    assert names(found.images) == ["a.jpg"]
    assert found.notes == ("left out: Thumbs.db, b.HEIC, c.jpg (install pillow-heif).",)
    with pytest.raises(ValueError, match=r"b\.HEIC is HEIC, which needs pillow-heif: pip install pillow-heif"):
        read_image(tmp_path / "b.HEIC")
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(ValueError, match=r"there are no pictures in .*install pillow-heif"):
        find_photos([tmp_path])


def test_a_heic_is_read_where_pillow_heif_is_installed(tmp_path):
    picture = pillow_heif.from_pillow(Image.new("RGB", (64, 48), "red"))
    picture.save(tmp_path / "a.HEIC")
    (image,) = find_photos([tmp_path]).images
    assert read_image(image).shape == (48, 64, 3) and read_image(image)[..., 0].mean() > 0.9


def test_captions_belong_to_the_pictures_beside_them(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg")
    put(tmp_path / "10_c", "d.jpg")
    (tmp_path / "a.txt").write_text("\ufeffa cat\non a sofa \n", encoding="utf-8")
    (tmp_path / "10_c/d.caption").write_text("un chat, été", encoding="utf-8")
    (tmp_path / "readme.txt").write_text("mine")
    found = find_photos([tmp_path])
    assert dict(zip(names(found.images), found.read_captions(), strict=True)) == {
        "d.jpg": "un chat, été",
        "a.jpg": "a cat on a sofa",
        "b.jpg": "",
    }
    assert found.notes[-1] == "left out: readme.txt (captions without their picture)."
    (tmp_path / "a.txt").write_bytes(b"\xff\xfea\0")
    with pytest.raises(ValueError, match=r"a\.txt is not a text in UTF-8. Save it as such, or remove it"):
        found.read_captions()


def test_masks_of_tools_belong_to_their_pictures(tmp_path):
    put(tmp_path, "a.jpg", "a-masklabel.png", "b.jpg", "b_mask.png", "c.jpg", "c.mask.png", "d.jpg", "a-condlabel.png")
    put(tmp_path, "e_mask.png")
    found = find_photos([tmp_path])
    assert names(found.images) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert names(found.masks) == ["a-masklabel.png", "b_mask.png", "c.mask.png", None]
    assert found.notes == ("left out: a-condlabel.png (not a photo), e_mask.png (a mask without its picture).",)
    globbed = find_photos(sorted(tmp_path.iterdir()))
    assert (names(globbed.images[:4]), names(globbed.masks[:4])) == (names(found.images), names(found.masks))
    assert names(find_photos([tmp_path / "e_mask.png"]).images) == ["e_mask.png"]  # a photo of a mask


def test_of_two_captions_the_first_is_read_and_that_is_said(tmp_path):
    put(tmp_path, "a.jpg", "a.txt", "b.jpg", "b.caption", "b.txt")
    found = find_photos([tmp_path])
    assert names(found.captions) == ["a.txt", "b.caption"]
    assert found.notes == ("left out: b.txt (its picture has another).",)


def test_kohyas_folders_are_read_and_others_named(tmp_path):
    put(tmp_path / "10_ohwx cat", "b.jpg", "a.jpg", "a.txt", "a-masklabel.png")
    put(tmp_path / "old", "c.jpg")
    found = find_photos([tmp_path])
    assert names(found.images) == ["a.jpg", "b.jpg"] and names(found.masks) == ["a-masklabel.png", None]
    assert found.notes == (
        "10_ohwx cat is read as a folder of kohya's; that its pictures are repeated 10 times is not heeded.",
        "left out: old (a folder).",
    )
    assert names(found.captions) == ["a.txt", None]


def test_many_files_are_counted(tmp_path):
    put(tmp_path, "a.jpg", *(f"{n:03}.txt" for n in range(50)))
    (note,) = find_photos([tmp_path]).notes
    assert "019.txt and 30 more (captions" in note and "020.txt" not in note


def test_nothing_to_learn_from_is_named(tmp_path):
    put(tmp_path, "Thumbs.db")
    with pytest.raises(ValueError, match=r"there are no pictures in .* left out: Thumbs\.db"):
        find_photos([tmp_path])
    with pytest.raises(ValueError, match="there are no masks in"):
        find_masks([tmp_path])
    with pytest.raises(ValueError, match="there is no image nowhere"):
        find_photos([Path("nowhere")])


def test_a_folder_of_masks_has_files_of_the_system_too(tmp_path):
    put(tmp_path, "a_mask.png", "b-masklabel.png", "Thumbs.db", "._a.png")
    assert names(find_masks([tmp_path])) == ["a_mask.png", "b-masklabel.png"]


def transparent(mode: str) -> Image.Image:
    """(16, 20), opaque on the left, and of a hidden color on the right."""
    picture = Image.new("RGBA", (20, 16), (200, 200, 200, 255))
    picture.paste((255, 0, 0, 0), (10, 0, 20, 16))
    if mode == "P":
        picture = picture.convert("RGB").quantize(4)
        picture.info["transparency"] = picture.getpixel((19, 0))
        return picture
    return picture.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_of_any_kind_is_alpha(tmp_path, mode):
    transparent(mode).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png")
    assert pixels.shape == (16, 20, 4)
    assert (pixels[:, :10, 3] == 1).all() and (pixels[:, 10:, 3] == 0).all()
    mask = read_mask(tmp_path / "a.png")
    assert (mask[:, :10] == 1).all() and (mask[:, 10:] == 0).all()


def test_a_mask_without_transparency_is_how_light_it_is(tmp_path):
    Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").tolist() == [[0, 1]]
    Image.new("RGBA", (20, 16), (255, 255, 255, 255)).save(tmp_path / "b.png")
    assert read_image(tmp_path / "b.png").shape == (16, 20, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_picture_is_turned_as_the_camera_was_held(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    Image.new("RGB", (20, 16), "red").save(tmp_path / f"a.{suffix}", exif=exif)
    assert read_image(tmp_path / f"a.{suffix}").shape == (20, 16, 3)
