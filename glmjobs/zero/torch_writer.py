"""Writing what ``torch.load`` reads, without torch: a zip of one pickle, and the numbers as members of their own.

The pickle is written as :mod:`glmjobs.zero.torch_file` reads one: plain data and tensors; an inert object becomes an
instance of its class again, made without a call of anything else. The numbers come from wherever they lie, in pieces.

Format: torch/serialization.py (zip layout), https://docs.python.org/3/library/pickletools.html (opcodes).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

from glmjobs.zero.checksums import crc32
from glmjobs.zero.dtypes import SIZE
from glmjobs.zero.layout import Tensor
from glmjobs.zero.stored_zip import StoredZip
from glmjobs.zero.torch_file import STORAGE_DTYPES, Name, Opaque, TensorRef, TorchFile, is_numpy_rebuilder
from glmjobs.zero.weights import tensor_of
from hpc.core.errors import WorkFailed

STORAGES = {dtype: name for name, dtype in reversed(STORAGE_DTYPES.items()) if dtype in SIZE}
PLAIN = {None: b"N", True: b"\x88", False: b"\x89"}


class Content:
    """What a file is to hold: the pickle (protocol 2) that builds a value, and the tensors in it, a storage each.

    Args:
        value: plain data, in which a tensor is a Tensor, or what ``source`` has in its place.
        source: the file that the value's TensorRefs are of.

    Raises:
        WorkFailed: the value holds what is no data.
    """

    def __init__(self, value: Any, source: TorchFile | None = None) -> None:
        self.program = bytearray(b"\x80\x02")
        self.tensors: list[Tensor] = []
        self.source = source
        # What can be found again, or holds itself, by id; kept, since an id is a value's own as long as it lives.
        self.memo: dict[int, int] = {}
        self.kept: list[Any] = []
        try:
            self.put(value)
        except RecursionError:
            raise WorkFailed(f"{self._where()}data that is nested too deep") from None
        self.program += b"."
        del self.memo, self.kept

    @property
    def numbers(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel * SIZE[tensor.dtype] for tensor in self.tensors)

    def write(self, path: Path, copy: Callable[[Tensor, IO[bytes]], int]) -> None:
        """Write the file.

        Args:
            copy: called for each tensor, to write its numbers; their CRC-32.

        Raises:
            OSError: the file exists, or the disk is full.
        """
        parts = {"data.pkl": bytes(self.program), "byteorder": b"little", "version": b"3\n"}
        with path.open("xb") as file:
            archive = StoredZip(file)
            for name, data in parts.items():
                archive.add(f"{path.stem}/{name}", len(data), partial(_put, data))
            for key, tensor in enumerate(self.tensors):
                size = tensor.numel * SIZE[tensor.dtype]
                archive.add(f"{path.stem}/data/{key}", size, partial(copy, tensor))
            archive.close()

    def put(self, value: Any) -> None:
        """Append what builds the value."""
        if id(value) in self.memo:
            self.program += b"j" + struct.pack("<I", self.memo[id(value)])
        elif value is None or isinstance(value, bool):
            self.program += PLAIN[value]
        elif isinstance(value, int):
            self.program += _whole_number(value)
        elif isinstance(value, float):
            self.program += b"G" + struct.pack(">d", value)
        elif isinstance(value, str | bytes):
            data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
            self.program += (b"X" if isinstance(value, str) else b"B") + struct.pack("<I", len(data)) + data
        elif isinstance(value, Name):
            self._name(value.path)
        elif isinstance(value, Tensor):
            self._tensor(value)
        else:
            self._container(value)

    def _container(self, value: Any) -> None:
        if isinstance(value, tuple):
            self._several(b"(", value, b"t")
            self._remember(value)
        elif isinstance(value, list):
            self.program += b"]"
            self._remember(value)
            self._several(b"(", value, b"e")
        elif isinstance(value, Mapping):
            self.program += b"}"
            self._remember(value)
            self._several(b"(", (part for pair in value.items() for part in pair), b"u")
        elif isinstance(value, Opaque):
            self._instance(value)
        elif isinstance(value, TensorRef) and self.source is not None:
            self._tensor(tensor_of(self.source, "a tensor", value))
            self._remember(value)
        else:
            raise WorkFailed(f"{self._where()}a {type(value).__name__}, which is not written here")

    def _instance(self, value: Opaque) -> None:
        self._name(value.name)
        self.put(value.args)
        # Made by its class alone (an enumeration finds its member so); numpy's arrays are rebuilt by a function.
        self.program += b"R" if is_numpy_rebuilder(value.name) else b"\x81"
        self._remember(value)
        if value.state is not None:
            self.put(value.state)
            self.program += b"b"

    def _tensor(self, tensor: Tensor) -> None:
        if tensor.dtype not in STORAGES:
            raise WorkFailed(f"{tensor.name}: its type {tensor.dtype} is not written here")
        key = str(len(self.tensors))
        self.tensors.append(tensor)
        stride, strides = 1, list[int]()
        for size in reversed(tensor.shape):
            strides.insert(0, stride)
            stride *= max(1, size)
        self._name("torch._utils._rebuild_tensor_v2")
        self.program += b"("
        storage = ("storage", Name(f"torch.{STORAGES[tensor.dtype]}"), key, "cpu", tensor.numel)
        self._several(b"(", storage, b"tQ")
        for part in (0, tensor.shape, tuple(strides), False):
            self.put(part)
        self._name("collections.OrderedDict")
        self.program += b")RtR"

    def _several(self, before: bytes, values: Iterable[Any], after: bytes) -> None:
        self.program += before
        for value in values:
            self.put(value)
        self.program += after

    def _name(self, path: str) -> None:
        module, _, attribute = path.rpartition(".")
        if not all(part.isidentifier() for part in path.split(".")):  # a line's end would be the pickle's own
            raise WorkFailed(f"{self._where()}the name {path!r}, which is none")
        self.program += b"c" + f"{module}\n{attribute}\n".encode()

    def _remember(self, value: Any) -> None:
        self.program += b"r" + struct.pack("<I", len(self.kept))
        self.memo[id(value)] = len(self.kept)
        self.kept.append(value)

    def _where(self) -> str:
        return f"{self.source.path}: its optimizer state holds " if self.source else "holds "


def _put(data: bytes, into: IO[bytes]) -> int:
    into.write(data)
    return crc32(data)


def _whole_number(value: int) -> bytes:
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    size = value.bit_length() // 8 + 1
    return b"\x8b" + struct.pack("<i", size) + value.to_bytes(size, "little", signed=True)
