"""Holding the consolidated parameters against the checkpoint's own half-precision copy of them.

ZeRO-1 and 2 keep the model's weights beside the float32 shards; the Trainer gathers them into
model.safetensors. Both are the shards' values, rounded. A sample of every parameter, its ends included, is
compared bit by bit: a shard of another rank, run or step, or a layout read wrongly, does not survive that.
"""

from __future__ import annotations

import numpy as np

from glmjobs.errors import WorkFailed
from glmjobs.zero.checkpoint import Checkpoint, read_values
from glmjobs.zero.dtypes import round_to, to_float32
from glmjobs.zero.layout import Tensor, Vector

WINDOW = 16  # elements compared at a place
PLACES = 6  # places of each parameter, the first and last element among them


def cross_check(checkpoint: Checkpoint) -> int:
    """Compare samples; how many parameters were compared.

    Raises:
        WorkFailed: naming the first parameter whose copy differs, and the file its values came from.
    """
    compared = 0
    for name, copy in checkpoint.comparisons.items():
        tensor = checkpoint.tensors[checkpoint.aliases.get(name, name)]
        if tensor.dtype not in ("F32", copy.dtype) or not tensor.numel:
            continue
        for start in np.unique(np.linspace(0, max(0, tensor.numel - WINDOW), PLACES).astype(int)):
            _compare(tensor, copy, int(start))
        compared += 1
    return compared


def _compare(tensor: Tensor, copy: Tensor, start: int) -> None:
    count = min(WINDOW, tensor.numel - start)
    extents = Vector(tensor.extents).cut(start, count)
    values = np.concatenate([read_values(extent) for extent in extents])
    expected = np.concatenate([read_values(extent) for extent in Vector(copy.extents).cut(start, count)])
    rounded = _as_stored(values, copy.dtype)
    if not np.array_equal(rounded, expected, equal_nan=True):
        raise WorkFailed(
            f"{extents[0].file}: {tensor.name} differs from the checkpoint's own copy in "
            f"{copy.extents[0].file.name} (at element {start}): files of different steps, runs or ranks"
        )


def _as_stored(
    values: np.ndarray[tuple[int], np.dtype[np.float32]], dtype: str
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """float32 values rounded to the copy's type and back."""
    if dtype not in ("F16", "BF16"):
        return values
    return to_float32(round_to(values, dtype)[0], dtype)
