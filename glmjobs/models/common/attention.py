"""Attention shared by the GLM architectures: one call, masked by position or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def split_heads(projected: Tensor, heads: int) -> Tensor:
    """[B, L, heads * D] to [B, heads, L, D]."""
    batch, length, width = projected.shape
    return projected.view(batch, length, heads, width // heads).transpose(1, 2)


@dataclass(frozen=True)
class Pieces:
    """Packed rows cut into their examples: attention inside each, nothing computed between them.

    A row of 1024 positions with seven examples has a mask of 1024 x 1024, of which the examples need a seventh; the
    rest costs as much and is thrown away.

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


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visible: Tensor | Pieces,
    cache: Any,
    layer: int,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(q k^T / sqrt(D)) v over the visible columns, with the cache's keys and values before these.

    Args:
        query, key, value: [B, heads, Q, D] of the new tokens.
        visible: [B, 1, Q, K] bool, True where a row sees a column; K counts the cached tokens too. Or the pieces of
            packed rows (then there is no cache).
        cache: transformers' cache, extended in place, or None.
        layer: the block's index, from 0.
        dropout: of the attention probabilities.

    Returns:
        [B, Q, heads * D].
    """
    if cache is not None:
        key, value = cache.update(key, value, layer)
    if isinstance(visible, Pieces):
        return _attend_pieces(query, key, value, visible, dropout)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout)
    batch, _, length, _ = mixed.shape
    return mixed.transpose(1, 2).reshape(batch, length, -1)


def _attend_pieces(query: Tensor, key: Tensor, value: Tensor, pieces: Pieces, dropout: float) -> Tensor:
    """[B, L, heads * D]. Padding sees only itself, so its output is its value, as under the whole mask."""
    batch, heads, length, width = query.shape
    sizes = [abs(size) for size in pieces.sizes]
    # One split a tensor: its backward is one concatenation, where slices would each fill a whole tensor with zeros.
    parts = [
        t.transpose(1, 2).reshape(1, batch * length, heads, width).transpose(1, 2).split(sizes, dim=2)
        for t in (query, key, value)
    ]
    mixed = [
        v if mask is None else F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        for q, k, v, mask in zip(*parts, pieces.masks, strict=True)
    ]
    return torch.cat([m.transpose(1, 2) for m in mixed], dim=1).reshape(batch, length, heads * width)
