"""Which way the attention of packed rows is computed: the fastest on this device, as measured, or as told.

The ways are those of :mod:`glmjobs.models.common.attention`. They differ in rounding, so a run that must resume bit for
bit keeps the way that it began with: :mod:`glmjobs.training.attention` writes it down.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from glmjobs.compat import FLEX_ATTENTION
from glmjobs.models.common.attention import WAYS
from glmjobs.models.common.compiled import compile_parts

ROUNDS, SECONDS = 5, 2.0
"""So many passes are timed, or as many as begin within so long. Two before them warm up, and compile FlexAttention."""


def possible_ways(device: torch.device, config: Any = None) -> tuple[str, ...]:
    """FlexAttention trains on a GPU only, with torch 2.5 or later, and has no dropout of attention.

    Args:
        config: of the model; None: one without such dropout.
    """
    drops = any(getattr(config, name, 0) for name in ("attention_dropout_prob", "attention_dropout"))
    return WAYS if device.type == "cuda" and FLEX_ATTENTION and not drops else WAYS[:2]


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
    model: Any, batch: Mapping[str, Any], ways: Sequence[str], *, compiled: bool = False
) -> dict[str, float]:
    """Seconds of a forward and backward pass of one layer in each of these ways: the least of a few; nan where a way
    fails (FlexAttention needs a compiler on the node).

    Args:
        model: its class, its layers' sizes, its type and device are those of the layer, whose weights are random.
        batch: packed rows as training gets them, with ``segment_sizes`` and ``target_positions``, on the device.
        compiled: the layer as :mod:`glmjobs.models.common.compiled` makes it; what fails then is raised.
    """
    device = batch["input_ids"].device
    seconds = {}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        layer = _one_layer(model, device)
        if compiled:
            compile_parts(layer)
        for way in ways:
            set_way(layer, way)
            try:
                seconds[way] = _least_seconds(layer, batch)
            except Exception:  # whatever a compiler or a kernel raises: the other ways remain
                if compiled or way == "whole":  # the one that every torch has: not the way's fault
                    raise
                seconds[way] = math.nan
    return seconds


def fastest(seconds: Mapping[str, float]) -> str:
    """The way of the least time; of those within 5 % of it the simplest."""
    least = min(value for value in seconds.values() if not math.isnan(value))
    return next(way for way in ("whole", "pieces", "flex") if seconds.get(way, math.nan) <= 1.05 * least)


def _one_layer(model: Any, device: torch.device) -> Any:
    """A model like ``model`` with one layer, its embedding (and a tied output matrix) without gradients."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = 1
    with device:
        layer = type(model)(config).to(model.dtype).train()
    layer.get_input_embeddings().requires_grad_(False)
    layer.get_output_embeddings().requires_grad_(False)
    return layer


def _least_seconds(layer: Any, batch: Mapping[str, Any]) -> float:
    """Of a few passes, after two that warm up. One target alone: the output matrix is every way's, and costs
    as much as some layers."""
    one_target = {**batch, "target_positions": batch["target_positions"][:1], "num_items_in_batch": 1}
    cuda = batch["input_ids"].is_cuda
    times: list[float] = []
    while len(times) < 3 or (len(times) < 2 + ROUNDS and sum(times[2:]) < SECONDS):
        start = time.perf_counter()
        layer(**one_target).loss.backward()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        layer.zero_grad(set_to_none=True)
    return min(times[2:])
