"""Attention of the models here, and the ways in which that of packed rows may be computed.

All ways are one function, to rounding. Which is fastest depends on the device:
:mod:`glmjobs.models.common.attention_ways` measures it.

- ``pieces``: a call for each example, nothing computed between examples. A row of 1024 positions with seven examples
  has a mask of 1024 x 1024, of which the examples need a seventh.
- ``whole``: one call for all rows under the whole mask. Most of what it computes is thrown away, but a GPU is given one
  kernel a layer, where starting one for each example takes longer than computing it.
- ``flex``: FlexAttention (torch 2.5 and later): one compiled kernel that skips the mask's empty blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from glmjobs import compat

WAYS = ("pieces", "whole", "flex")


def split_heads(projected: Tensor, heads: int) -> Tensor:
    """[B, L, heads * D] to [B, heads, L, D]."""
    batch, length, width = projected.shape
    return projected.view(batch, length, heads, width // heads).transpose(1, 2)


@dataclass(frozen=True)
class Pieces:
    """Packed rows cut into their examples.

    Attributes:
        sizes: positions of each piece of the flattened [B * L], in order; negative for a run of padding.
        masks: [1, 1, n, n] bool a piece, True where a row sees a column; None for padding.
    """

    sizes: Sequence[int]
    masks: Sequence[Tensor | None]

    @classmethod
    def of(cls, visible: Tensor, sizes: Sequence[int]) -> Pieces:
        """Cut the mask of whole rows, [B, 1, L, L] bool.

        Raises:
            ValueError: the sizes don't add up to the batch's positions, or a piece reaches over a row's end.
        """
        batch, _, length, _ = visible.shape
        masks: list[Tensor | None] = []
        at = 0
        for size in sizes:
            row, column = divmod(at, length)
            end = column + abs(size)
            if size == 0 or row >= batch or end > length:
                raise ValueError(f"segment_sizes: {size} at position {at} of {batch} rows of {length}")
            masks.append(visible[row : row + 1, :, column:end, column:end] if size > 0 else None)
            at += abs(size)
        if at != batch * length:
            raise ValueError(f"segment_sizes: {at} positions of {batch} rows of {length}")
        return cls(sizes, masks)


@dataclass(frozen=True)
class Blocks:
    """The mask of whole rows in FlexAttention's form: torch's BlockMask, of [B, 1, L, L]."""

    mask: Any

    @classmethod
    def of(cls, visible: Tensor) -> Blocks:
        """From the mask of whole rows, [B, 1, L, L] bool."""
        from torch.nn.attention.flex_attention import create_block_mask

        def sees(batch: Tensor, _head: Tensor, row: Tensor, column: Tensor) -> Tensor:
            return visible[batch, 0, row, column]

        batch, _, length, _ = visible.shape
        return cls(create_block_mask(sees, batch, None, length, length, device=visible.device))


def block_diagonal(segment_ids: Tensor) -> Tensor:
    """The causal mask of packed rows [B, L]: [B, 1, L, L] bool, True where a row sees a column of its own example.

    Padding (0) sees only padding, itself included, so that no row is empty.
    """
    column = torch.arange(segment_ids.shape[1], device=segment_ids.device)
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    return (same & (column[None, :] <= column[:, None])).unsqueeze(1)


def in_form(visible: Tensor, way: str | None, sizes: Sequence[int] | None) -> Tensor | Pieces | Blocks:
    """The mask of packed rows, [B, 1, L, L] bool, as ``way`` takes it.

    Args:
        way: None: by piece on a CPU, under the whole mask on a GPU.
        sizes: of the pieces; None where they are not known: then under the whole mask.
    """
    way = way or default_way(visible.device)
    if way == "flex":
        return Blocks.of(visible)
    return visible if way == "whole" or sizes is None else Pieces.of(visible, sizes)


def default_way(device: torch.device) -> str:
    """What is fastest where nothing was measured."""
    return "whole" if device.type == "cuda" else "pieces"


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visible: Tensor | Pieces | Blocks,
    cache: Any,
    layer: int,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(q k^T / sqrt(D)) v over the visible columns, with the cache's keys and values before these.

    Args:
        query: [B, heads, Q, D] of the new tokens.
        key, value: of as many heads, or of a few that are each shared by as many neighbouring heads of the query.
        visible: [B, 1, Q, K] bool, True where a row sees a column; K counts the cached tokens too. Or packed rows' in
            another form (then there is no cache).
        cache: transformers' cache, extended in place, or None.
        layer: the block's index, from 0.
        dropout: of the attention probabilities; FlexAttention has none.

    Returns:
        [B, Q, heads * D].
    """
    if cache is not None:
        key, value = cache.update(key, value, layer)
    if (shared := query.shape[1] // key.shape[1]) > 1 and not isinstance(visible, Blocks):
        key, value = (t.repeat_interleave(shared, dim=1) for t in (key, value))
    if isinstance(visible, Pieces):
        return _attend_pieces(query, key, value, visible, dropout)
    if isinstance(visible, Blocks):
        mixed = attend_blocks(query, key, value, visible)
    else:
        mixed = _softmax_attention(query, key, value, visible, dropout)
    batch, _, length, _ = mixed.shape
    return mixed.transpose(1, 2).reshape(batch, length, -1)


def _softmax_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """torch's attention under a mask, by a way on which float16 does not overflow.

    Before torch 2.1 a GPU has no kernel for attention under a mask: torch then computes the scores as they stand, in
    float16, where one above 65,504 is infinite, and its row NaN. The originals shrink them first (by the layer's number
    in ChatGLM-6B's modeling_chatglm.py, by a constant in GLM's); here by 32 (PB-relax; Ding et al. 2021, CogView,
    section 2.4), and undone once the largest is taken off, which a softmax does not notice.
    """
    if compat.MASKED_ATTENTION_ON_GPUS or not query.is_cuda or query.dtype != torch.float16:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return relaxed_attention(query, key, value, mask, dropout)


RELAX = 32.0


def relaxed_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """[B, heads, Q, D], as :func:`torch.nn.functional.scaled_dot_product_attention` with a bool mask; no row is
    empty."""
    scores = (query / (RELAX * query.shape[-1] ** 0.5)) @ key.transpose(-1, -2)
    scores = scores.masked_fill(~mask, float("-inf"))
    shares = ((scores - scores.detach().amax(-1, keepdim=True)) * RELAX).softmax(-1)
    return F.dropout(shares, dropout) @ value


def in_pieces(states: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """[B, heads, L, D] as one [1, heads, n, D] for each of the sizes (their signs don't count), row after row."""
    batch, heads, length, width = states.shape
    flat = states.transpose(1, 2).reshape(1, batch * length, heads, width).transpose(1, 2)
    # One split a tensor: its backward is one concatenation, where slices would each fill a whole tensor with zeros.
    parts: tuple[Tensor, ...] = flat.split([abs(size) for size in sizes], dim=2)
    return parts


def _attend_pieces(query: Tensor, key: Tensor, value: Tensor, pieces: Pieces, dropout: float) -> Tensor:
    """[B, L, heads * D]. Padding sees only itself, so its output is its value, as under the whole mask."""
    batch, heads, length, width = query.shape
    parts = [in_pieces(t, pieces.sizes) for t in (query, key, value)]
    mixed = [
        v if mask is None else _softmax_attention(q, k, v, mask, dropout)
        for q, k, v, mask in zip(*parts, pieces.masks, strict=True)
    ]
    return torch.cat([m.transpose(1, 2) for m in mixed], dim=1).reshape(batch, length, heads * width)


def attend_blocks(
    query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, scale: float | None = None
) -> Tensor:
    """FlexAttention: [B, heads, L, D] of queries of that shape and keys and values of as many heads or fewer."""
    out: Tensor = _flex(query.is_cuda)(
        query, key, value, block_mask=blocks.mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )
    return out


@cache
def _flex(compiled: bool) -> Any:
    """Compiled it is a kernel; as it stands, and on a CPU, it is torch's slow reference of the same function."""
    from torch.nn.attention.flex_attention import flex_attention

    function: Any = flex_attention
    return torch.compile(function, dynamic=False) if compiled else function
