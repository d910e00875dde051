"""Pictures as users have them: of any kind that Pillow reads, and some that are broken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from devtools.faults.seams import no_space
from palp_core.files import writing
from palp_core.files.images import read_image, write_image


def test_sixteen_bit_grey_keeps_its_levels(tmp_path):
    levels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(levels).save(tmp_path / "mask.png")
    read = read_image(tmp_path / "mask.png")
    assert read.shape == (8, 8, 3)
    np.testing.assert_allclose(read[..., 0].numpy(), levels / 65535, atol=0.003)


@pytest.mark.parametrize("damage", [b"IDAT", b"IHDR"])
def test_a_damaged_picture_is_named(tmp_path, damage):
    file = tmp_path / "cat.png"
    Image.new("RGB", (64, 64)).save(file)
    file.write_bytes(file.read_bytes().replace(damage, b"\x00\x01\x02\x03"))
    with pytest.raises(ValueError, match=r"cat\.png is not an image that can be read"):
        read_image(file)


def test_a_picture_too_large_to_open_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.new("RGB", (64, 64)).save(tmp_path / "cat.png")
    with pytest.raises(ValueError, match=r"cat\.png is not an image that can be read"):
        read_image(tmp_path / "cat.png")


@pytest.mark.parametrize("moment", ["at the first byte", "in the middle", "at the rename"])
def test_a_picture_that_cannot_be_written_leaves_what_was_there(tmp_path, moment):
    write_image(torch.zeros(4, 4, 3), tmp_path / "loss.png")
    before = (tmp_path / "loss.png").read_bytes()
    with no_space(writing, moment), pytest.raises(OSError, match="No space left"):
        write_image(torch.ones(4, 4, 3), tmp_path / "loss.png")
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]
    assert (tmp_path / "loss.png").read_bytes() == before
    assert read_image(tmp_path / "loss.png").shape == (4, 4, 3)
