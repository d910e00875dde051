"""Draws the Registry's icon and banner from the demo world's own pictures: `python -m devtools.emblems`."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from palp_core.toyworld.drawing import render
from palp_core.toyworld.scenes import Accessory, Place, Scene, Style, new_individual

DOCS = Path(__file__).parents[1] / "docs"
CAT = new_individual(1, "cat")
JITTER = 3  # where the cat stands, and what else no caption names
FONTS = Path(matplotlib.get_data_path()) / "fonts/ttf"
NIGHT, PAPER, TEAL, GREY = (22, 20, 44), (250, 248, 242), (64, 200, 208), (176, 180, 204)

ICON = 400
FACE = (15, 8, 47, 40)  # of a picture of 64 pixels

BANNER = (1260, 540)
PHOTO, SMALL, LEFT, TOP = 384, 192, 78, 78
SHOWN: tuple[tuple[Style, Accessory | None, Place], ...] = (
    ("sketch", "hat", "beach"),
    ("neon", "balloon", "city"),
    ("watercolor", "scarf", "snow"),
)


def picture(style: Style, accessory: Accessory | None, place: Place | None, side: int) -> Image.Image:
    drawn = Image.fromarray(render(Scene(CAT, style, place, accessory, JITTER)))
    return drawn.resize((side, side), Image.NEAREST)  # its pixels are what it is made of


def rounded(image: Image.Image, radius: int) -> Image.Image:
    """Make the corners transparent."""
    mask = Image.new("L", (image.width * 4, image.height * 4), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, mask.width - 1, mask.height - 1), radius * 4, fill=255)
    image = image.convert("RGBA")
    image.putalpha(mask.resize(image.size, Image.LANCZOS))
    return image


def icon() -> Image.Image:
    """Show one cat's face, half as a photo in a meadow and half as a neon sign."""
    drawn = [picture(style, None, "meadow", 64).crop(FACE) for style in ("photo", "neon")]
    photo, neon = (one.resize((ICON, ICON), Image.NEAREST) for one in drawn)
    half = Image.new("L", (ICON, ICON), 0)
    ImageDraw.Draw(half).polygon([(ICON * 0.62, 0), (ICON, 0), (ICON, ICON), (ICON * 0.38, ICON)], fill=255)
    photo.paste(neon, mask=half)
    ImageDraw.Draw(photo).line([(ICON * 0.62, 0), (ICON * 0.38, ICON)], fill=PAPER, width=8)
    return rounded(photo, 56)


def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONTS / f"{name}.ttf"), size)


def banner() -> Image.Image:
    """Show a photo of the cat, what PALP is for, and three pictures that a prompt asks for."""
    image = Image.new("RGB", BANNER, NIGHT)
    photo = rounded(picture("photo", None, None, PHOTO), 28)
    image.paste(photo, (LEFT, TOP), photo)
    draw, right = ImageDraw.Draw(image), LEFT + PHOTO + 60
    draw.text((right, TOP - 26), "PALP", PAPER, font("DejaVuSans-Bold", 92))
    draw.text((right, TOP + 88), "Your subject, in the one image you have in mind", TEAL, font("DejaVuSans", 26))
    draw.text((right, TOP + 128), "Prompt-aligned LoRA training in ComfyUI", GREY, font("DejaVuSans", 22))
    for number, (style, accessory, place) in enumerate(SHOWN):
        small = rounded(picture(style, accessory, place, SMALL), 20)
        image.paste(small, (right + number * (SMALL + 24), TOP + PHOTO - SMALL), small)
    return image


def main() -> None:
    icon().save(DOCS / "icon.png", optimize=True)
    banner().save(DOCS / "banner.png", optimize=True)


if __name__ == "__main__":
    main()
