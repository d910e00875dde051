"""Figures of pictures from their judges' vectors, and how sure a mean of them is."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def alignment(pictures: Tensor, others: Tensor) -> Tensor:
    """Take each picture's mean cosine to texts or photos; pictures (N, D), others (M, D), (N,) in -1..1."""
    return _cosines(pictures, others).mean(dim=1)


def diversity(pictures: Tensor) -> float:
    """Take the mean of 1 - cosine over all pairs of pictures (N, D) of one prompt; 0..2. Needs two pictures."""
    first, second = torch.triu_indices(len(pictures), len(pictures), offset=1)
    return float(1 - _cosines(pictures, pictures)[first, second].mean())


def _cosines(some: Tensor, others: Tensor) -> Tensor:
    """(N, D), (M, D) -> (N, M)."""
    return F.normalize(some.double(), dim=-1) @ F.normalize(others.double(), dim=-1).T


def standard_error(numbers: Sequence[float], subjects: Sequence[Hashable], prompts: Sequence[Hashable]) -> float | None:
    """Estimate that of the mean of numbers, each of one subject and prompt; None where there is but one of both.

    Numbers of one subject share its training and numbers of one prompt its difficulty, so that they count as clusters,
    in both ways at once (Cameron, Gelbach and Miller 2011, eq. 2.11). Of a single prompt it is the error for that
    prompt, and of a single subject that for this subject.
    """
    rest = np.array(numbers) - np.mean(numbers)
    several = [clusters for clusters in (subjects, prompts) if len(set(clusters)) > 1]
    if not several:
        return None
    variances = [_cluster_variance(rest, clusters) for clusters in several]
    if len(several) == 2:
        variances.append(sum(variances) - _cluster_variance(rest, list(zip(subjects, prompts, strict=True))))
    return float(max(variances) ** 0.5)


def _cluster_variance(rest: np.ndarray, clusters: Sequence[Hashable]) -> float:
    sums: dict[Hashable, float] = {}
    for value, cluster in zip(rest, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value
    return sum(total**2 for total in sums.values()) / len(rest) ** 2 * len(sums) / (len(sums) - 1)
