"""The smallest card on which a training runs: torch is allowed no more memory than such a card has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

CARDS = (6, 8, 10, 12, 16, 24)  # GB
#: Of a card's memory, what its driver and the screen take.
TAKEN = 0.7  # GB


def smallest_card(run: Callable[[], object], peak: float) -> int | None:
    """Run it with the memory of one usual card after the other; None where even the largest is too small.

    peak: what tensors took where there was room, gigabytes; smaller cards are not tried.
    """
    for card in (card for card in CARDS if card - TAKEN > peak):
        torch.cuda.empty_cache()
        with only(card - TAKEN):
            try:
                run()
                return card
            except torch.cuda.OutOfMemoryError:
                continue
    return None


@contextmanager
def only(gigabytes: float) -> Iterator[None]:
    """Allow torch that much of the card's memory."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(gigabytes * 1e9 / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
