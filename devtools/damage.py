"""Hypothesis' strategies for files that are damaged, or made to do harm."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool]
DTYPES += [torch.int8, torch.float8_e4m3fn, torch.complex64]

#: What JSON can hold, and NaN.
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """A small tensor of one value, of any kind and shape."""
    shape = draw(st.lists(st.integers(0, 70), max_size=3).filter(lambda sizes: len(sizes) < 3 or max(sizes) < 9))
    value = draw(st.sampled_from([0.0, 0.5, 1.0, -4.0, 3e4, 1e38, float("nan"), float("inf")]))
    return torch.full(shape, value, dtype=torch.float64).to(draw(st.sampled_from(DTYPES)))


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Flipped, cut, filled up, doubled: once or several times."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 40)))
        how = draw(st.sampled_from(["flip", "cut", "delete", "insert", "double"]))
        if how == "flip" and start < len(content):
            content[start] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del content[start:]
        elif how == "delete":
            del content[start:end]
        elif how == "insert":
            content[start:start] = draw(st.binary(max_size=20))
        else:
            content[end:end] = content[start:end]
    return bytes(content)
