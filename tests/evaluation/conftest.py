"""Folders of plain pictures, and a judge that sees their colors: all figures are known beforehand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}


class ColorJudge:
    """A picture is its mean color, and a text the color that it names."""

    def encode_pictures(self, pictures):
        return torch.stack([picture.mean(dim=(0, 1)) for picture in pictures])

    def encode_texts(self, texts):
        named = [next(color for color in COLORS if color in text) for text in texts]
        return torch.tensor([COLORS[color] for color in named]).float() / 255


@pytest.fixture
def judge() -> ColorJudge:
    return ColorJudge()


@pytest.fixture
def paint():
    """Write plain pictures of these colors into a folder, 01.png and so on, and their prompt."""

    def paint(folder: Path, *colors: str, prompt: str = "") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for number, color in enumerate(colors, start=1):
            Image.new("RGB", (20 + number, 16), COLORS[color]).save(folder / f"{number:02}.png")
        if prompt:
            (folder / "prompt.txt").write_text(prompt)
        return folder

    return paint
