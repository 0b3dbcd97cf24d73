"""A model's ``.bin`` weights as safetensors files, value by value: constant memory, no torch, nothing unpickled.

Processes that load safetensors share one copy in the page cache; torch 2.0 reads a ``.bin`` file whole into each.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from glmjobs.text import SHARD_SIZE, parse_size
from glmjobs.zero.directories import WEIGHT_FILES
from glmjobs.zero.file_hashes import SHA256
from glmjobs.zero.model_files import read_config
from glmjobs.zero.tied import second_copies
from glmjobs.zero.weights import read_weights
from glmjobs.zero.write import check_space, plan_shards, write_shards

FORMING = ".safetensors.forming"
"""The folder in which the files are written; a killed attempt leaves it, and the next one begins anew."""


def bin_files(directory: Path) -> list[Path]:
    """The ``.bin`` files with a model's weights, index first, where it has no safetensors and they are zip archives."""
    found = next((name for name in WEIGHT_FILES if (directory / name).is_file()), None)
    if found is None or ".safetensors" in found:
        return []
    index = [directory / found] if found.endswith(".json") else []
    files = sorted(directory.glob("pytorch_model*.bin")) if index else [directory / found]
    for file in files:
        with file.open("rb") as opened:
            if opened.read(2) != b"PK":  # torch's form before 1.6 (2020)
                return []
    return index + files


def write_safetensors(directory: Path, workers: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Write the weights of :func:`bin_files` beside them as safetensors, each tensor in its own type.

    Returns:
        ``path``, ``bytes`` and ``sha256`` of the new files; what was not written a second time
        (:func:`glmjobs.zero.tied.second_copies`).

    Raises:
        WorkFailed: a file is damaged (its checksums are looked at), or holds more than tensors.
        NotFit: too little space is free.
    """
    tensors = read_weights(directory, bin_files(directory)[0].name)
    tied = second_copies(tensors, read_config([directory]))
    once = [tensor for name, tensor in tensors.items() if name not in tied]
    shards = plan_shards(once, None, parse_size(SHARD_SIZE))
    check_space(directory, sum(shard.size for shard in shards))
    forming = directory / FORMING
    shutil.rmtree(forming, ignore_errors=True)
    forming.mkdir()
    try:
        written = write_shards(shards, forming, workers=workers, hash_kind=SHA256)
        for entry in written.files:  # the index is the last
            (forming / str(entry["path"])).replace(directory / str(entry["path"]))
    finally:
        shutil.rmtree(forming, ignore_errors=True)
    return list(written.files), tied
