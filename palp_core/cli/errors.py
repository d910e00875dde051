"""Errors as the one line that a user of the command reads."""

from __future__ import annotations

import torch
from safetensors import SafetensorError

from ..errors import OUT_OF_MEMORY, PalpError


def sentence(error: BaseException) -> str | None:
    """Return what to tell of an error; None for one that is not expected, which needs its traceback."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return OUT_OF_MEMORY
    if isinstance(error, KeyboardInterrupt):
        return "stopped."
    if isinstance(error, (PalpError, OSError, SafetensorError)):
        return str(error)
    return None
