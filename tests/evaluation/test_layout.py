"""Which prompt, subject and method each picture of a folder has."""

from __future__ import annotations

import pytest

from palp_core.errors import FileError, PromptError
from palp_core.evaluation.layout import read_layout
from palp_core.evaluation.references import find_references, text_of


def places(folder, prompt=""):
    return {one.name: (one.method, one.subject, one.prompt) for one in read_layout(folder, prompt)}


@pytest.mark.parametrize(
    ("inside", "place"),
    [
        ("", ("shots", "")),
        ("hat", ("shots", "")),
        ("palp/hat", ("palp", "")),
        ("palp/dog6/hat", ("palp", "dog6")),
    ],
)
def test_folders_say_method_subject_and_prompt(tmp_path, paint, inside, place):
    folder = tmp_path / "shots"
    paint(folder / inside, "red", "green", prompt=" a [V] with\n a hat ")
    (folder / inside / ".02.png").write_bytes(b"of the system")
    assert list(places(folder).values()) == [(*place, "a [V] with a hat")] * 2


def test_the_prompt_of_the_folder_itself_may_be_given(tmp_path, paint):
    paint(tmp_path, "red")
    paint(tmp_path / "hat", "red", prompt="a hat")
    assert places(tmp_path, "a [V]") == {
        "01.png": (tmp_path.name, "", "a [V]"),
        "hat/01.png": (tmp_path.name, "", "a hat"),
    }


def test_a_table_says_it_of_each_file(tmp_path, paint):
    paint(tmp_path / "of  all", "red", "green", "blue")
    rows = ["method,file,prompt,seed,subject", 'b,of  all/02.png,"a hat, red",7,cat', "a,of  all/01.png,a scarf,8,", ""]
    (tmp_path / "pictures.csv").write_bytes("\ufeff".encode() + "\r\n".join(rows).encode())
    assert list(places(tmp_path).items()) == [
        ("of  all/02.png", ("b", "cat", "a hat, red")),
        ("of  all/01.png", ("a", "", "a scarf")),
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,text\n01.png,a hat\n", "pictures.csv has no column prompt"),
        ("", "has no column file and no column prompt"),
        ("file,prompt\n01.png,a hat\n02.png,\n", "line 3 of .* has no prompt"),
        ("file,prompt\n../01.png,a hat\n", r"names \.\./01.png, which is not in its folder"),
        ("file,prompt,subject\n01.png,a hat,../cat\n", "the subject '../cat', which is no name"),
        ("file,prompt\n01.png,a hat\n01.png,a scarf\n", "names 01.png twice"),
        ("file,prompt\n", "there are no pictures in"),
        (b"file,prompt\n\xff\xfe,a\n", "no table of comma-separated values in UTF-8"),
    ],
)
def test_a_table_that_says_too_little_is_named(tmp_path, table, message):
    (tmp_path / "pictures.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(FileError, match=message):
        read_layout(tmp_path)


def test_folders_that_say_too_little_are_named(tmp_path, paint):
    with pytest.raises(FileError, match="there is no folder"):
        read_layout(tmp_path / "missing")
    with pytest.raises(FileError, match="there are no pictures in"):
        read_layout(tmp_path)
    paint(tmp_path / "a", "red", prompt="a hat")
    paint(tmp_path / "b", "red")
    with pytest.raises(FileError, match=r"the pictures in \S*b have no prompt\. Write"):
        read_layout(tmp_path)
    paint(tmp_path / "b", "red", prompt="a hat")
    with pytest.raises(FileError, match=r"a and \S*b hold the same prompt"):
        read_layout(tmp_path)
    paint(tmp_path / "1/2/3/4", "red", prompt="a scarf")
    with pytest.raises(FileError, match="4 lies too deep"):
        read_layout(tmp_path)


def test_each_subject_has_its_own_photos_and_class_word(tmp_path, paint):
    paint(tmp_path / "cat2", "red", "green")
    paint(tmp_path / "dog6", "blue")
    (tmp_path / "class_words.csv").write_text("subject,class_word\ndog6,dog\n")
    found = find_references(tmp_path, ["dog6", "cat2", "dog6"], "cat")
    assert {name: (len(of.photos), of.class_word) for name, of in found.items()} == {
        "dog6": (1, "dog"),
        "cat2": (2, "cat"),
    }
    assert [file.parent.name for file in find_references(tmp_path / "dog6", ["any"], "")["any"].photos] == ["dog6"]
    with pytest.raises(FileError, match="there are no photos of 'owl'"):
        find_references(tmp_path, ["cat2", "owl"], "cat")
    with pytest.raises(FileError, match="there is no folder of photos"):
        find_references(tmp_path / "missing", [""], "cat")


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a [V] cat in Rome", "a cat in Rome"),
        ("a photo of embedding:my_cat_00001, in (snow:1.3)", "a photo of a cat, in snow"),
        ("a (embedding:my_cat:1.2) in Rome", "a cat in Rome"),
        ("a sketch of [V] beside [V]", "a sketch of a cat beside a cat"),
        ("a house", "a house"),
    ],
)
def test_clip_reads_the_class_word_in_plain_text(prompt, text):
    assert text_of(prompt, "a cat") == text


def test_a_subject_that_clip_could_not_know_is_an_error():
    with pytest.raises(PromptError, match=r"names \[V\], which CLIP does not know"):
        text_of("a [V] in Rome", "")
    with pytest.raises(PromptError, match=r"names \[V\] and \[W\]"):
        text_of("a [V] and a [W]", "cat")
