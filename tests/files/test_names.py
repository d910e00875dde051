"""Names that users give: of any script, and safe on every system and in every prompt."""

from __future__ import annotations

import unicodedata

import pytest

from palp_core.errors import FileError
from palp_core.files.names import check_file_name

RESERVED = ["CON", "con", "Con.safetensors", "PRN", "AUX", "nul", "NUL.safetensors", "COM1", "com9", "LPT1", "lpt9"]
RESERVED += ["COM¹", "ＣＯＮ", "COM0"]  # Windows reads superscripts as digits, and NFKC wide letters as narrow ones
CHANGED = ["a½", "⑴", "1⒈", "cat㏂", "ŀa", "cat﹙", "a⁄b", "c／d", "ﷺ", "1⑵"]  # NFKC: '1⁄2', '(1)', '1.', 'a.m.', 'l·a'
INVISIBLE = ["cat\u034f", "cat\ufe0f", "ca\u3164t", "\u115fcat", "ca\u200dt", "cat\u00ad", "cat\U000e0100"]
PLAIN = [
    "बिल्ली",
    "แมวน้อย",
    "น้ำ",
    "বিড়াল",
    "மூனை",
    "ម្ដាយ",
    "שָׁלוֹם",
    "قِطّ",
    "Đặng",
    "模型",
    "ねこ",
    "ガ",
    "고양이",
    "моя_кошка-2",
]
PLAIN += ["com", "com10", "console", "null", "aux1", "con_2", "2_cats"]


@pytest.mark.parametrize("name", RESERVED)
def test_names_that_windows_keeps_for_itself_are_refused(name):
    with pytest.raises(FileError, match=r"keeps for itself.*Choose another"):
        check_file_name(name)


@pytest.mark.parametrize("name", CHANGED + INVISIBLE + ["\u0301cat", "-cat", "_cat", "\u093eका", "a\x00", "a\ud800"])
def test_names_that_are_read_otherwise_than_they_look_are_refused(name):
    with pytest.raises(FileError, match="must be a plain name") as refusal:
        check_file_name(name)
    str(refusal.value).encode()  # can be shown


@pytest.mark.parametrize("name", PLAIN)
def test_names_of_any_script_are_taken(name):
    composed = unicodedata.normalize("NFC", name)
    assert check_file_name(name) == check_file_name(f" {composed}.safetensors ") == composed


def test_a_decomposed_name_is_the_composed_one():
    assert check_file_name("cafe\u0301") == check_file_name("caf\u00e9") == "caf\u00e9"


def test_a_long_name_is_cut_in_the_error():
    with pytest.raises(FileError, match="plain name") as refusal:
        check_file_name("x" * 1_000_000)
    assert len(str(refusal.value)) < 500
