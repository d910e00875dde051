"""Pictures in memory, against their prompt and photos: figures known beforehand, and what is said of those missing."""

from __future__ import annotations

import pytest
import torch

from palp_core.evaluation.comparison import NEUTRAL, compare
from palp_core.evaluation.measuring import Judges

RED, YELLOW, BLUE = (torch.tensor(color).expand(16, 16, 3) for color in ([1.0, 0, 0], [1.0, 1, 0], [0, 0, 1.0]))
WORDS = {NEUTRAL: [1.0, 1, 1], "red": [1.0, 0, 0], "blue": [0, 0, 1.0]}


class Judge:
    """A picture is its mean color; a text is the color that it names, in as many numbers as it is told to write."""

    def __init__(self, neutral=WORDS[NEUTRAL]):
        self.words = {**WORDS, NEUTRAL: neutral}

    def encode_pictures(self, pictures):
        return torch.stack([picture.mean(dim=(0, 1)) for picture in pictures])

    def encode_texts(self, texts):
        return torch.tensor([self.words[text] for text in texts])


def test_figures_are_cosines_of_pictures_to_text_and_photos_and_of_each_other():
    compared = compare([RED, YELLOW], "red", [RED, BLUE], Judges(Judge(), Judge()), {})
    half = 0.5**0.5
    expected = {"clip_t": [1, half], "clip_i": [0.5, half / 2], "dino": [0.5, half / 2], "diversity": [1 - half]}
    for axis, values in expected.items():
        torch.testing.assert_close(compared.figures[axis], torch.tensor(values).to(compared.figures[axis]))
    assert not compared.not_measured
    assert compared.told().splitlines()[0].startswith("CLIP-T 0.854 (0.707 to 1.000): text alignment")
    assert compared.titles(2)[1] == "2, CLIP-T 0.71, CLIP-I 0.35, DINO 0.35"


def test_what_is_missing_is_said_with_what_to_connect():
    missing = dict.fromkeys(("dino", "diversity"), "Connect DINOv2.")
    compared = compare([RED], "", [], Judges(Judge()), missing)
    assert not compared.figures
    assert compared.told().splitlines() == [
        "Not measured: CLIP-T. It needs a prompt.",
        "Not measured: CLIP-I. Connect photos of the subject to reference_photos.",
        "Not measured: DINO, diversity. Connect DINOv2.",
    ]


@pytest.mark.parametrize(
    ("neutral", "reason"),
    {
        "numbers of another model": ([1.0, 1], "clip writes texts in 2 numbers and clip_vision pictures in 3"),
        "no projection": ([0.0, 0, 0], "To clip, no picture looks like a photo (cosine 0.000)"),
        "nothing that was ever set": ([float("nan")] * 3, "To clip, no picture looks like a photo (cosine nan)"),
    }.values(),
)
def test_a_text_encoder_of_another_model_is_no_judge(neutral, reason):
    compared = compare([RED, RED], "red", [RED], Judges(Judge(neutral), Judge()), {})
    assert compared.not_measured["clip_t"].startswith(reason) and "clip_t" not in compared.figures
    assert compared.figures["clip_i"].tolist() == pytest.approx([1, 1])
