"""A model directory's weight files: there and whole, by their frames alone. No torch; no tensor is read."""

from __future__ import annotations

import json
import math
import struct
import zipfile
from pathlib import Path
from typing import Any

from glmjobs.models.architecture import Architecture
from glmjobs.zero.directories import FILES as ADAPTER_FILES
from glmjobs.zero.directories import WEIGHT_FILES
from hpc.core import hints
from hpc.core.errors import BadInput, WorkFailed

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
    refuse_unfinished(directory)
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
    other = sorted(p.name for p in directory.iterdir() if p.suffix in _OTHER_FORMATS)
    there = f" (there is {other[0]}: {_OTHER_FORMATS[Path(other[0]).suffix]})" if other else ""
    raise BadInput(f"{directory}: no weights{there}: expected one of {', '.join(WEIGHT_FILES)}")


def check_adapter(directory: Path) -> None:
    """An adapter is of the kind that is merged here, and its file is there and whole, by its frame alone.

    Raises:
        BadInput: it is not.
    """
    from glmjobs.zero.merge_lora import settings

    refuse_unfinished(directory)
    found = next((directory / name for name in ADAPTER_FILES if (directory / name).exists()), None)
    if found is None:
        raise BadInput(
            f"{directory}: an adapter's configuration without its weights ({' or '.join(ADAPTER_FILES)})"
        )
    check_weight_file(found)
    try:
        settings(directory)
    except WorkFailed as error:
        raise BadInput(str(error)) from None


_UNFINISHED = (".incomplete", ".part", ".aria2", ".crdownload", ".tmp", ".download")
"""What programs that download leave beside or instead of a file that is not whole."""

_OTHER_FORMATS = {
    ".gguf": "llama.cpp's form, usually quantised; use the model as it was published",
    ".ggml": "llama.cpp's form, usually quantised; use the model as it was published",
    ".onnx": "for inference; use the model as it was published",
    ".msgpack": "Flax's form; use PyTorch's",
    ".h5": "TensorFlow's form; use PyTorch's",
}


def refuse_unfinished(directory: Path) -> None:
    """Refuse a directory into which a download is not finished: some programs give a file its full size first.

    Raises:
        BadInput: a file says so.
    """
    left = [*directory.iterdir(), *(directory / ".cache" / "huggingface" / "download").glob("*")]
    unfinished = sorted(p for p in left if p.suffix in _UNFINISHED)
    if unfinished:
        raise BadInput(f"{unfinished[0]}: a download that is not finished; finish it, or delete this file")


def check_sizes(directory: Path, architecture: Architecture) -> None:
    """Weight files hold as many numbers as config.json describes, as far as safetensors' headers tell.

    Raises:
        BadInput: they are of a model of other sizes.
    """
    files = sorted(set(check_weight_files(directory).values()))
    if any(file.suffix != ".safetensors" for file in files):
        return
    held = sum(math.prod(entry["shape"]) for file in files for entry in _header(file).values())
    wanted = architecture.parameters
    # an output matrix that is the embedding may be there twice; small buffers are no parameters
    if not 0.99 * wanted <= held <= 1.01 * (wanted + architecture.embedding) + 1000:
        raise BadInput(
            f"{directory}: its weight files hold {held:,} numbers, its config.json describes {wanted:,}: they are not "
            "of the same model; copy both from one place"
        )


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header


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
    if not pairs:
        raise BadInput(f"{path}: an index that names no weights")
    for shard in pairs.values():
        if Path(shard).name != shard:
            raise BadInput(f"{path}: names a file outside its directory: {shard}")
    return pairs


def check_weight_file(path: Path) -> None:
    """Check one weight file's frame: a safetensors header against the file's size, or a zip's directory at
    its end."""
    if not path.is_file():
        raise BadInput(f"{path}: a file of weights is wanted, and this is none")
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
        elif not head.startswith((b"PK", b"\x80")):  # a zip archive, or a pickle
            raise BadInput(f"{path}: not a weight file (it begins with {head[:12]!r}); fetch it again")


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
