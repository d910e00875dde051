"""How long the rows of a learned word may become: a word that grows drowns the rest of the prompt."""

from __future__ import annotations

import torch

from ..errors import SettingError
from ..models.backbone import Backbone, WordVectors


@torch.no_grad()
def longest_norms(backbone: Backbone, start: WordVectors) -> dict[str, float]:
    """How long rows may become, by text encoder: as the vocabulary's on average, or as long as they start.

    In a vocabulary of which few words are in use, those are much longer than the average, and so is what was learned
    from them. But no row may be longer than the vocabulary's longest, as embeddings of other tools often are. start:
    encoder -> (N, C).
    """
    limits = {}
    for name, table in backbone.token_embeddings().items():
        norms = table.float().norm(dim=-1)
        limits[name] = start[name].norm(dim=-1).max().clamp(norms.mean().cpu(), norms.max().cpu()).item()
    return limits


@torch.no_grad()
def shorten(vectors: WordVectors, longest: dict[str, float]) -> None:
    """Scale, in place, each row that is longer than its encoder's limit down to it; shorter ones stay as they are."""
    for encoder, rows in vectors.items():
        rows.mul_((longest[encoder] / rows.norm(dim=-1, keepdim=True)).clamp(max=1.0))


def check_hold(hold_norm: bool, optimizer: str) -> None:
    """Raise SettingError for an optimizer whose average does not stay within the limit."""
    if optimizer == "schedulefree" and hold_norm:
        raise SettingError(
            "optimizer is schedulefree, whose average hold_norm cannot hold. Switch hold_norm off, or choose "
            "another optimizer."
        )
