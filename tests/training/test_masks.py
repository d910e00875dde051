"""Masks as users have them: inverted by ComfyUI's Load Image, white or black all over, in the alpha of a picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from devtools.random_models import pictures
from palp_core import Concept, Subject
from palp_core.training.data import check_images_and_masks
from palp_core.training.masks import GREY, looks_inverted

(PHOTO,) = pictures((64, 80))


def shape(top: int = 16, bottom: int = 48, left: int = 20, right: int = 60) -> torch.Tensor:
    """A subject, white on black, (64, 80)."""
    mask = torch.zeros(64, 80)
    mask[top:bottom, left:right] = 1
    return mask


def bicycle() -> torch.Tensor:
    """Thin: two rings, of which little is white."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(80), indexing="ij")
    rings = [((y - 34) ** 2 + (x - at) ** 2).sqrt() for at in (24, 56)]
    return sum(((ring > 8) & (ring < 15)).float() for ring in rings).clamp(max=1)


@pytest.mark.parametrize(
    "subject", [shape(), shape(bottom=64), shape(left=0), shape(8, 56, 8, 72), bicycle(), shape(0, 64, 30, 50)]
)
def test_the_background_of_a_cut_out_picture_is_told_from_its_subject(subject):
    assert looks_inverted(1 - subject) and not looks_inverted(subject)


@pytest.mark.parametrize(
    "mask",
    [torch.ones(64, 80), torch.full((64, 80), 0.5), torch.zeros(64, 80), 1 - shape(0, 20, 0, 20), shape(0, 64, 0, 70)],
)
def test_masks_that_mean_what_they_say_are_left(mask):
    """White all over, a subject that fills its picture, and one beside a watermark."""
    assert not looks_inverted(mask)


@pytest.mark.parametrize(("make", "owner"), [(Subject, r"\[V\]"), (Concept, "the concept")])
def test_an_inverted_mask_is_taken_as_it_is_meant_and_named(make, owner, caplog):
    made = make((PHOTO, PHOTO), "cat", masks=(shape(), 1 - shape()))
    assert torch.equal(made.masks[0], shape()) and torch.equal(made.masks[1], shape())
    (note,) = made.notes
    assert note.startswith(f"mask 2 of {owner.replace(chr(92), '')} is white all round") and "inverted" in note
    assert note in caplog.text


def test_a_mask_that_is_white_everywhere_is_named(caplog):
    made = Subject((PHOTO,), "cat", masks=(torch.ones(64, 80),))
    (note,) = made.notes
    assert note.startswith("mask 1 of [V] is white everywhere") and note in caplog.text


def test_a_mask_that_may_be_inverted_is_left_and_named():
    """A small subject in a corner, or a face that is not to be learned."""
    made = Subject((PHOTO,), "cat", masks=(1 - shape(8, 28, 8, 24),))
    assert torch.equal(made.masks[0], 1 - shape(8, 28, 8, 24))
    (note,) = made.notes
    assert note.startswith("mask 1 of [V] is white along its whole border. Invert it if")


def test_a_mask_that_is_black_everywhere_is_named_with_where_it_comes_from():
    with pytest.raises(ValueError, match=r"mask 1 of \[V\] is all black.*Load Image"):
        Subject((PHOTO,), "cat", masks=(torch.zeros(64, 64),))


def cut_out() -> torch.Tensor:
    """(64, 80, 4), with bright colors hidden under what is transparent."""
    hidden = torch.where(shape()[..., None] > 0, PHOTO, 1.0)
    return torch.cat([hidden, shape()[..., None]], dim=-1)


@pytest.mark.parametrize("make", [Subject, Concept])
def test_the_alpha_of_a_picture_is_its_mask_and_what_it_hides_is_grey(make):
    made = make((PHOTO, cut_out()), "cat")
    assert torch.equal(made.masks[0], torch.ones(64, 80)) and torch.equal(made.masks[1], shape())
    assert made.images[1].shape == (64, 80, 3) and torch.equal(made.images[0], PHOTO)
    assert (made.images[1][shape() == 0] == GREY).all()
    assert torch.equal(made.images[1][shape() > 0], PHOTO[shape() > 0])
    assert made.notes == ()


def test_a_mask_that_is_given_goes_before_the_alpha():
    other = shape(30, 50, 30, 50)
    made = Subject((cut_out(), cut_out()), "cat", masks=(other, None))
    assert torch.equal(made.masks[0], other) and torch.equal(made.masks[1], shape())
    assert (made.images[0][shape() == 0] == GREY).all()


def test_opaque_and_empty_pictures_with_alpha():
    opaque = torch.cat([PHOTO, torch.ones(64, 80, 1)], dim=-1)
    assert Subject((opaque,), "cat").masks == ()
    with pytest.raises(ValueError, match=r"the alpha of image 1 of \[V\] is all black"):
        Subject((torch.cat([PHOTO, torch.zeros(64, 80, 1)], dim=-1),), "cat")


def test_masks_that_are_said_to_be_inverted_are_not_guessed_about():
    """Neither one that looks inverted and is not, nor the small black one that the host makes of an opaque picture."""
    image, disc = torch.rand(64, 64, 3), torch.zeros(64, 64)
    disc[16:48, 16:48] = 1
    for given, wanted in ((disc, 1 - disc), (1 - disc, disc), (torch.zeros(8, 8), torch.ones(64, 64))):
        found = check_images_and_masks("[V]", [image], [given], invert=True)
        assert torch.equal(found.masks[0], wanted) and found.notes == ()
    with pytest.raises(ValueError, match=r"mask 1 of \[V\], inverted, is all black"):
        check_images_and_masks("[V]", [image], [torch.ones(64, 64)], invert=True)
    alpha = torch.cat([image, disc[..., None]], dim=-1)
    assert torch.equal(check_images_and_masks("[V]", [alpha], [None], invert=True).masks[0], disc)


def test_subjects_and_concepts_invert_their_masks_once():
    image, thin = torch.rand(64, 64, 3), torch.zeros(64, 64)
    thin[:32] = 1
    for made in (
        Subject((image,), "cat", masks=(1 - thin,), invert_masks=True),
        Concept((image,), "cat", masks=(1 - thin,), invert_masks=True),
    ):
        assert torch.equal(made.masks[0], thin)
        assert torch.equal(replace(made).masks[0], thin)
