"""Tensors of weight files as extents, and the numbers of a small one; nothing is unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from glmjobs.zero.checksums import Checksums
from glmjobs.zero.directories import WEIGHT_FILES
from glmjobs.zero.dtypes import FLOATING, SIZE, to_float32
from glmjobs.zero.guarded_files import inside, open_regular, read_json, reading
from glmjobs.zero.layout import Extent, Tensor
from glmjobs.zero.safetensors_file import read_tensors
from glmjobs.zero.torch_file import TensorRef, TorchFile
from hpc.core.errors import BadInput, WorkFailed, of_system


def read_directory(directory: Path) -> dict[str, Tensor]:
    """The tensors of a model directory, from the files that every loader here prefers.

    Raises:
        BadInput: it holds no weights of a whole model.
        WorkFailed: a file is damaged.
    """
    name = next((name for name in WEIGHT_FILES if (directory / name).is_file()), None)
    if name is None:
        raise BadInput(f"{directory}: no weights of a whole model: expected one of {', '.join(WEIGHT_FILES)}")
    return read_weights(directory, name)


def read_weights(path: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a weight file or index (safetensors, or torch's .bin without unpickling)."""
    if name.endswith(".index.json"):
        with reading(path / name, "it should map tensors to files"):
            mapping = read_json(inside(path, name))["weight_map"]
            files = sorted({str(file) for file in mapping.values()})
        if any(file.endswith(".index.json") for file in files):
            raise WorkFailed(f"{path / name}: damaged; it should map tensors to files, not to another index")
        found: dict[str, Tensor] = {}
        for file in files:
            found.update(read_weights(path, file))
        missing = sorted(set(mapping) - set(found))
        if missing:
            raise WorkFailed(
                f"{path / mapping[missing[0]]}: lacks {missing[0]!r}, which {name} says it holds"
            )
        return found
    target = inside(path, name)
    if name.endswith(".safetensors"):
        return read_tensors(target)
    saved = TorchFile(target)
    if not isinstance(saved.value, dict):
        raise WorkFailed(f"{target}: not a state dict")
    return {
        str(key): tensor_of(saved, str(key), ref)
        for key, ref in saved.value.items()
        if isinstance(ref, TensorRef)
    }


def extent_of(file: TorchFile, ref: Any, what: str) -> Extent:
    """The extent of a tensor of a torch file.

    Raises:
        WorkFailed: it is no tensor, not contiguous, or outside its storage.
    """
    if not isinstance(ref, TensorRef):
        raise WorkFailed(f"{file.path}: {what} is not a tensor")
    offset, _ = file.byte_range(ref, what)
    return Extent(file.path, offset, ref.numel, ref.dtype, file.member(ref.storage))


def tensor_of(file: TorchFile, name: str, ref: Any) -> Tensor:
    """A whole tensor of a torch file.

    Raises:
        WorkFailed: it is no tensor, outside its storage, or of a type or layout that is not read.
    """
    if not isinstance(ref, TensorRef):
        raise WorkFailed(f"{file.path}: {name} is not a tensor")
    runs, member = file.runs(ref, name), file.member(ref.storage)
    extents = (Extent(file.path, offset, count, ref.dtype, member) for offset, count in runs)
    return Tensor(name, ref.shape, tuple(extents))


def read_values(extent: Extent, sums: Checksums | None = None) -> np.ndarray[Any, Any]:
    """A small extent's numbers: floats as float32, others in their own type.

    Args:
        sums: told of the bytes, where they are to be checked.

    Raises:
        WorkFailed: the file ends before.
    """
    size = SIZE[extent.dtype] * extent.count
    try:
        with open_regular(extent.file) as file:
            file.seek(extent.offset)
            raw = np.frombuffer(file.read(size), np.uint8)
    except OSError as error:
        raise of_system(error, f"{extent.file}: cannot be read: {error.strerror or error}") from None
    if raw.size != size:
        raise WorkFailed(f"{extent.file}: truncated, it ends inside a tensor")
    if sums is not None:
        sums.add(extent, raw.data)
    if extent.dtype in FLOATING:
        return to_float32(raw, extent.dtype)
    return raw.view({"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"}.get(extent.dtype, "u1"))
