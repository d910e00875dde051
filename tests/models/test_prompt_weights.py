"""What brackets in a prompt mean, as ComfyUI reads them; tests on a host compare with its own code."""

import pytest

from palp_core.models.prompt_weights import plain_text, token_weights, weighted_parts, without_escapes


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a cat", [("a cat", 1)]),
        ("a (cat:1.3) in Paris", [("a ", 1), ("cat", 1.3), (" in Paris", 1)]),
        ("(cat)", [("cat", 1.1)]),
        ("((cat))", [("cat", 1.1 * 1.1)]),
        ("(a (cat) in Paris:0.5)", [("a ", 0.5), ("cat", 0.5 * 1.1), (" in Paris", 0.5)]),
        (r"a \(red\) (hat \(small\):1.2)", [("a (red) ", 1), ("hat (small)", 1.2)]),
        ("(at 10:30)", [("at 10", 30)]),
        ("(a: b)", [("a: b", 1.1)]),
        ("(:1.2)", [(":1.2", 1.1)]),
        ("a (cat", [("a ", 1), ("(cat", 1)]),
        ("a cat) (red:1.2)", [("a cat) (red:1.2)", 1)]),
        ("", []),
        ("()", []),
    ],
)
def test_brackets(prompt, parts):
    found = weighted_parts(prompt)
    assert [text for text, _ in found] == [text for text, _ in parts]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in parts])


def test_a_prompt_without_its_weights():
    assert plain_text(r"a (red:1.2) \(hat\)") == "a red (hat)"
    assert without_escapes(r"a (red:1.2) \(hat\)") == "a (red:1.2) (hat)"


def test_each_token_has_the_weight_of_its_part():
    assert token_weights("a (red old:1.2) hat", lambda text: len(text.split())) == [1, 1.2, 1.2, 1]
    assert token_weights("a(b:2)", lambda text: len(text.split())) == [1]  # one token, which began before
