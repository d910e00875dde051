"""Long prompts in windows."""

import torch

from palp_core.models.windows import in_windows, of_one_length


def test_a_short_group_is_not_cut_in_two_and_a_long_one_is():
    assert in_windows([], 10) == [[]]
    assert in_windows(["abcdefgh", "ij"], 10) == [list("abcdefghij")]
    assert in_windows(["abcdefgh", "ijk"], 10) == [list("abcdefgh"), list("ijk")]
    assert in_windows(["ab", "cdefghijklm"], 10) == [list("abcdefghij"), list("klm")]
    assert in_windows(["abcdefghij", "klmnopqr", "s"], 10) == [list("abcdefghij"), list("klmnopqrs")]


def test_contexts_of_other_lengths_are_repeated():
    short, long = torch.randn(1, 2, 3), torch.randn(1, 3, 3)
    found = of_one_length([short, long])
    assert [context.shape for context in found] == [(1, 6, 3)] * 2
    assert torch.equal(found[0], torch.cat([short] * 3, dim=1))
