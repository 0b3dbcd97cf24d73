"""Writing safetensors files out of extents: which tensor goes into which file, room on the disk, the index.

The bytes themselves are moved by :mod:`glmjobs.zero.pipeline`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from glmjobs.zero.blocks import Shard
from glmjobs.zero.dtypes import FLOATING, SIZE
from glmjobs.zero.file_hashes import XXH128, describe
from glmjobs.zero.layout import Tensor
from glmjobs.zero.pipeline import Pipeline, Progress, Written
from glmjobs.zero.safetensors_file import make_header
from hpc.core.errors import NotFit
from hpc.core.room import free_bytes


def out_dtype(tensor: Tensor, dtype: str | None) -> str:
    """Floating tensors take the chosen type (None: keep their own); whole numbers and booleans keep theirs."""
    return dtype if dtype is not None and tensor.dtype in FLOATING else tensor.dtype


def plan_shards(tensors: Iterable[Tensor], dtype: str | None, limit: int, stem: str = "model") -> list[Shard]:
    """Distribute tensors over files of at most ``limit`` bytes (a larger tensor has a file to itself).

    The files come out about equally large, since the largest one's hash is what the end waits for. Wider types
    come first, so that every tensor starts aligned to its element.
    """
    ordered = sorted(tensors, key=lambda tensor: -SIZE[out_dtype(tensor, dtype)])
    sizes = [tensor.numel * SIZE[out_dtype(tensor, dtype)] for tensor in ordered]
    even = sum(sizes) / max(1, math.ceil(sum(sizes) / limit))
    groups: list[list[Tensor]] = [[]]
    filled = 0
    for tensor, size in zip(ordered, sizes, strict=True):
        if groups[-1] and (filled + size > limit or filled + size / 2 > even):
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += size
    shards = []
    for index, group in enumerate(groups, 1):
        name = (
            f"{stem}.safetensors"
            if len(groups) == 1
            else f"{stem}-{index:05d}-of-{len(groups):05d}.safetensors"
        )
        kinds = [out_dtype(tensor, dtype) for tensor in group]
        header, starts = make_header((t.name, kind, t.shape) for t, kind in zip(group, kinds, strict=True))
        shards.append(Shard(name, group, kinds, header, starts))
    return shards


def check_space(directory: Path, needed: int, shown: Path | str | None = None) -> None:
    """Say before starting that the disk of ``directory`` is too full.

    Args:
        shown: named in the error instead of ``directory``, where that is only there for the moment.

    Raises:
        NotFit: fewer than ``needed`` bytes (and a little) are free.
    """
    free = free_bytes(directory)
    needed += needed // 200 + (1 << 20)
    if free < needed:
        raise NotFit(
            f"{shown or directory}: {needed / 1e6:,.1f} MB are needed here, {free / 1e6:,.1f} MB are free"
        )


def write_shards(
    shards: Sequence[Shard],
    into: Path,
    *,
    workers: int,
    fsync: bool = True,
    hash_kind: str = XXH128,
    progress: Progress | None = None,
) -> Written:
    """Write the files (and the index, where there are several) into an existing directory.

    Args:
        hash_kind: of :data:`glmjobs.zero.file_hashes.HASHES`.

    Raises:
        WorkFailed: a source file is shorter than planned, or the disk is full; the directory is then
            incomplete.
    """
    pipeline = Pipeline(shards, into, max(1, workers), fsync=fsync, hash_kind=hash_kind, progress=progress)
    written = pipeline.run()
    if len(shards) > 1:
        written.files.append(describe(into, _write_index(shards, into), hash_kind))
    return written


def _write_index(shards: Sequence[Shard], into: Path) -> str:
    """The index of several files; its name."""
    stem = shards[0].name.split("-00001-of-")[0]
    total = sum(shard.size - len(shard.header) for shard in shards)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {tensor.name: shard.name for shard in shards for tensor in shard.tensors},
    }
    path = into / f"{stem}.safetensors.index.json"
    path.write_bytes((json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())
    return path.name
