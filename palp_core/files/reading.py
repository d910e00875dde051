"""Files of tensors as they are read: nothing in them is trusted before it was looked at."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from .checks import Layout, Source, check_finite

CHECKSUM = "palp_sha256"
#: What the checksum stands for beside the tensors. Other entries are for other tools, which may change them.
SEALED = ("palp", "palp_embedding", "identity", "history")
MOST_HEADER = 8 * 2**20  # bytes; of the largest LoRA it is a few hundred thousand
#: What files of ours hold, and the words of others; other kinds are not made sense of.
DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "U8": torch.uint8},
}
#: What a header, or a tensor, that is not as it should be raises in what reads it.
MALFORMED = (SafetensorError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError)


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Names, kinds, shapes and values of tensors, and what the file says of itself, in 64 letters."""
    digest = sha256(json.dumps([[key, metadata[key]] for key in SEALED if key in metadata]).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class TensorFile:
    """An open .safetensors file, of which the header alone has been read."""

    def __init__(self, stream: BinaryIO, source: Source, start: bytes, header: dict):
        self.source, self._stream, self._start = source, stream, start
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self.layouts = {
            key: Layout(DTYPES.get(entry["dtype"]), tuple(map(int, entry["shape"]))) for key, entry in header.items()
        }

    def tensors(self, wanted: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Read the tensors of these names, or all: copies on the CPU, which live on when the file is cut or replaced.

        Raises FileError where one is damaged, by its values or by the checksum.
        """
        try:
            tensors = load(self._start + self._stream.read())
            chosen = {key: tensors[key] for key in wanted or self.layouts}
        except MALFORMED as error:
            raise self.source.unreadable(error) from error
        if any((value.dtype, value.shape) != self.layouts[key] for key, value in chosen.items()):
            raise self.source.refusal("cannot be read: it names a tensor twice")
        check_finite(self.source, chosen)
        if self.metadata.get(CHECKSUM) not in (None, checksum(tensors, self.metadata)):
            raise self.source.refusal("is damaged: what it holds is not what was saved")
        return chosen


@contextmanager
def opened(path: Path, source: Source | None = None, most_header: int = MOST_HEADER) -> Iterator[TensorFile]:
    """Open a .safetensors file and read its header, if it is not too long. Raises FileError where that fails.

    It is read, and not mapped into memory: a mapped file that is cut while it is in use ends the process.
    """
    source = source or Source(path.name)
    try:
        with open(path, "rb") as stream:
            start = _start(stream, source, most_header)
            try:
                found = TensorFile(stream, source, start, _json_object(start[8:]))
            except MALFORMED as error:  # a RecursionError is a RuntimeError
                raise source.unreadable(error) from error
            yield found
    except OSError as error:
        raise source.unreadable(error) from error


def _start(stream: BinaryIO, source: Source, most: int) -> bytes:
    """The header with the eight bytes before it, which say how long it is."""
    size = stream.read(8)
    length = struct.unpack("<Q", size)[0] if len(size) == 8 else 0
    if length > most:
        raise source.refusal(f"cannot be read: its header is said to be {length} bytes long, and may be {most}")
    header = stream.read(length)
    if not header or len(header) < length:
        raise source.refusal("cannot be read: it ends within its header")
    return size + header


def _json_object(text: bytes) -> dict:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("its header is no object")
    metadata = found.get("__metadata__", {})
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are not texts")
    return found
