"""Words in the place of placeholders: as a person would write them."""

from __future__ import annotations

import pytest

from palp_core.models.prompts import check_known, check_weights
from palp_core.models.wording import put_class_words, put_words, without_article


@pytest.mark.parametrize(
    ("prompt", "words", "expected"),
    [
        ("a [V] in Paris", "cat", "a cat in Paris"),
        ("a [V] cat in Paris", "cat", "a cat in Paris"),
        ("[V] cat", "cat", "cat"),
        ("a [V] Cat, big", "cat", "a cat, big"),
        ("a [V]  cat's hat", "cat", "a cat's hat"),
        ("a cat [V] in Paris", "cat", "a cat in Paris"),
        ("a [V] cat", "tabby cat", "a tabby cat"),
        ("a [V] tabby cat", "tabby cat", "a tabby cat"),
        ("a tabby [V]", "tabby cat", "a tabby cat"),
        ("a [V] cat", "ohwx cat", "a ohwx cat"),
        ("([V] cat:1.2)", "cat", "(cat:1.2)"),
        ("a [V] caterpillar", "cat", "a cat caterpillar"),
        ("a [V] cat-like hat", "cat", "a cat cat-like hat"),
        ("a tomcat [V]", "cat", "a tomcat cat"),
        ("[V] and a cat", "cat", "cat and a cat"),
        ("[V][V]", "cat", "catcat"),
        ("a [V] (cat)", "c.t", "a c.t (cat)"),
        ("a [X]", "cat", "a [X]"),
    ],
)
def test_no_word_stands_beside_itself(prompt, words, expected):
    assert put_words(prompt, {"[V]": words}) == expected


def test_two_subjects_of_one_class_side_by_side():
    assert put_words("a [V] [V2] duel", {"[V]": "cat", "[V2]": "cat"}) == "a cat duel"
    assert put_words("a [V] and a [V2] cat", {"[V]": "cat", "[V2]": "cat"}) == "a cat and a cat"
    texts = {"[V]": "ohwx cat", "[V2]": "zxcq cat"}
    assert put_words("[V] [V2] cat", texts) == "ohwx cat zxcq cat"


@pytest.mark.parametrize(
    ("prompt", "words", "expected"),
    [
        ("a sketch of [V] in Paris", "cat", "a sketch of a cat in Paris"),
        ("a watercolor of [V] beside [V2]", "cat", "a watercolor of a cat beside a cup"),
        ("[V] and [V2], in [V2]", "cat", "a cat and a cup, in a cup"),
        ("a photo of [V]'s face", "owl", "a photo of an owl's face"),
        ("a photo of [V] cat", "cat", "a photo of a cat"),
        ("a photo of cat [V]", "cat", "a photo of a cat"),
        ("a photo of a [V] cat", "cat", "a photo of a cat"),
        ("a [V], the [V2]", "cat", "a cat, the cup"),
        ("a [V]", "umbrella", "an umbrella"),
        ("An [V] on an [V2]", "cat", "A cat on a cup"),
        ("a ([V]:1.2) of ([V2]:1.1)", "umbrella", "an (umbrella:1.2) of (a cup:1.1)"),
        ("(a sketch:1.2) of [V]", "hourglass", "(a sketch:1.2) of an hourglass"),
        ("of [V]", "unicorn", "of a unicorn"),
        ("of [V]", "unusual bus", "of an unusual bus"),
        ("of the [V]", "cat", "of the cat"),
        ("of my [V]", "cat", "of my cat"),
        ("of my friend's [V]", "cat", "of my friend's cat"),
        ("two [V]", "cat", "two cat"),
        ("a red [V]", "cat", "a red cat"),
        ("a sketch of red [V]", "cat", "a sketch of red cat"),
        ("blue-and [V]", "cat", "blue-and cat"),
        ("a-[V], [V]-like", "cat", "a-cat, a cat-like"),
        ("a house in the style of [V]", "painting", "a house in the style of painting"),
        ("a kind of ([V]:1.2)", "cat", "a kind of (cat:1.2)"),
        ("of [V]", "my cat", "of my cat"),
        ("of [V]", "Anna's cat", "of Anna's cat"),
        ("of [V]", "two cats", "of two cats"),
        ("of [V]", "sunglasses", "of sunglasses"),
        ("of [V]", "red shoes", "of red shoes"),
        ("of [V]", "women", "of women"),
        ("of [V]", "USB stick", "of a USB stick"),
        ("of [V]", "UFO", "of a UFO"),
        ("of [V]", "SUV", "of an SUV"),
        ("of [V]", "LED lamp", "of an LED lamp"),
        ("of [V]", "ledger", "of a ledger"),
        ("of [V]", "x-ray", "of an x-ray"),
        ("of [V]", "glass", "of a glass"),
        ("of [V]", "camera lens", "of a camera lens"),
        ("of [V]", "praying mantis", "of a praying mantis"),
        ("of [V]", "lenses", "of lenses"),
        ("of [V]", "octopus", "of an octopus"),
        ("of [V] [X]", "cat", "of a cat [X]"),
    ],
)
def test_a_class_word_has_the_article_that_the_prompt_lacks(prompt, words, expected):
    assert put_class_words(prompt, {"[V]": words, "[V2]": "cup"}) == expected


@pytest.mark.parametrize(
    ("word", "bare"),
    [
        ("a cat", "cat"),
        ("An owl", "owl"),
        (" the  big cat", "big cat"),
        ("cat", "cat"),
        ("a", "a"),
        ("a-frame", "a-frame"),
    ],
)
def test_an_article_before_a_word(word, bare):
    assert without_article(word) == bare


@pytest.mark.parametrize("habit", ["[V:1.2]", "[v:1.2]", "[ V : 1.2 ]"])
def test_a_weight_inside_the_brackets_is_named_with_what_works(habit):
    for check in (check_weights, check_known):
        with pytest.raises(ValueError, match=r"prompt holds .*Write \(\[V\]:1\.2\) in its place"):
            check("prompt", f"a {habit} in Paris", ["[V]"])
    check_known("prompt", "a ([V]:1.2), [cat:0.5], at [10:30]", ["[V]"])
