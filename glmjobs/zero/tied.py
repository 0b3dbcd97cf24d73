"""An output matrix that is the embedding, and weight files that hold it a second time, as ChatGLM-6B's release does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from glmjobs.zero.dtypes import SIZE
from glmjobs.zero.layout import Extent, Tensor, Vector
from glmjobs.zero.source_files import SourceFiles

OUTPUT, EMBEDDING = "lm_head.weight", "word_embeddings.weight"
BLOCK_BYTES = 4 << 20


def ties(config: Mapping[str, Any]) -> bool:
    """Whether a model's configuration says that its embeddings are tied, or, of transformers', says nothing: they are
    tied by default."""
    return config.get("tie_word_embeddings", "model_type" in config) is True


def held_twice(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
    """The output matrix and the embedding of weight files that hold both, though ``config`` ties them."""
    embedding = next((tensor for name, tensor in tensors.items() if name.endswith(EMBEDDING)), None)
    if OUTPUT not in tensors or embedding is None or not ties(config):
        return None
    return tensors[OUTPUT], embedding


def second_copies(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, str]:
    """{output matrix: embedding} where weight files hold the one as a second copy of the other, bit by bit, and
    ``config`` ties them: loading does so again, so it need not be written.

    Raises:
        WorkFailed: a file cannot be read, or ends inside.
    """
    found = held_twice(tensors, config)
    return {found[0].name: found[1].name} if found is not None and same_bytes(*found) else {}


def same_bytes(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of files are equal bit by bit; a block of each is in memory at a time.

    Raises:
        WorkFailed: a file cannot be read, or ends inside.
    """
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    sides = [(Vector(tensor.extents), bytearray(BLOCK_BYTES)) for tensor in (one, other)]
    step = BLOCK_BYTES // SIZE[one.dtype]
    files = SourceFiles()
    try:
        for start in range(0, one.numel, step):
            count = min(step, one.numel - start)
            first, second = (_read(files, vector.cut(start, count), into) for vector, into in sides)
            if not np.array_equal(first, second):
                return False
    finally:
        files.close()
    return True


def _read(files: SourceFiles, extents: list[Extent], into: bytearray) -> np.ndarray[Any, Any]:
    """The extents' bytes."""
    view, at = memoryview(into), 0
    for extent in extents:
        size = extent.count * SIZE[extent.dtype]
        files.read(extent, view[at : at + size])
        at += size
    return np.frombuffer(view[:at], np.uint8)
