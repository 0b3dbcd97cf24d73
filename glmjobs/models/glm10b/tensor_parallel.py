"""GLM-10B's weights over model-parallel ranks: how each tensor is cut, and how the pieces make it again.

THUDM/GLM trains with Megatron's tensor parallelism (Shoeybi et al. 2019, section 3). A rank holds

- ``rows``: a run of rows of a matrix whose outputs are distributed (word embedding, h_to_4h and its bias);
- ``thirds``: such a run of each of query, key and value (their projection stacks the three);
- ``columns``: a run of columns of a matrix whose inputs are distributed (attention output, 4h_to_h);
- ``whole``: everything else (norms, position tables, biases added after the sum), the same on every rank.

No torch: tensors are places in files, see :mod:`glmjobs.zero.layout`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from glmjobs.zero.dtypes import SIZE
from glmjobs.zero.layout import Extent, Tensor
from hpc.core.errors import BadInput

Cut = Literal["rows", "thirds", "columns", "whole"]
_CHUNK = 1 << 20
HEAD_WIDTH = 64  # of every published GLM, from base (768 in 12 heads) to 10B (4096 in 64)


def cut_of(name: str) -> Cut:
    """How the tensor of that name (with or without ``glm.``) is distributed."""
    name = name.removeprefix("glm.")
    if ".query_key_value." in name:
        return "thirds"
    if name == "word_embeddings.weight" or ".dense_h_to_4h." in name:
        return "rows"
    if name.endswith((".attention.dense.weight", ".dense_4h_to_h.weight")):
        return "columns"
    return "whole"


def merged(name: str, parts: Sequence[Tensor]) -> Tensor:
    """The whole tensor out of each rank's part, in order of rank. Parts have one extent each.

    Raises:
        BadInput: shapes or types differ between ranks, or a ``whole`` tensor's values do.
    """
    first = parts[0]
    for part in parts[1:]:
        if part.shape != first.shape or part.dtype != first.dtype:
            raise BadInput(
                f"{part.extents[0].file}: {name} is {part.dtype} {list(part.shape)}, "
                f"on rank 0 it is {first.dtype} {list(first.shape)}"
            )
    cut, runs = cut_of(name), [part.extents[0] for part in parts]
    if cut == "whole":
        for run in runs[1:]:
            if not _same(runs[0], run):
                raise BadInput(f"{run.file}: {name} differs from rank 0's, but every rank holds all of it")
        return Tensor(name, first.shape, (runs[0],))
    rows, *rest = first.shape
    if cut == "columns":
        width = math.prod(rest)
        extents = tuple(run.part(row * width, width) for row in range(rows) for run in runs)
        return Tensor(name, (rows, rest[0] * len(parts), *rest[1:]), extents)
    pieces = 3 if cut == "thirds" else 1
    count = runs[0].count // pieces
    if rows % pieces:
        raise BadInput(f"{runs[0].file}: {name} has {rows} rows, which are not query, key and value alike")
    extents = tuple(run.part(piece * count, count) for piece in range(pieces) for run in runs)
    return Tensor(name, (rows * len(parts), *rest), extents)


def part_of(tensor: Tensor, rank: int, ranks: int) -> Tensor:
    """The part of a whole tensor (one extent) that model-parallel ``rank`` of ``ranks`` holds.

    Raises:
        BadInput: it can't be cut evenly.
    """
    cut, (run,) = cut_of(tensor.name), tensor.extents
    if cut == "whole":
        return tensor
    pieces = 3 if cut == "thirds" else 1
    axis = 1 if cut == "columns" else 0
    if tensor.shape[axis] % (ranks * pieces):
        raise BadInput(
            f"{run.file}: {tensor.name} {list(tensor.shape)} can't be cut into {ranks} equal parts"
        )
    shape = tuple(n // ranks if i == axis else n for i, n in enumerate(tensor.shape))
    if cut == "columns":
        pieces = shape[0]
    count = math.prod(shape) // pieces
    extents = tuple(run.part((piece * ranks + rank) * count, count) for piece in range(pieces))
    return Tensor(tensor.name, shape, extents)


def _same(one: Extent, other: Extent) -> bool:
    """Whether two extents of the same length hold the same bytes."""
    with Path(one.file).open("rb") as a, Path(other.file).open("rb") as b:
        a.seek(one.offset)
        b.seek(other.offset)
        left = one.count * SIZE[one.dtype]
        while left:
            size = min(left, _CHUNK)
            if a.read(size) != b.read(size):
                return False
            left -= size
    return True


def config_of(shapes: dict[str, tuple[int, ...]], where: Path, heads: int | None) -> dict[str, Any]:
    """The config.json that a checkpoint's shapes imply; special ids follow from the vocabulary's size.

    Args:
        shapes: of all tensors, by name with ``glm.``.
        where: the checkpoint, for messages.
        heads: attention heads; None: the width over :data:`HEAD_WIDTH`.

    Raises:
        BadInput: tensors that no GLM has, or heads that don't divide the width.
    """
    try:
        vocabulary, hidden = shapes["glm.word_embeddings.weight"]
        positions, _ = shapes["glm.transformer.position_embeddings.weight"]
        shapes["glm.transformer.block_position_embeddings.weight"]
    except KeyError as error:
        raise BadInput(
            f"{where}: no {error.args[0].removeprefix('glm.')}: not a GLM with block positions"
        ) from None
    layers = {name.split(".")[3] for name in shapes if name.startswith("glm.transformer.layers.")}
    if heads is None:
        heads = max(1, hidden // HEAD_WIDTH)
    if heads < 1 or hidden % heads:
        raise BadInput(f"--heads {heads}: the model's width, {hidden}, is not a multiple of it")
    return {
        "architectures": ["GLMForCausalLM"],
        "model_type": "glm10b",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_layers": len(layers),
        "num_attention_heads": heads,
        "max_sequence_length": positions - 1,
        "block_position_encoding": True,
        "relative_encoding": False,
        "attention_scale": 1.0,
        "output_predict": True,
    }
