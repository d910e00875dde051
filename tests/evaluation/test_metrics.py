"""Figures and their errors, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from palp_core.evaluation.metrics import alignment, diversity, standard_error


def test_alignment_is_the_mean_cosine_whatever_the_lengths():
    pictures = torch.tensor([[2.0, 0.0], [3.0, 3.0]])
    others = torch.tensor([[5.0, 0.0], [0.0, 0.1]])
    torch.testing.assert_close(alignment(pictures, others), torch.tensor([0.5, 0.5**0.5]).double())


def test_diversity_is_the_mean_distance_over_pairs():
    pictures = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    assert diversity(pictures) == pytest.approx((1 + 1 + 2) / 3)
    assert diversity(torch.ones(3, 2)) == pytest.approx(0, abs=1e-12)


def test_the_error_of_one_subject_is_that_over_its_prompts():
    """1, 2, 6 have the variance 7 and the mean's error (7 / 3) ** 0.5."""
    assert standard_error([1, 2, 6], ["cat"] * 3, list("abc")) == pytest.approx((7 / 3) ** 0.5)
    assert standard_error([1, 2, 6], list("abc"), ["hat"] * 3) == pytest.approx((7 / 3) ** 0.5)
    assert standard_error([1], ["cat"], ["hat"]) is None


def test_the_error_over_subjects_and_prompts_counts_both():
    """Cells 1, 3 of one subject and 5, 11 of another; mean 5, rest -4, -2, 0, 6.

    Sums by subject are -6 and 6: 72 / 16 * 2 = 9. By prompt -4 and 4: 32 / 16 * 2 = 4. By cell: 56 / 16 * 4 / 3.
    """
    error = standard_error([1, 3, 5, 11], list("aabb"), list("xyxy"))
    assert error == pytest.approx(9**0.5)  # 9 + 4 - 14 / 3 is less than the subjects' own
    # Mean 2.5, rest -1.5, -0.5, -0.5, 0.5, 0.5, 1.5; squares of sums: 8 by subject, 4.5 by prompt, 5.5 by cell.
    error = standard_error([1, 2, 2, 3, 3, 4], list("aabbcc"), list("xyxyxy"))
    assert error == pytest.approx((8 / 36 * 3 / 2 + 4.5 / 36 * 2 - 5.5 / 36 * 6 / 5) ** 0.5)
