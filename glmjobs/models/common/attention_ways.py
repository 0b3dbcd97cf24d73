"""Which way the attention of packed rows is computed: the fastest on this device, as measured, or as told.

The ways are those of :mod:`glmjobs.models.common.attention`. They differ in rounding, so a run that must resume bit for
bit keeps the way that it began with: the training stage writes it down.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from glmjobs.models.common.attention import WAYS, Blocks, Pieces, attend, block_diagonal, in_form

ROUNDS = 5  # timed; the two before them warm up, and compile FlexAttention


def possible_ways(device: torch.device) -> tuple[str, ...]:
    """FlexAttention trains on a GPU only, with torch 2.5 or later."""
    has_flex = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 5)
    return WAYS if device.type == "cuda" and has_flex else WAYS[:2]


def set_way(model: nn.Module, way: str | None) -> None:
    """Let all of ``model``'s packed rows be computed so; None: as is usual on the device.

    Raises:
        ValueError: no such way.
    """
    if way is not None and way not in WAYS:
        raise ValueError(f"attention {way!r}: one of {', '.join(WAYS)}")
    for module in model.modules():
        if hasattr(module, "packed_attention"):
            setattr(module, "packed_attention", way)  # noqa: B010 (mypy: Module's __setattr__ takes no str)


def measure(
    segment_ids: Tensor, sizes: Sequence[int], heads: int, width: int, dtype: torch.dtype
) -> dict[str, float]:
    """Seconds of one layer's attention, forward and backward, in each possible way: the least of a few; nan where a
    way fails (FlexAttention needs a compiler on the node).

    Args:
        segment_ids: [B, L] int64 of a packed batch, on the device that is asked about.
        sizes: the batch's ``segment_sizes``.
        heads, width: of the model's queries; random ones are made from a generator of their own.
        dtype: that the model computes in.
    """
    device = segment_ids.device
    visible = block_diagonal(segment_ids)
    generator = torch.Generator(device).manual_seed(0)
    shape = (3, segment_ids.shape[0], heads, segment_ids.shape[1], width)
    states = torch.randn(shape, generator=generator, device=device, dtype=dtype, requires_grad=True)
    seconds = {}
    for way in possible_ways(device):
        try:
            seconds[way] = _least_seconds(states, in_form(visible, way, sizes))
        except Exception:  # whatever a compiler or a kernel raises: the other ways remain
            if way == "whole":  # the one that every torch has: not the way's fault
                raise
            seconds[way] = math.nan
    return seconds


def fastest(seconds: dict[str, float]) -> str:
    """The way of the least time; of those within 5 % of it the simplest."""
    least = min(value for value in seconds.values() if not math.isnan(value))
    return next(way for way in ("whole", "pieces", "flex") if seconds.get(way, math.nan) <= 1.05 * least)


def _least_seconds(states: Tensor, visible: Tensor | Pieces | Blocks) -> float:
    """Of :data:`ROUNDS` passes, after two that warm up."""
    times = []
    for _ in range(2 + ROUNDS):
        start = time.perf_counter()
        query, key, value = states
        attend(query, key, value, visible, cache=None, layer=0).sum().backward()
        if states.is_cuda:
            torch.cuda.synchronize(states.device)
        times.append(time.perf_counter() - start)
    return min(times[2:])
