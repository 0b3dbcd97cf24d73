"""A model directory's weight files: there and whole, by their frames alone. No torch; no tensor is read."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

from glmjobs.zero.model_files import WEIGHT_FILES
from hpc.core import hints
from hpc.core.errors import BadInput

LFS_POINTER = b"version https://git-lfs"


def refuse_pointer(path: Path) -> None:
    """Refuse a file that only says which one Git LFS has.

    Raises:
        BadInput: it is one.
    """
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise BadInput(
                f"{path}: a Git LFS pointer, not the file itself; fetch it: {hints.lfs_pull(path.parent)}"
            )


def check_weight_files(directory: Path) -> dict[str, Path]:
    """Check that a directory's weight files are there and whole, by their frames alone (no tensor is read).

    Returns:
        Tensor name to file, as an index tells it; for a single file, that file under the name "".

    Raises:
        BadInput: no weights, a missing shard, a truncated file, a Git LFS pointer, a broken index.
    """
    for name in WEIGHT_FILES:
        path = directory / name
        if not path.exists():
            continue
        if path.suffix != ".json":
            check_weight_file(path)
            return {"": path}
        weight_map = read_index(path)
        shards = sorted(set(weight_map.values()))
        missing = [shard for shard in shards if not (directory / shard).is_file()]
        if missing:
            raise BadInput(
                f"{directory}: {len(missing)} of {len(shards)} weight files missing, the first: {missing[0]}"
            )
        for shard in shards:
            check_weight_file(directory / shard)
        return {tensor: directory / shard for tensor, shard in weight_map.items()}
    raise BadInput(f"{directory}: no weights: expected one of {', '.join(WEIGHT_FILES)}")


def read_index(path: Path) -> dict[str, str]:
    """An index file's tensor name to file name. File names stay inside the directory.

    Raises:
        BadInput: not JSON, no weight_map, or a file name that leads elsewhere.
    """
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        pairs = {str(tensor): str(shard) for tensor, shard in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(f"{path}: not an index of weight files (JSON with a weight_map)") from None
    for shard in pairs.values():
        if Path(shard).name != shard:
            raise BadInput(f"{path}: names a file outside its directory: {shard}")
    return pairs


def check_weight_file(path: Path) -> None:
    """Check one weight file's frame: a safetensors header against the file's size, or a zip's directory at
    its end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
        if head.startswith(LFS_POINTER):
            raise BadInput(
                f"{path}: a Git LFS pointer, not the weights themselves; fetch them: {hints.lfs_pull(path.parent)}"
            )
        if path.suffix == ".safetensors":
            _check_safetensors(path, file, size)
        elif head.startswith(b"PK") and not zipfile.is_zipfile(path):
            raise BadInput(f"{path}: truncated: the end of the archive is missing after {size} bytes")
        elif size == 0:
            raise BadInput(f"{path}: an empty file")


def _check_safetensors(path: Path, file: Any, size: int) -> None:
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
    if not 2 <= length <= max(size - 8, 0):
        raise BadInput(f"{path}: not a safetensors file, or one truncated at {size} bytes")
    try:
        header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise BadInput(f"{path}: not a safetensors file: its header cannot be read") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise BadInput(
            f"{path}: {'truncated' if size < expected else 'too long'}: {size} bytes, expected {expected}"
        )
