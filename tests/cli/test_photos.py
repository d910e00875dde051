"""`palp train` and `palp learn-word` on a folder as phones and tools leave it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from devtools.random_models import pictures, tiny_pipeline
from palp_core.cli import main as cli
from palp_core.cli.options import read_photos


@pytest.fixture
def model(tmp_path) -> Path:
    tiny_pipeline("sd1", tmp_path / "made").save_pretrained(tmp_path / "model", safe_serialization=True)
    return tmp_path / "model"


def write(pixels: torch.Tensor, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray((pixels * 255).byte().numpy()).save(path)


PHOTO, OTHER = pictures((64, 64), (64, 64))
SHAPE = torch.zeros(64, 64)
SHAPE[16:48, 16:48] = 1


def palp(monkeypatch, command: str, model: Path, images: Path, out: Path, *more) -> dict[str, torch.Tensor]:
    """What was learned."""
    shared = ["--model", model, "--images", images, "--out", out, "--steps", 2, "--resolution", 64, *more]
    own = {
        "train": ["--class-word", "cat", "--target-prompt", "a sketch of [V]", "--rank", 2, "--alignment-weight", 0],
        "learn-word": ["--initial-word", "c"],
    }
    monkeypatch.setattr(sys, "argv", ["palp", command, *map(str, [*shared, *own[command]])])
    cli.main()
    return load_file(next(out.glob("*.safetensors")))


@pytest.mark.parametrize("command", ["train", "learn-word"])
def test_masks_beside_photos_are_used_and_what_is_left_out_is_listed(monkeypatch, capsys, tmp_path, model, command):
    plain, tidy, messy, masks = (tmp_path / name for name in ("plain", "tidy", "messy", "masks"))
    for folder in (plain, tidy, messy):
        write(PHOTO, folder / "a.png")
    write(SHAPE, messy / "a-masklabel.png")
    write(1 - SHAPE, masks / "a.png")  # inverted, as ComfyUI has it
    for name in ("._a.png", ".DS_Store", "Thumbs.db", "list.txt"):
        (messy / name).write_bytes(b"\0\1")
    whole = palp(monkeypatch, command, model, plain, tmp_path / "out_plain")
    given = palp(monkeypatch, command, model, tidy, tmp_path / "out_tidy", "--masks", masks)
    assert capsys.readouterr().err.count("left out") == 0
    found = palp(monkeypatch, command, model, messy, tmp_path / "out_messy")
    said = "palp: left out: .DS_Store, ._a.png, Thumbs.db, list.txt (captions without their picture)."
    assert said in capsys.readouterr().err.splitlines()
    assert all(torch.equal(found[key], given[key]) for key in given)
    assert any(not torch.equal(whole[key], given[key]) for key in whole.keys() & given.keys())


def test_masks_are_none_where_there_are_none_beside_a_photo(tmp_path, capsys):
    for name, pixels in (("a.png", PHOTO), ("b.png", OTHER), ("b_mask.png", SHAPE)):
        write(pixels, tmp_path / name)
    images, masks, _ = read_photos((tmp_path,), (), captions=True)
    assert len(images) == 2 and masks[0] is None and torch.equal(masks[1], SHAPE)
    write(SHAPE, tmp_path / "given" / "a.png")
    masks = read_photos((tmp_path,), (tmp_path / "given",), captions=True).masks
    assert len(masks) == 2 and torch.equal(masks[0], SHAPE) and masks[1] is None
    assert "the masks beside the images are left out, because --masks has others." in capsys.readouterr().err


def test_captions_beside_photos_are_read_or_not_and_that_is_said(monkeypatch, capsys, tmp_path, model):
    for name in ("a.png", "b.png"):
        write(PHOTO, tmp_path / "photos" / name)
    (tmp_path / "photos" / "a.txt").write_text("a cat on a sofa")
    read = palp(monkeypatch, "train", model, tmp_path / "photos", tmp_path / "out_read")
    assert "palp: captions of 1 of 2 images read: a.txt." in capsys.readouterr().err.splitlines()
    unread = palp(monkeypatch, "train", model, tmp_path / "photos", tmp_path / "out_unread", "--no-captions")
    assert "palp: captions of 1 of 2 images not read: a.txt." in capsys.readouterr().err.splitlines()
    assert any(not torch.equal(read[key], unread[key]) for key in read.keys() & unread.keys())
    palp(monkeypatch, "learn-word", model, tmp_path / "photos", tmp_path / "out_word")
    assert "palp: captions of 1 of 2 images not read: a.txt." in capsys.readouterr().err.splitlines()


def test_a_cut_out_picture_is_masked_by_its_alpha(monkeypatch, tmp_path, model):
    write(torch.cat([PHOTO, SHAPE[..., None]], dim=-1), tmp_path / "cut_out" / "a.png")
    hidden = torch.where(SHAPE[..., None] > 0, PHOTO, OTHER)
    write(torch.cat([hidden, SHAPE[..., None]], dim=-1), tmp_path / "hidden" / "a.png")
    first, second = (
        palp(monkeypatch, "train", model, tmp_path / name, tmp_path / f"out_{name}") for name in ("cut_out", "hidden")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_what_is_said_of_a_mask_is_a_line_of_the_command(monkeypatch, tmp_path, model, caplog):
    write(PHOTO, tmp_path / "photos" / "a.png")
    write(1 - SHAPE, tmp_path / "photos" / "a_mask.png")
    palp(monkeypatch, "train", model, tmp_path / "photos", tmp_path / "out")
    assert "mask 1 of [V] is white all round" in caplog.text


@pytest.mark.parametrize("command", ["train", "learn-word"])
def test_masks_may_be_said_to_be_inverted(monkeypatch, capsys, tmp_path, model, command):
    half, photos = torch.zeros(64, 64), tmp_path / "photos"
    half[:32] = 1  # of which nothing can be guessed
    write(PHOTO, photos / "a.png")
    write(half, tmp_path / "white" / "a.png")
    write(1 - half, tmp_path / "black" / "a.png")
    white = palp(monkeypatch, command, model, photos, tmp_path / "out_white", "--masks", tmp_path / "white")
    black = ("--masks", tmp_path / "black", "--invert-masks")
    black = palp(monkeypatch, command, model, photos, tmp_path / "out_black", *black)
    assert all(torch.equal(white[key], black[key]) for key in white)


def test_masks_of_a_folder_belong_to_the_photos_of_their_names(capsys, tmp_path):
    """In any order and format; what fits nothing is named, and so is what is learned whole."""
    photos, masks = tmp_path / "photos", tmp_path / "masks"
    for name in ("a.png", "B.png", "c.png", "d.png", "e.png"):
        write(PHOTO, photos / name)
    cut_out = torch.cat([OTHER, SHAPE[..., None]], dim=-1)
    write(cut_out, photos / "f.png")  # its transparency is its mask
    for name in ("d.bmp", "b-masklabel.png", "c_mask.png", "c.webp", "x.png"):
        write(SHAPE, masks / name)
    images, found, _ = read_photos((photos,), (masks,), captions=True)
    assert len(images) == 6 and [mask is not None for mask in found] == [True, False, True, True, False, False]
    assert capsys.readouterr().err.splitlines() == [
        "palp: masks left out: c_mask.png (its photo has another), x.png (no photo of its name).",
        "palp: learned whole, without a mask: a.png, e.png.",
    ]
    with pytest.raises(ValueError, match=r"no mask in .*masks is called as a photo.*a\.png or a-masklabel\.png"):
        read_photos((photos / "a.png",), (masks,), captions=True)
    write(SHAPE, photos / "a_mask.png")
    assert [mask is not None for mask in read_photos((photos,), (photos,), captions=True).masks] == [False, True] + [
        False
    ] * 4


def test_masks_that_are_named_are_taken_in_their_order(tmp_path):
    for name in ("a.png", "b.png"):
        write(PHOTO, tmp_path / name)
    write(SHAPE, tmp_path / "1.png")
    write(1 - SHAPE, tmp_path / "2.png")
    photos, masks = (tmp_path / "a.png", tmp_path / "b.png"), (tmp_path / "2.png", tmp_path / "1.png")
    masks = read_photos(photos, masks, captions=True).masks
    assert [mask[0, 0].item() for mask in masks] == [1, 0]
