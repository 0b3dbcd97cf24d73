"""Which type a model's weights take where there is no GPU, and whether this machine's memory holds them: asked before
they load, since the kernel kills what takes too much without a word."""

from __future__ import annotations

from pathlib import Path

import torch

from glmjobs.models.family import family_for, read_config
from hpc.core.errors import BadInput, NotFit
from hpc.core.process import available_memory

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
OVERHEAD = 1.1
"""Over the weights: while they are cast the largest of them is there twice (9 % of ChatGLM-6B, its embedding)."""


def choose(model_dir: Path, wanted: str | None, side_by_side: int = 1) -> str:
    """The type of the weights on this CPU: ``wanted``; else float32 where it fits, else bfloat16.

    Args:
        side_by_side: processes of this node that load the model.

    Raises:
        BadInput: torch cannot compute in ``wanted`` here.
        NotFit: the memory that is available does not hold the weights.
    """
    if wanted is not None and not computes(wanted):
        raise BadInput(f"--dtype {wanted}: torch computes none on this CPU; --dtype float32 works everywhere")
    count = family_for(model_dir).architecture(read_config(model_dir)).parameters
    room = available_memory()
    ways = [wanted] if wanted else ["float32", *(["bfloat16"] if computes("bfloat16") else [])]
    needs = {dtype: int(count * BYTES[dtype] * OVERHEAD * side_by_side) for dtype in ways}
    fitting = next((dtype for dtype in ways if needs[dtype] <= room), None)
    if fitting is None:
        least = min(ways, key=lambda dtype: needs[dtype])
        several = f" {side_by_side} times" if side_by_side > 1 else ""
        raise NotFit(
            f"{model_dir}: without a GPU its {count / 1e9:.1f} billion parameters take {needs[least] / 1e9:.1f} GB of "
            f"memory in {least}{several}, and {room / 1e9:.1f} GB are available here; take a GPU, or a machine "
            "(a job) with more memory"
        )
    return fitting


def computes(dtype: str) -> bool:
    """Whether torch multiplies matrices of this type on this CPU; torch 2.0 has no float16 there."""
    if dtype == "bfloat16":
        supported = getattr(
            torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None
        )  # torch 2.0 has no such question
        if supported is None or not supported():
            return False  # torch would compute it without the CPU's vectors, a hundred times slower
    try:
        one = torch.ones(1, 1, dtype=getattr(torch, dtype))
        torch.nn.functional.linear(one, one)
    except RuntimeError:
        return False
    return True
