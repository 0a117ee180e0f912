"""safetensors files, written and read in pieces, so that no file has to fit into memory.

The library writes a file from all its tensors at once and reads through a memory map, whose pages count as the
process's own memory and which knows no remote storage. The format is its documented one: eight bytes with the length of
a JSON header, the header, the tensors' bytes (github.com/huggingface/safetensors, "Format"). Tests hold both directions
to the library.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from fd_scale.files import parse_json

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LARGEST_HEADER = 100_000_000  # the library's own limit

Plan = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""What will be written, in this order: name -> dtype, shape."""

ReadInto = Callable[[int, memoryview], None]
"""(offset in the file, where to put its bytes); raises OSError where the file ends before."""


class TensorFileWriter:
    """Writer of a safetensors file: the header at once, and then one tensor after another, in its order.

    It hashes what it writes.
    """

    def __init__(self, file: BinaryIO, plan: Plan, metadata: dict[str, str]):
        self._file, self._hash, self.bytes = file, hashlib.sha256(), 0
        self._left = list(plan.items())
        header: dict[str, Any] = {"__metadata__": metadata}
        end = 0
        for name, (dtype, shape) in plan.items():
            start, end = end, end + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # the data starts aligned
        self._header = len(text).to_bytes(8, "little") + text
        self._write(self._header)

    def write(self, name: str, value: Tensor) -> None:
        """Write the next tensor of the plan, which is on the host."""
        expected, (dtype, shape) = self._left.pop(0)
        if (expected, dtype, shape) != (name, value.dtype, tuple(value.shape)):
            raise ValueError(f"{expected} {dtype} {shape} comes next, not {name} {value.dtype} {tuple(value.shape)}")
        self._write(_bytes_of(value.contiguous()))

    def finish(self) -> str:
        """Finish the file and return its sha256; nothing may be missing."""
        if self._left:
            raise ValueError(f"{self._left[0][0]} was never written")
        return self._hash.hexdigest()

    def amend(self, old: str, new: str) -> None:
        """Write `new` in the metadata in place of `old`, which has the same length.

        What `finish` gives is of the file before.
        """
        if len(old.encode()) != len(new.encode()):
            raise ValueError(f"{new!r} is not as long as {old!r}")
        self._file.seek(self._header.index(old.encode()))
        self._file.write(new.encode())

    def _write(self, content: bytes | memoryview) -> None:
        self._file.write(content)
        self._hash.update(content)
        self.bytes += len(content)


@dataclass(frozen=True)
class Entry:
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """Of its bytes in the file."""


class TensorFileReader:
    """Reader of a safetensors file: its header, and any run of any of its tensors."""

    def __init__(self, read_into: ReadInto, size: int, name: str):
        """Args:
            size: of the file, in bytes.
            name: for errors.

        Raises:
            ValueError: not a safetensors file.
        """
        self._read_into = read_into
        length = int.from_bytes(_read(read_into, 0, 8), "little") if size >= 8 else size
        if length > min(size - 8, _LARGEST_HEADER):
            raise ValueError(f"{name} is not a safetensors file")
        try:
            header = parse_json(_read(read_into, 8, length))
            self.metadata: dict[str, str] = header.pop("__metadata__", {})
            self.entries = {key: _entry(value, 8 + length, size) for key, value in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{name} is not a safetensors file ({error!r})") from None

    def read(self, name: str, start: int = 0, elements: int | None = None) -> Tensor:
        """Read a run (elements,) of the flattened tensor; all of it by default."""
        entry = self.entries[name]
        length = math.prod(entry.shape) - start if elements is None else elements
        value = torch.empty(length, dtype=entry.dtype)
        self._read_into(entry.start + start * entry.dtype.itemsize, _bytes_of(value))
        return value


def _entry(value: dict[str, Any], data_start: int, size: int) -> Entry:
    dtype, shape = DTYPES[value["dtype"]], tuple(map(int, value["shape"]))
    first, last = value["data_offsets"]
    if min((first, *shape)) < 0 or last - first != math.prod(shape) * dtype.itemsize or data_start + last > size:
        raise ValueError("offsets do not fit")
    return Entry(dtype, shape, data_start + first)


def _bytes_of(value: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the host, shared."""
    return value.view(-1).view(torch.uint8).numpy().data if value.numel() else memoryview(bytearray())


def _read(read_into: ReadInto, offset: int, length: int) -> bytes:
    content = bytearray(length)
    read_into(offset, memoryview(content))
    return bytes(content)
