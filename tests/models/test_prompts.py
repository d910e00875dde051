"""LearnedWords in prompts, as users write them and as ComfyUI reads the result."""

import pytest

from palp_core.models.prompts import (
    PLACEHOLDER,
    embedding_prompt,
    find_placeholders,
    mark_words,
    substitute,
    vector_numbers,
)


@pytest.mark.parametrize(
    ("prompt", "spelled"),
    [
        ("a sketch of [V] in Paris", "a sketch of embedding:cat in Paris"),
        ("[V]", "embedding:cat"),
        ("[V], sitting", "embedding:cat, sitting"),
        ("[V]'s hat", "embedding:cat 's hat"),
        ('a "[V]" sign.', 'a " embedding:cat " sign.'),
        ("a ([V]:1.2) photo", "a (embedding:cat:1.2) photo"),
        ("[V][V2]", "embedding:cat  embedding:dog"),
        ("[V] and [X]", "embedding:cat and [X]"),
    ],
)
def test_embedding_prompt_keeps_the_name_apart_where_the_host_needs_it(prompt, spelled):
    assert embedding_prompt(prompt, {"[V]": "cat", "[V2]": "dog"}) == spelled


def test_class_words_take_the_place_of_placeholders():
    assert substitute("[V] and [V2] and [X]", {"[V]": "cat", "[V2]": "dog"}) == "cat and dog and [X]"
    assert find_placeholders("[V] [V2] [V] [1] []") == ["[V]", "[V2]", "[V]"]


def test_every_vector_of_every_occurrence_gets_a_marker():
    counts = {"[V]": 2, "[V2]": 1}
    text, words = mark_words("[V], [V2]; [V] [X]", counts, PLACEHOLDER, "#")
    assert text == " # #,  #;  # # [X]"
    assert words == ["[V]", "[V]", "[V2]", "[V]", "[V]"]
    assert vector_numbers(words, counts) == [0, 1, 0, 0, 1]
