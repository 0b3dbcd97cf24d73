"""Holding the consolidated parameters against the checkpoint's own half-precision copy of them.

ZeRO-1 and 2 keep the model's weights beside the float32 shards; the Trainer gathers them into
model.safetensors. Both are the shards' values, rounded. A sample of every parameter, its ends included, is
compared bit by bit: a shard of another rank, run or step, or a layout read wrongly, does not survive that.
"""

from __future__ import annotations

import numpy as np

from glmjobs.zero.checkpoint import Checkpoint
from glmjobs.zero.checksums import check_whole
from glmjobs.zero.dtypes import FLOATING, round_to, to_float32
from glmjobs.zero.layout import Tensor, Vector
from glmjobs.zero.weights import read_values
from hpc.core.errors import WorkFailed

WINDOW = 16  # elements compared at a place
PLACES = 6  # places of each parameter, the first and last element among them


def cross_check(checkpoint: Checkpoint) -> int:
    """Compare samples; how many parameters were compared.

    Raises:
        WorkFailed: naming the first parameter whose copy differs, and the file its values came from; or the
            optimizer made another number of steps than the model.
    """
    if checkpoint.suspicion is not None:
        raise WorkFailed(checkpoint.suspicion)
    compared = 0
    for name, copy in checkpoint.comparisons.items():
        tensor = checkpoint.tensors[checkpoint.aliases.get(name, name)]
        if tensor.dtype not in ("F32", copy.dtype) or not tensor.numel:
            continue
        start = _difference(tensor, copy)
        if start is not None:
            source = Vector(tensor.extents).cut(start, 1)[0].file
            raise WorkFailed(
                f"{source}: {tensor.name} differs from the checkpoint's own copy in "
                f"{copy.extents[0].file.name} (at element {start}): files of different steps, runs or ranks"
            )
        compared += 1
    return compared


def same_values(tensor: Tensor, copy: Tensor) -> bool:
    """Whether a sample of ``copy``, of the same shape, is ``tensor``'s values rounded to its type.

    True where one of them has no floating type: quantised weights cannot be compared.
    """
    if not {tensor.dtype, copy.dtype} <= set(FLOATING) or not tensor.numel:
        return True
    return _difference(tensor, copy) is None


def _difference(tensor: Tensor, copy: Tensor) -> int | None:
    """The element where the first window of the sample that differs begins.

    Raises:
        WorkFailed: they differ because one of them is damaged.
    """
    for place in np.unique(np.linspace(0, max(0, tensor.numel - WINDOW), PLACES).astype(int)):
        start, count = int(place), min(WINDOW, tensor.numel - int(place))
        values, expected = (
            np.concatenate([read_values(extent) for extent in Vector(side.extents).cut(start, count)])
            for side in (tensor, copy)
        )
        if not np.array_equal(_as_stored(values, copy.dtype), expected, equal_nan=True):
            check_whole(dict.fromkeys(extent.member for side in (tensor, copy) for extent in side.extents))
            return start
    return None


def _as_stored(
    values: np.ndarray[tuple[int], np.dtype[np.float32]], dtype: str
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """float32 values rounded to the copy's type and back."""
    if dtype not in ("F16", "BF16"):
        return values
    return to_float32(round_to(values, dtype)[0], dtype)
