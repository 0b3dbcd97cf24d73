"""The safetensors format, header only: where each tensor lies in a file, and the header of a file to write.

Format: 8 bytes little-endian length, a JSON header, then the tensors' bytes
(https://github.com/huggingface/safetensors#format). Reading the header ourselves keeps torch out and memory
constant: the library's numpy side has no bfloat16 and hands out whole tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from glmjobs.zero.dtypes import SIZE
from glmjobs.zero.guarded_files import open_regular, reading
from glmjobs.zero.layout import Extent, Tensor
from hpc.core.errors import WorkFailed

HEADER_LIMIT = 100 << 20  # the format's own limit


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file as extents, in file order.

    Raises:
        WorkFailed: one line naming the file, where it is missing, truncated or not of this format.
    """
    start, size, header = _read(path)
    tensors = {}
    for name, entry in header.items():
        try:
            dtype, shape = entry["dtype"], tuple(entry["shape"])
            begin, end = entry["data_offsets"]
            whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
            right = whole and begin <= end and end - begin == math.prod(shape) * SIZE[dtype]
        except (KeyError, TypeError, ValueError):
            right = False
        if not right:
            raise WorkFailed(f"{path}: damaged, the header's entry of {name!r} is not consistent")
        if start + end > size:
            raise WorkFailed(f"{path}: truncated, {name!r} should end at byte {start + end} of {size}")
        tensors[name] = Tensor(name, shape, (Extent(path, start + begin, math.prod(shape), dtype),))
    return dict(sorted(tensors.items(), key=lambda item: item[1].extents[0].offset))


def _read(path: Path) -> tuple[int, int, dict[str, Any]]:
    """(byte where the tensors begin, bytes of the file, header) of a safetensors file."""
    if not path.exists():
        raise WorkFailed(f"{path}: this file of the model is missing")
    with reading(path, "not a whole safetensors file, its header cannot be read"), open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= HEADER_LIMIT:
            raise ValueError("no header")
        header = json.loads(file.read(length))
        size = file.seek(0, 2)
    if not isinstance(header, dict):
        raise WorkFailed(f"{path}: not a safetensors file, its header is no mapping")
    header.pop("__metadata__", None)
    return 8 + length, size, header


def make_header(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> tuple[bytes, list[int]]:
    """The header of a file of (name, dtype, shape) in a row, and each tensor's byte offset in the file."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    ends = [0]
    for name, dtype, shape in tensors:
        begin = ends[-1]
        ends.append(begin + math.prod(shape) * SIZE[dtype])
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, ends[-1]]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors start aligned
    return len(text).to_bytes(8, "little") + text, [8 + len(text) + end for end in ends]
