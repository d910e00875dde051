"""How a card is laid out: one large picture, or four, with photos and words upon them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

#: Ten pixels for each of the demo world's 64.
SIDE = 640
GAP, EDGE, RADIUS = 10, 8, 22
PAPER, INK, TEAL = (250, 248, 242), (22, 20, 44), (64, 200, 208)
BOLD = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans-Bold.ttf"
FINER = 4  # how much finer round corners are drawn before they are made smaller


def enlarged(picture: Image.Image, side: int) -> Image.Image:
    """Enlarge a picture of 64 pixels: its pixels are what it is made of."""
    whole = -(-side // picture.width) * picture.width
    return picture.resize((whole, whole), Image.NEAREST).resize((side, side), Image.LANCZOS)


def full(picture: Image.Image) -> Image.Image:
    """Let one picture fill the card."""
    return enlarged(picture, SIDE)


def four(pictures: Sequence[Image.Image]) -> Image.Image:
    """Lay out four pictures in two rows, with a light cross between them."""
    image, side = Image.new("RGB", (SIDE, SIDE)), SIDE // 2
    for number, picture in enumerate(pictures):
        row, column = divmod(number, 2)
        image.paste(enlarged(picture, side), (column * side, row * side))
    draw = ImageDraw.Draw(image)
    draw.line([(side, 0), (side, SIDE)], PAPER, GAP)
    draw.line([(0, side), (SIDE, side)], PAPER, GAP)
    return image


def inset(image: Image.Image, picture: Image.Image, left: int, bottom: int, side: int = 192) -> None:
    """Put a photo with a white edge on the card, so far from its left and lower edges."""
    outer = side + 2 * EDGE
    framed = Image.new("RGB", (outer, outer), (255, 255, 255))
    framed.paste(enlarged(picture, side), (EDGE, EDGE))
    at = (left, SIDE - bottom - outer)
    shade = Image.new("L", (outer, outer), 90)
    image.paste(INK, (at[0] + 5, at[1] + 7), _rounded(shade, RADIUS))
    image.paste(framed, at, _rounded(Image.new("L", (outer, outer), 255), RADIUS))


def pill(image: Image.Image, text: str, centre: tuple[int, int], size: int = 36, color=INK, ink=PAPER) -> None:
    """Write a text on a rounded ground."""
    font = ImageFont.truetype(str(BOLD), size)
    ascent, descent = font.getmetrics()
    width, height = round(font.getlength(text) + 1.2 * size), ascent + descent + round(0.35 * size)
    ground = _rounded(Image.new("L", (width, height), 255), height // 2)
    corner = (centre[0] - width // 2, centre[1] - height // 2)
    image.paste(color, corner, ground)
    draw = ImageDraw.Draw(image)
    draw.text(centre, text, ink, font, anchor="mm")


def halves(upper: Image.Image, lower: Image.Image) -> Image.Image:
    """Join two cards along a slanted line, with a light seam."""
    image, slant = upper.copy(), 70
    top, bottom = SIDE // 2 + slant, SIDE // 2 - slant
    mask = Image.new("L", (SIDE, SIDE), 0)
    ImageDraw.Draw(mask).polygon([(top, 0), (SIDE, 0), (SIDE, SIDE), (bottom, SIDE)], fill=255)
    image.paste(lower, mask=mask)
    ImageDraw.Draw(image).line([(top, 0), (bottom, SIDE)], fill=PAPER, width=8)
    return image


def _rounded(mask: Image.Image, radius: int) -> Image.Image:
    """Round the corners of a mask of one value."""
    value = mask.getpixel((0, 0))
    large = Image.new("L", (mask.width * FINER, mask.height * FINER), 0)
    box = (0, 0, large.width - 1, large.height - 1)
    ImageDraw.Draw(large).rounded_rectangle(box, radius * FINER, fill=value)
    return large.resize(mask.size, Image.LANCZOS)
